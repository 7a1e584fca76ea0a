"""Hypothesis strategies that several test modules share."""

from dataclasses import replace

from hypothesis import strategies as st

from tilewright.geometry import AxisUnits, cells_end_on_borders
from tilewright.geometry.footprint import touched_elements, waiting_elements
from tilewright.plan import WritePlan, plan_write


def in_small_units(plan: WritePlan, window_nbytes: int = 1) -> WritePlan:
    """The same plan, in the smallest units and the smallest window: a small image would be one unit otherwise."""
    units = tuple(
        AxisUnits.around_tiles(tiling, stored, 1)
        if cells_end_on_borders(tiling, stored)
        else AxisUnits(tiling.extent, stored)
        for tiling, stored in zip(plan.tilings, plan.arrays[0].stored_extents, strict=True)
    )
    return replace(
        plan,
        arrays=(replace(plan.arrays[0], units=units),),
        waiting_nbytes=waiting_elements(plan.tilings, units) * plan.itemsize,
        window_nbytes=max(window_nbytes, touched_elements(plan.tilings, units) * plan.itemsize),
    )


@st.composite
def write_plans(draw: st.DrawFn, most_spatial_axes: int = 3, largest_extent: int = 24) -> WritePlan:
    """Small plans of every kind: both layouts, short axes, odd overlaps, samples, channels, shards."""
    spatial = draw(st.sampled_from(["YX", "ZYX"][: most_spatial_axes - 1]))
    leading = draw(st.sampled_from(["", "S", "T", "C", "SC", "STC"]))
    axes = leading + spatial
    shape = [draw(st.integers(1, 3)) for _ in leading] + [draw(st.integers(1, largest_extent)) for _ in spatial]
    tile_size = [draw(st.integers(1, 12)) for _ in spatial]
    overlap = [draw(st.integers(0, tile - 1)) for tile in tile_size]
    channels = draw(st.sampled_from([None, 1, 2]))
    chunks: list[int] | str = "auto"
    shards: list[int] | str | None = draw(st.sampled_from([None, "auto"]))
    if draw(st.booleans()):
        output_axis_count = len(axes) + (channels is not None and channels > 1 and "C" not in axes)
        chunks = [draw(st.integers(1, 9)) for _ in range(draw(st.sampled_from([output_axis_count, len(spatial)])))]
        shards = draw(st.sampled_from([None, "auto", "given"]))
        if shards == "given":
            shards = [chunk * draw(st.integers(1, 3)) for chunk in chunks]
    window_nbytes = draw(st.sampled_from([None, 1, 500]))
    plan = plan_write(
        shape,
        axes,
        tile_size,
        overlap,
        layout=draw(st.sampled_from(["auto", "compact", "aligned"])),
        chunks=chunks,
        shards=shards,
        dtype=draw(st.sampled_from(["float32", "uint8", "int32", "float16"])),
        channels=channels,
        window_nbytes=window_nbytes,
    )
    return in_small_units(plan, window_nbytes or 1) if draw(st.booleans()) else plan
