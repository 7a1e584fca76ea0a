"""A plan is executed as it was printed, or is refused before anything is made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client
from tests.support import stored_files
from zarr.core.sync import sync
from zarr.storage import MemoryStore

import tilewright as tw
from tilewright.errors import ResumeError

IMAGE = np.random.default_rng(7).integers(0, 999, (3, 90, 70)).astype("float32")
TILES: dict[str, Any] = {"axes": "CYX", "tile_size": (32, 32), "overlap": (8, 8)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "aligned", "chunks": (24, 24)},
        {"chunks": (16, 12), "shards": (32, 24), "dtype": "uint16"},
        {"memory_nbytes": 200_000},
    ],
)
def test_a_plan_gives_the_bytes_of_its_keywords(options: dict[str, Any], tmp_path: Path) -> None:
    plan = tw.plan_write(IMAGE, **TILES, **options)
    shown: list[tw.WritePlan] = []
    tw.predict_to_zarr(np.abs, IMAGE, tmp_path / "a" / "o.zarr", **TILES, **options, progress=False)
    report = tw.predict_to_zarr(
        np.abs, IMAGE, tmp_path / "b" / "o.zarr", plan=plan, progress=False, on_plan=shown.append
    )
    assert report.plan == plan == shown[0]
    assert str(report.plan) == str(plan)
    assert stored_files(tmp_path / "a" / "o.zarr") == stored_files(tmp_path / "b" / "o.zarr")


def test_a_source_and_its_shape_have_one_plan(tmp_path: Path) -> None:
    zarr.save_array(str(tmp_path / "raw.zarr"), IMAGE)
    by_shape = tw.plan_write(IMAGE.shape, **TILES)
    assert tw.plan_write(IMAGE, **TILES) == tw.plan_write(tmp_path / "raw.zarr", **TILES) == by_shape
    assert tw.plan_write(np.array(IMAGE.shape), **TILES) == by_shape


def test_a_plan_that_was_stopped_goes_on(tmp_path: Path, two_processes: Client) -> None:
    plan = tw.plan_write(IMAGE, **TILES)
    output = tmp_path / "o.zarr"
    for if_exists in ("fail", "resume"):
        report = tw.predict_to_zarr(
            np.abs, IMAGE, output, plan=plan, if_exists=if_exists, progress=False, client=two_processes
        )
    assert report.kept_unit_count == plan.unit_count
    other = tw.plan_write(IMAGE, "CYX", (40, 40), (8, 8))
    with pytest.raises(ResumeError, match="tile size"):
        tw.predict_to_zarr(np.abs, IMAGE, output, plan=other, if_exists="resume", progress=False)


@pytest.mark.parametrize(
    ("image", "model", "options", "error", "match"),
    [
        (IMAGE[:, 1:], np.abs, {}, ValueError, r"shape \(3, 90, 70\).*shape \(3, 89, 70\)"),
        (IMAGE, lambda batch: batch[:, :1], {}, ValueError, "plan has 3 channels.*channels=1"),
        (IMAGE, lambda batch: batch.astype("uint8"), {}, ValueError, "float32.*uint8"),
        (IMAGE, np.abs, {"axes": "CYX"}, TypeError, "axes cannot be given beside plan="),
        (IMAGE, np.abs, {"chunks": (8, 8), "memory_nbytes": 5}, TypeError, "chunks, memory_nbytes cannot be given"),
    ],
)
def test_what_a_plan_was_not_made_for_is_refused(
    image: np.ndarray, model: Any, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    store = MemoryStore()
    with pytest.raises(error, match=match):
        tw.predict_to_zarr(model, image, store, plan=tw.plan_write(IMAGE, **TILES), progress=False, **options)
    assert sync(store.is_empty(""))


def test_a_plan_that_plan_write_did_not_make_is_refused() -> None:
    plan = tw.WritePlan.from_dict(tw.plan_write(IMAGE, **TILES).to_dict())
    with pytest.raises(ValueError, match="not made by plan_write"):
        tw.predict_to_zarr(np.abs, IMAGE, MemoryStore(), plan=plan, progress=False)
    with pytest.raises(TypeError, match="must be a WritePlan"):
        tw.predict_to_zarr(np.abs, IMAGE, MemoryStore(), plan="plan", progress=False)
    with pytest.raises(TypeError, match="tile_size, overlap must be given, or plan="):
        tw.predict_to_zarr(np.abs, IMAGE, MemoryStore(), axes="CYX", progress=False)


def test_a_series_belongs_to_a_source() -> None:
    with pytest.raises(ValueError, match="series and read_source_func are of a source"):
        tw.plan_write((64, 64), "YX", (32, 32), (8, 8), series=1)
