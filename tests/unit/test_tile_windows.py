"""Small tiles that are cut from common windows are the tiles that the source gives one by one."""

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import CountingStore

from tilewright.errors import SourceError
from tilewright.model.tile_windows import TileWindows
from tilewright.plan import WritePlan, plan_write
from tilewright.sources.opening import open_source
from tilewright.sources.source import Source

IMAGE = np.random.default_rng(5).integers(0, 60_000, (2, 3, 9, 40, 47)).astype("uint16")


def tiles_of(source: Source, plan: WritePlan, window_nbytes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each tile, cut from a window and read by itself."""
    windows = TileWindows(source, window_nbytes)
    pairs = []
    for unit in range(plan.unit_count):
        together = plan.tiles_starting_in(unit)
        for tile in together:
            (cut,) = windows.read(plan, (tile,), together)
            pairs.append((cut, source.read_tile(plan.axes, plan.tilings, plan.tile_position(tile))))
    return pairs


@settings(max_examples=40)
@given(
    axes=st.sampled_from(["TCZYX", "SCZYX"]),
    tile=st.tuples(st.integers(2, 12), st.integers(4, 60), st.integers(4, 20)),
    layout=st.sampled_from(["compact", "aligned"]),
    window_nbytes=st.sampled_from([1, 3_000, 20_000, 2**24]),
)
def test_tiles_that_are_cut_from_windows_are_those_of_the_source(
    axes: str, tile: tuple[int, ...], layout: str, window_nbytes: int
) -> None:
    source = open_source(IMAGE, axes)
    overlap = tuple(size // 3 for size in tile)
    plan = plan_write(IMAGE.shape, axes, tile, overlap, layout=layout, chunks=(3, 16, 16), memory_nbytes=2**30)
    for cut, read in tiles_of(source, plan, window_nbytes):
        np.testing.assert_array_equal(cut, read)
        assert cut.flags.owndata
        assert cut.flags.writeable


def test_a_stored_object_is_read_once_for_all_small_tiles_of_a_unit() -> None:
    store = CountingStore()
    zarr.create_array(store, data=IMAGE[0, 0, 0], chunks=(20, 24))
    source = open_source(zarr.open_array(store, mode="r+"), "YX")
    plan = plan_write((40, 47), "YX", (8, 8), (4, 4), chunks=(40, 47))
    store.gets.clear()
    together = plan.tiles_starting_in(0)
    windows = TileWindows(source)
    for tile in together:
        windows.read(plan, (tile,), together)
    assert len(together) > 50
    assert {key: count for key, count in store.gets.items() if key.startswith("c/")} == dict.fromkeys(
        ("c/0/0", "c/0/1", "c/1/0", "c/1/1"), 1
    )


def test_what_is_damaged_costs_the_tiles_that_need_it(tmp_path: Any) -> None:
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE[0, 0, 0], chunks=(20, 24))
    (tmp_path / "raw.zarr/c/1/1").write_bytes(b"damaged")
    source = open_source(tmp_path / "raw.zarr", "YX")
    plan = plan_write((40, 47), "YX", (8, 8), (4, 4), chunks=(40, 47))
    together, windows, failed = plan.tiles_starting_in(0), TileWindows(source), 0
    for tile in together:
        reads = [tiling.read(index) for tiling, index in zip(plan.tilings, plan.tile_position(tile), strict=True)]
        if reads[0][1] > 20 and reads[1][1] > 24:
            failed += 1
            with pytest.raises(SourceError, match=r"raw\.zarr"):
                windows.read(plan, (tile,), together)
        else:
            windows.read(plan, (tile,), together)
    assert 0 < failed < len(together)
