"""Order of units in which those of one coarser unit come together: it waits for few of them at a time.

The units of the coarsest level that nests come in C order; within each, those of the level below; and so on.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import prod

from tilewright.geometry.halving import HalvedUnits
from tilewright.geometry.units import AxisUnits


class NestedTurns:
    """Units of the finest level in the order in which coarser units are completed one after the other.

    Parameters
    ----------
    levels : sequence of sequence of AxisUnits
        Units per axis of each level, the finest first; those of each level nest in those of the next.
    factors : sequence of sequence of int
        Factors per axis from each level to the next.

    Examples
    --------
    >>> levels = [[AxisUnits(8, 2), AxisUnits(8, 2)], [AxisUnits(4, 2), AxisUnits(4, 2)]]
    >>> turns = NestedTurns(levels, [(2, 2)])
    >>> [turns.unit_at(place) for place in range(8)]
    [0, 1, 4, 5, 2, 3, 6, 7]
    """

    def __init__(self, levels: Sequence[Sequence[AxisUnits]], factors: Sequence[Sequence[int]]) -> None:
        self._counts = tuple(units.count for units in levels[0])
        # For each level, axis and unit: the first unit of the finest level that begins in it.
        self._firsts = [[array("q", range(count + 1)) for count in self._counts]]
        for finer, coarser, on_axes in zip(levels, levels[1:], factors, strict=False):
            below = self._firsts[-1]
            self._firsts.append(
                [
                    _firsts(HalvedUnits(tiles, factor), units, firsts)
                    for tiles, units, factor, firsts in zip(finer, coarser, on_axes, below, strict=True)
                ]
            )

    def unit_at(self, place: int) -> int:
        """Return the unit that comes at a place."""
        box = [(0, count) for count in self._counts]
        for firsts in reversed(self._firsts):
            cells = []
            before = 1
            totals = [stop - start for start, stop in box]
            for axis, (starts, (begin, end)) in enumerate(zip(firsts, box, strict=True)):
                behind = before * prod(totals[axis + 1 :])
                steps = place // behind
                cell = bisect_right(starts, begin + steps, bisect_left(starts, begin), bisect_left(starts, end)) - 1
                place -= (starts[cell] - begin) * behind
                before *= starts[cell + 1] - starts[cell]
                cells.append((starts[cell], starts[cell + 1]))
            box = cells
        unit = 0
        for count, (start, _) in zip(self._counts, box, strict=True):
            unit = unit * count + start
        return unit


def _firsts(tiles: HalvedUnits, units: AxisUnits, below: "array[int]") -> "array[int]":
    """Return the first unit of the finest level in each unit of a coarser level, and the number of all of them."""
    counts = (len(tiles.indices_in(*units.span(index))) for index in range(units.count))
    return array("q", (below[tile] for tile in accumulate(counts, initial=0)))
