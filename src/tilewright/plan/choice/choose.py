"""Choice of layout and units: few tiles are shared between units, at little extra inference.

Units group stored objects up to a size that keeps tasks few and encoding parallel.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

from tilewright.errors import MemoryPlanError
from tilewright.geometry import AxisTiling, AxisUnits
from tilewright.geometry.footprint import (
    straddling_extent,
    touched_elements,
    waiting_elements,
    waiting_elements_in_tile_order,
)
from tilewright.plan.array_plan import ArrayPlan
from tilewright.plan.choice.group import UNIT_NBYTES, choose_units, wanted_unit_nbytes
from tilewright.plan.choice.levels import Factors, level_factors, unit_borders, with_coarser_levels
from tilewright.plan.choice.stored import StoredExtents, stored_extents
from tilewright.plan.describe import format_nbytes
from tilewright.plan.dtypes import dtype_name
from tilewright.plan.pyramid import Pyramid
from tilewright.plan.request import Levels, PlanRequest, Request, check_labels
from tilewright.plan.write_plan import WritePlan

LARGEST_UNIT_NBYTES = 128 * 2**20
"""No tiles are saved by making units larger than this."""
WINDOW_NBYTES = 256 * 2**20
"""Default bytes in flight beyond those that wait: enough to keep some threads busy."""
ALIGNED_LIMIT = 1.1
"""Largest ratio of tiles, aligned to compact, at which ``"auto"`` takes the aligned layout."""
COMPACT_LIMIT_NBYTES = 2**30
"""Bytes held by the compact layout above which the larger ratio holds: memory would grow with the image."""
ALIGNED_LIMIT_FOR_MEMORY = 1.5
"""Largest ratio of tiles where the compact layout holds too much: inference takes longer, memory does not."""


def plan_write(shape: Any, axes: str, tile_size: Any, overlap: Any, **options: Any) -> WritePlan:
    """Plan the writing of the tiled prediction of an image of a shape; as `tilewright.plan_write`."""
    return plan_of(PlanRequest(shape, axes, tile_size, overlap, **options))


def plan_of(request: PlanRequest) -> WritePlan:
    """Return the plan of a request; errors are those of `tilewright.plan_write`."""
    on_output = request.on_output()
    stored = stored_extents(on_output, on_output.compact_tilings(), request.chunks, request.shards)
    layouts = ("compact", "aligned") if request.layout == "auto" else (request.layout,)
    plans = {name: _smallest_that_fits(on_output, name, stored, request.window_nbytes) for name in layouts}
    layout = request.layout
    if layout == "auto":
        layout = _better_layout(plans["compact"], plans["aligned"], request.memory_nbytes)
    return replace(_within_memory(plans[layout], request.memory_nbytes), request=request)


def plan_for_tilings(
    axes: str,
    dtype: object,
    tilings: Sequence[AxisTiling],
    *,
    chunks: Sequence[int] | str = "auto",
    shards: Sequence[int] | str | None = None,
    window_nbytes: int | None = None,
    levels: Levels = 1,
    scale: Sequence[float] | None = None,
    labels: bool = False,
    stored_axes: str | None = None,
) -> WritePlan:
    """Plan the writing of tiles that a dataset cuts, and that arrive in C order of tiles.

    Parameters
    ----------
    axes : str
        The axes of the output, in the order ``STCZYX``.
    dtype : str or NumPy data type
        The data type of the output.
    tilings : sequence of AxisTiling
        The tiles, one tiling per output axis.
    chunks, shards, window_nbytes, levels, scale, labels
        As in `PlanRequest`.
    stored_axes : str, optional
        As in `WritePlan`.

    Returns
    -------
    WritePlan
        The plan. Its figure of waiting tiles holds for tiles in C order.

    Examples
    --------
    >>> plan = plan_for_tilings("YX", "uint8", [AxisTiling(512, 128, 32), AxisTiling(512, 128, 32)])
    >>> plan.tile_count, plan.layout
    (25, 'compact')
    """
    request = Request(
        axes=axes,
        shape=tuple(tiling.extent for tiling in tilings),
        tile_size={name: tiling.tile for name, tiling in zip(axes, tilings, strict=True)},
        overlap={name: tiling.overlap for name, tiling in zip(axes, tilings, strict=True)},
        dtype=dtype_name(dtype),
        levels=levels,
        scale=None if scale is None else tuple(scale),
        labels=labels,
        stored_axes=stored_axes,
    )
    if labels:
        check_labels(request.dtype)
    stored = stored_extents(request, tilings, chunks, shards)
    layout = "compact" if all(tiling.border == 1 for tiling in tilings) else "aligned"
    factors = level_factors(request.axes, request.shape, request.levels, request.scale)
    plan = _plan(request, layout, tuple(tilings), stored, factors, wanted_unit_nbytes(request), window_nbytes)
    waiting = waiting_elements_in_tile_order(plan.tilings, plan.arrays[0].units)
    plan = replace(plan, comes_in_tile_order=True)
    return replace(plan, waiting_nbytes=waiting * request.itemsize + plan.coarser_waiting_nbytes)


def with_memory(plan: WritePlan, memory_nbytes: int | None) -> WritePlan:
    """Return a plan with the same tiles and units for another memory, or raise MemoryPlanError where that is too small.

    Examples
    --------
    >>> plan = plan_write((2048, 2048), "YX", (256, 256), (64, 64), layout="compact")
    >>> plan.peak_live_nbytes, with_memory(plan, 9_000_000).peak_live_nbytes
    (16777216, 9000000)
    """
    least_nbytes = touched_elements(plan.tilings, plan.arrays[0].units) * plan.itemsize
    window_nbytes = WINDOW_NBYTES
    if memory_nbytes is not None:
        window_nbytes = min(window_nbytes, plan.admitted_within(memory_nbytes) - plan.waiting_nbytes)
    return _within_memory(replace(plan, window_nbytes=max(window_nbytes, least_nbytes)), memory_nbytes)


def _smallest_that_fits(request: Request, layout: str, stored: StoredExtents, window_nbytes: int | None) -> WritePlan:
    """Return the plan with units of a good size; where they do not fit the memory, with smaller and smaller ones."""
    wanted_nbytes = wanted_unit_nbytes(request)
    factors = level_factors(request.axes, request.shape, request.levels, request.scale)
    borders = unit_borders(stored[1] or stored[0], factors)
    while True:
        if layout == "compact":
            tilings = request.compact_tilings()
        else:
            tilings = _aligned_tilings(request, borders, LARGEST_UNIT_NBYTES * wanted_nbytes // UNIT_NBYTES)
        plan = _plan(request, layout, tilings, stored, factors, wanted_nbytes, window_nbytes)
        fits = request.memory_nbytes is None or plan.peak_live_nbytes <= request.memory_nbytes
        if fits or wanted_nbytes == 0:
            return plan
        wanted_nbytes //= 2


def _aligned_tilings(request: Request, stored: tuple[int, ...], limit: int) -> tuple[AxisTiling, ...]:
    """Choose borders, multiples of the stored objects, that cost few extra tiles and keep units of a fair size.

    Where the cells of the tiles begin with the first one, units of coarser levels nest.
    """
    options: list[list[AxisTiling]] = []
    for axis, name in enumerate(request.axes):
        most = max(1, -(-request.shape[axis] // stored[axis]))
        multiples = range(1, 1 + min(8, most)) if name in "ZYX" else range(1, 2)
        tilings = [request.tiling(axis, border=multiple * stored[axis]) for multiple in multiples]
        nesting = [tiling for tiling in tilings if tiling.count == 1 or len(set(tiling.cells)) == 1]
        options.append(nesting if nesting and request.levels != 1 else tilings)
    fewest = prod(min(tiling.count for tiling in choices) for choices in options)

    def cost(chosen: tuple[AxisTiling, ...]) -> float:
        """Weigh a doubling of the number of tiles like a unit a hundred times too large, and respect the limit."""
        units = (AxisUnits.around_tiles(t, s, 1).largest for t, s in zip(chosen, stored, strict=True))
        nbytes = prod(units) * request.itemsize
        too_large = 0.01 * nbytes / UNIT_NBYTES + (1000.0 * nbytes / max(limit, 1) if nbytes > limit else 0.0)
        return prod(tiling.count for tiling in chosen) / fewest + too_large

    return min(product(*options), key=cost)


def _better_layout(compact: WritePlan, aligned: WritePlan, memory_nbytes: int | None) -> str:
    if memory_nbytes is not None:
        fits = {plan.layout for plan in (compact, aligned) if plan.peak_live_nbytes <= memory_nbytes}
        if len(fits) == 1:
            return fits.pop()
    # As for full resolution alone: coarser levels change no tile.
    held_nbytes = compact.waiting_nbytes - compact.coarser_waiting_nbytes + compact.window_nbytes
    hungry = min(held_nbytes, compact.arrays[0].nbytes) > COMPACT_LIMIT_NBYTES
    limit = ALIGNED_LIMIT_FOR_MEMORY if hungry else ALIGNED_LIMIT
    return "aligned" if aligned.extra_inference <= limit else "compact"


def _plan(
    request: Request,
    layout: str,
    tilings: tuple[AxisTiling, ...],
    stored: StoredExtents,
    factors: Factors,
    wanted_nbytes: int,
    window_nbytes: int | None,
) -> WritePlan:
    chunks, shards = stored
    units = choose_units(request, tilings, unit_borders(shards or chunks, factors), wanted_nbytes)
    arrays = with_coarser_levels(ArrayPlan(request.dtype, units, chunks, shards), factors)
    pyramid = Pyramid(arrays, tuple(map(straddling_extent, tilings, units)))
    waiting_nbytes = waiting_elements(tilings, units) * request.itemsize
    waiting_nbytes += pyramid.waiting_nbytes
    # Less than the tiles of one unit would never finish a unit.
    least_nbytes = touched_elements(tilings, units) * request.itemsize
    window_nbytes = window_nbytes or WINDOW_NBYTES
    if request.memory_nbytes is not None:
        window_nbytes = min(window_nbytes, pyramid.admitted_within(request.memory_nbytes) - waiting_nbytes)
    return WritePlan(
        axes=request.axes,
        layout=layout,
        tilings=tilings,
        arrays=arrays,
        waiting_nbytes=waiting_nbytes,
        window_nbytes=max(window_nbytes, least_nbytes),
        compact_tile_count=prod(tiling.count for tiling in request.compact_tilings()),
        reduction="mode" if request.labels or request.dtype == "bool" else "mean",
        # An object with parts of several samples lies in one array.
        is_collection=request.axes.startswith("S") and arrays[0].stored_extents[0] == 1 and not request.stored_axes,
        stored_axes=request.stored_axes,
    )


def _within_memory(plan: WritePlan, memory_nbytes: int | None) -> WritePlan:
    if memory_nbytes is None or plan.peak_live_nbytes <= memory_nbytes:
        return plan
    remedy = " or smaller chunks and shards"
    if plan.waiting_nbytes > 0:
        remedy = ', chunks that divide the step of the tiles (chunks="auto" does), or layout="aligned"'
    raise MemoryPlanError(
        f"the {plan.layout} layout holds up to {format_nbytes(plan.peak_live_nbytes)} of predicted tiles "
        f"({plan.peak_live_nbytes} bytes: {plan.waiting_nbytes} that wait for units that they share, "
        f"{plan.window_nbytes} to finish one unit), but memory_nbytes allows {format_nbytes(memory_nbytes)} "
        f"({memory_nbytes} bytes); give more memory, or take smaller tiles{remedy}"
    )
