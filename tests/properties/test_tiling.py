"""The tiles of one axis, whatever its extent, tile, overlap and border."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.errors import GeometryError
from tilewright.geometry import AxisTiling


@st.composite
def axis_tilings(draw: st.DrawFn, max_extent: int = 200) -> AxisTiling:
    tile = draw(st.integers(1, 48))
    return AxisTiling(
        extent=draw(st.integers(1, max_extent)),
        tile=tile,
        overlap=draw(st.integers(0, tile - 1)),
        border=draw(st.integers(1, 80)),
    )


def reference_compact(extent: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """The specification's words, tile by tile."""
    step, hi = tile - overlap, overlap - overlap // 2
    valid: list[tuple[int, int]] = []
    start = 0
    while start + tile < extent:
        valid.append((valid[-1][1] if valid else 0, start + tile - hi))
        start += step
    valid.append((valid[-1][1] if valid else 0, extent))
    return valid


def reference_aligned(extent: int, tile: int, overlap: int, border: int) -> list[tuple[int, int]]:
    """The design's words, tile by tile."""
    lo, hi = overlap // 2, overlap - overlap // 2
    valid: list[tuple[int, int]] = []
    begin = 0
    while True:
        start = max(0, min(begin - lo, extent - tile))
        if start + tile >= extent:
            return [*valid, (begin, extent)]
        reach = start + tile - hi
        end = reach // border * border
        if end <= begin or (begin == 0 and end < lo):
            end = reach
        valid.append((begin, end))
        begin = end


@given(axis_tilings())
def test_valid_regions_partition_the_axis(tiling: AxisTiling) -> None:
    valid = [tiling.valid(index) for index in range(tiling.count)]
    assert valid[0][0] == 0
    assert valid[-1][1] == tiling.extent
    assert all(start < stop for start, stop in valid)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(valid))


@given(axis_tilings())
def test_both_layouts_follow_the_words_of_the_specification(tiling: AxisTiling) -> None:
    compact = AxisTiling(tiling.extent, tiling.tile, tiling.overlap)
    assert [compact.valid(i) for i in range(compact.count)] == reference_compact(
        tiling.extent, tiling.tile, tiling.overlap
    )
    assert [tiling.valid(i) for i in range(tiling.count)] == reference_aligned(
        tiling.extent, tiling.tile, tiling.overlap, tiling.border
    )


@given(axis_tilings())
def test_each_tile_reads_its_valid_region_with_the_whole_halo_inside_the_axis(tiling: AxisTiling) -> None:
    lo, hi = tiling.halo
    for index in range(tiling.count):
        (start, stop), (first, last) = tiling.valid(index), tiling.read(index)
        assert last - first == min(tiling.tile, tiling.extent)
        assert first <= start
        assert stop <= last
        assert first == 0 or start - first >= lo
        assert last == tiling.extent or last - stop >= hi
        crop = tiling.crop(index)
        assert 0 <= crop[0] < crop[1] <= tiling.tile


@given(axis_tilings())
def test_each_element_finds_its_tile(tiling: AxisTiling) -> None:
    owner = np.full(tiling.extent, -1)
    for index in range(tiling.count):
        start, stop = tiling.valid(index)
        owner[start:stop] = index
    assert [tiling.index_at(x) for x in range(tiling.extent)] == owner.tolist()


@given(axis_tilings(), st.data())
def test_an_interval_finds_the_tiles_in_it_and_those_that_start_in_it(tiling: AxisTiling, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, tiling.extent - 1))
    stop = data.draw(st.integers(start + 1, tiling.extent))
    valid = [tiling.valid(i) for i in range(tiling.count)]
    assert list(tiling.indices_in(start, stop)) == [i for i, (a, b) in enumerate(valid) if a < stop and b > start]
    assert list(tiling.starts_in(start, stop)) == [i for i, (a, _) in enumerate(valid) if start <= a < stop]
    assert max(b - a for a, b in valid) <= tiling.largest_valid_extent


@given(axis_tilings())
def test_aligned_valid_regions_end_on_borders_where_a_tile_spans_one(tiling: AxisTiling) -> None:
    if tiling.border > tiling.step:
        return
    ends = [tiling.valid(i)[1] for i in range(tiling.count - 1)]
    assert all(end % tiling.border == 0 for end in ends)


def test_the_example_of_the_specification() -> None:
    tiling = AxisTiling(extent=35, tile=32, overlap=24)
    assert [tiling.valid(i) for i in range(tiling.count)] == [(0, 20), (20, 35)]
    assert [tiling.read(i) for i in range(tiling.count)] == [(0, 32), (3, 35)]


@pytest.mark.parametrize(("tile", "overlap"), [(4, 4), (4, 5), (4, -1), (0, 0)])
def test_an_overlap_that_does_not_fit_the_tile_is_refused_with_the_numbers(tile: int, overlap: int) -> None:
    with pytest.raises(GeometryError, match=str(overlap)):
        AxisTiling(extent=10, tile=tile, overlap=overlap)
