"""Stored objects are grouped to units: few tasks, and enough of them to keep all workers busy."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import partial
from math import prod

from tilewright.geometry import AxisTiling, AxisUnits, cells_end_on_borders
from tilewright.plan.request import Request

UNIT_NBYTES = 32 * 2**20
"""Bytes of a unit, about: its overhead is some milliseconds, its writing some tens of them."""
SMALL_UNIT_NBYTES = 2**20
"""Smallest bytes of a unit that a small image is cut into."""
UNITS_OF_SMALL_IMAGE = 16
"""Units of a small image, about: enough to keep all workers busy."""
UNITS_OF_LARGE_IMAGE = 8192
"""Units of a large image, about: their number grows slowly, their size first."""
LARGE_UNIT_NBYTES = 128 * 2**20
"""Largest bytes of a unit: a terabyte has some 8,000 units, and as many tasks, or twice as many."""


def wanted_unit_nbytes(request: Request) -> int:
    """Return the bytes that a unit should have, about."""
    nbytes = prod(request.shape) * request.itemsize
    wanted_nbytes = min(UNIT_NBYTES, max(SMALL_UNIT_NBYTES, nbytes // UNITS_OF_SMALL_IMAGE))
    wanted_nbytes = max(wanted_nbytes, min(LARGE_UNIT_NBYTES, nbytes // UNITS_OF_LARGE_IMAGE))
    # With little memory units stay small, so that several of them are in flight.
    return wanted_nbytes if request.memory_nbytes is None else min(wanted_nbytes, request.memory_nbytes // 4)


def choose_units(
    request: Request, tilings: tuple[AxisTiling, ...], stored: tuple[int, ...], wanted_nbytes: int
) -> tuple[AxisUnits, ...]:
    """Group stored objects while units stay below the size that they should have.

    First on both axes of the plane, by as many tiles on each, since a square shares fewer tiles with its neighbours
    than a strip does; then fastest axis first, since the less of the slowest one a unit has, the fewer tiles wait.
    """
    units = [_units(tiling, extent, 1) for tiling, extent in zip(tilings, stored, strict=True)]
    plane = range(len(units))[-2:]

    def square(tiles: int) -> list[AxisUnits]:
        grown = [_largest_units(tilings[axis], stored[axis], tiles * tilings[axis].step) for axis in plane]
        return [*units[:-2], *grown]

    most = max(tilings[axis].count for axis in plane)
    fitting = bisect_right(range(1, most + 1), wanted_nbytes // request.itemsize, key=lambda n: _elements(square(n)))
    units = square(fitting) if fitting else units
    for axis in reversed(range(len(units))):
        others_nbytes = _elements(units[:axis] + units[axis + 1 :]) * request.itemsize
        units[axis] = _largest_units(tilings[axis], stored[axis], wanted_nbytes // others_nbytes)
    return tuple(units)


def _elements(units: Sequence[AxisUnits]) -> int:
    return prod(on_axis.largest for on_axis in units)


def _largest_units(tiling: AxisTiling, stored: int, most_elements: int) -> AxisUnits:
    """Return the fewest units of at most so many elements, but of equal size; of one stored object at least."""
    multiples = range(1, 1 - (-tiling.extent // stored))
    grown = partial(_units, tiling, stored)
    fitting = bisect_right(multiples, most_elements, key=lambda multiple: grown(multiple).largest)
    fewest = grown(max(1, fitting)).count
    return grown(1 + bisect_left(multiples, -fewest, key=lambda multiple: -grown(multiple).count))


def _units(tiling: AxisTiling, stored: int, multiple: int) -> AxisUnits:
    if cells_end_on_borders(tiling, stored):
        return AxisUnits.around_tiles(tiling, stored, multiple)
    return AxisUnits(tiling.extent, stored * multiple)
