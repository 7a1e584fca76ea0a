"""Hypothesis strategies that several test modules share."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tilewright.errors import GeometryError
from tilewright.geometry import AxisUnits, cells_end_on_borders
from tilewright.geometry.footprint import touched_elements, waiting_elements
from tilewright.plan import WritePlan, plan_write
from tilewright.plan.choice.levels import unit_borders, with_coarser_levels


def in_small_units(plan: WritePlan, window_nbytes: int = 1) -> WritePlan:
    """The same plan, in the smallest units and the smallest window: a small image would be one unit otherwise."""
    borders = unit_borders(plan.arrays[0].stored_extents, plan.factors)
    units = tuple(
        AxisUnits.around_tiles(tiling, border, 1)
        if cells_end_on_borders(tiling, border)
        else AxisUnits(tiling.extent, border)
        for tiling, border in zip(plan.tilings, borders, strict=True)
    )
    plan = replace(plan, arrays=with_coarser_levels(replace(plan.arrays[0], units=units), plan.factors))
    return replace(
        plan,
        waiting_nbytes=waiting_elements(plan.tilings, units) * plan.itemsize + plan.coarser_waiting_nbytes,
        window_nbytes=max(window_nbytes, touched_elements(plan.tilings, units) * plan.itemsize),
    )


def plan_with_levels(wanted: int, **request: Any) -> WritePlan:
    """Plan as many levels as are wanted, or as the image can be halved."""
    for levels in range(wanted, 1, -1):
        with suppress(GeometryError):
            return plan_write(**request, levels=levels)
    return plan_write(**request)


LEVELS = st.sampled_from([1, 1, 2, 3])


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
    plan = plan_with_levels(
        draw(LEVELS),
        shape=shape,
        axes=axes,
        tile_size=tile_size,
        overlap=overlap,
        layout=draw(st.sampled_from(["auto", "compact", "aligned"])),
        chunks=chunks,
        shards=shards,
        dtype=draw(st.sampled_from(["float32", "uint8", "int32", "float16"])),
        channels=channels,
        window_nbytes=window_nbytes,
    )
    return in_small_units(plan, window_nbytes or 1) if draw(st.booleans()) else plan
