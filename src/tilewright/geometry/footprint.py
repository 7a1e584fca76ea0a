"""Upper bounds of the predicted tiles that wait for units that they share, without a look at any tile.

Units are worked on in C order. A tile that lies in one unit never waits for another; one that straddles a border does,
until the unit behind the border is written. So what waits is a surface: along the first axis on which tiles straddle,
a whole layer of the image; within the layer a row; within the row a tile.
"""

from collections.abc import Sequence
from math import prod

from tilewright.geometry.tiling import AxisTiling
from tilewright.geometry.units import AxisUnits


def waiting_elements(tilings: Sequence[AxisTiling], units: Sequence[AxisUnits]) -> int:
    """Return an upper bound of the elements that wait while units are finished one by one, in C order.

    Parameters
    ----------
    tilings, units : sequence
        One of each per axis, from the slowest to the fastest.

    Returns
    -------
    int
        Elements of tiles that are predicted and still needed by a unit that is not the current one.

    Examples
    --------
    >>> tiling = AxisTiling(100, 32, 8, border=8)
    >>> waiting_elements([tiling], [AxisUnits.around_tiles(tiling, 8, 1)])
    0
    >>> waiting_elements([tiling], [AxisUnits(100, 20)])
    56
    """
    waiting = 0
    for axis in range(len(tilings)):
        straddling = straddling_extent(tilings[axis], units[axis])
        if straddling == 0:
            continue
        before = prod(touched_extent(tilings[i], units[i]) for i in range(axis))
        behind = [tiling.extent for tiling in tilings[axis + 1 :]]
        # One layer waits, part of it at either border of the unit, and where the two parts meet both are there.
        meeting = touched_extent(tilings[axis + 1], units[axis + 1]) * prod(behind[1:]) if behind else 1
        waiting += before * straddling * (prod(behind) + meeting)
    return min(waiting, prod(tiling.extent for tiling in tilings))


def touched_elements(tilings: Sequence[AxisTiling], units: Sequence[AxisUnits]) -> int:
    """Return an upper bound of the elements of all tiles that have a piece in one unit.

    Examples
    --------
    >>> tiling = AxisTiling(100, 32, 8, border=8)
    >>> touched_elements([tiling], [AxisUnits.around_tiles(tiling, 8, 1)])
    28
    """
    return prod(touched_extent(tiling, unit) for tiling, unit in zip(tilings, units, strict=True))


def waiting_elements_in_tile_order(tilings: Sequence[AxisTiling], units: Sequence[AxisUnits]) -> int:
    """Return the bound of `waiting_elements` for tiles that arrive in C order of tiles, as from a data loader.

    On the first axis on which a unit needs more than one tile, all tiles of its layer wait for the last of them.

    Examples
    --------
    >>> tilings = [AxisTiling(100, 32, 8), AxisTiling(9, 9, 0)]
    >>> waiting_elements_in_tile_order(tilings, [AxisUnits(100, 50), AxisUnits(9, 9)])
    900
    """
    before = 1
    for axis, (tiling, unit) in enumerate(zip(tilings, units, strict=True)):
        if not _each_unit_needs_one_tile(tiling, unit):
            return before * touched_extent(tiling, unit) * prod(t.extent for t in tilings[axis + 1 :])
        before *= tiling.largest_valid_extent
    return before


def _each_unit_needs_one_tile(tiling: AxisTiling, units: AxisUnits) -> bool:
    if tiling.count == 1:
        return True
    start, cell = tiling.cells
    one_tile_per_cell = cell <= tiling.step and tiling.valid(0)[1] == start
    return one_tile_per_cell and straddling_extent(tiling, units) == 0 and units.first == start and units.step == cell


def straddling_extent(tiling: AxisTiling, units: AxisUnits) -> int:
    """Return an upper bound of the extent of a tile that lies in two units; zero where none does."""
    if tiling.count == 1:
        return 0 if units.count == 1 else tiling.extent
    start, cell = tiling.cells
    last_start = tiling.valid(tiling.count - 1)[0]
    follows = (
        units.first >= start
        and (units.first - start) % cell == 0
        and units.step % cell == 0
        and units.index_at(last_start) == units.count - 1
    )
    return 0 if follows else tiling.largest_valid_extent


def touched_extent(tiling: AxisTiling, units: AxisUnits) -> int:
    """Return an upper bound of the extent of all tiles together that have a part in one unit."""
    straddling = straddling_extent(tiling, units)
    return min(tiling.extent, units.largest + 2 * max(0, straddling - 1))
