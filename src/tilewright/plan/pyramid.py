"""Coarser levels of a plan: the order of units in which they wait for little, and upper bounds of how much that is.

Units of the finest level that lie in one unit of a coarser level come one after the other, as far as levels nest in
each other and the layout of the tiles leaves the order free. What waits then is one unit of each level at most. Where
levels do not nest, units come in C order, and a layer of the image waits.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from math import ceil, floor, prod

from tilewright.geometry.halving import HalvedUnits
from tilewright.geometry.turns import NestedTurns
from tilewright.geometry.units import AxisUnits
from tilewright.plan.array_plan import ArrayPlan

AxisPairs = Sequence[tuple[HalvedUnits, AxisUnits]]


class Pyramid:
    """Levels of one image.

    Parameters
    ----------
    arrays : sequence of ArrayPlan
        The array of each level, the finest first.
    straddling : sequence of int
        Upper bound of the extent of a predicted tile that lies in two units, per axis; zero where none does. A unit
        within one such tile may be written before others that come earlier.
    is_in_any_order : bool
        Whether units of the finest level may be written in any order where no tile lies in two; in C order where not.
    """

    def __init__(self, arrays: Sequence[ArrayPlan], straddling: Sequence[int], *, is_in_any_order: bool = True) -> None:
        self._arrays = arrays
        self._straddling = straddling
        self._is_in_any_order = is_in_any_order and not any(straddling)

    def tiles(self, level: int) -> tuple[HalvedUnits, ...]:
        """Return the tiles of a level, per axis: the units of the level below."""
        return tuple(map(HalvedUnits, self._arrays[level - 1].units, self._arrays[level].factors))

    def unit_in_turn(self, place: int) -> int:
        """Return the unit of the finest level that comes at a place."""
        return self._turns.unit_at(place) if self._nested_count else place

    @cached_property
    def waiting_nbytes(self) -> int:
        """Upper bound of the bytes that wait while units are written one by one: with a unit that becomes complete."""
        itemsize = self._arrays[0].itemsize
        elements = 0
        for level in range(1, len(self._arrays)):
            pairs = self._pairs(level)
            waiting = 0 if level <= self._nested_count else _waiting_in_order(pairs, self._ahead(level))
            elements += waiting + prod(_touched_extent(*pair) for pair in pairs)
        return min(elements * itemsize, self.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of the coarser levels."""
        return sum(array.nbytes for array in self._arrays[1:])

    def arriving_nbytes(self, nbytes: int) -> int:
        """Return an upper bound of the bytes of tiles that units of so many bytes become when they are written."""
        return ceil(nbytes * self._largest_ratio)

    def admitted_within(self, memory_nbytes: int) -> int:
        """Return the bytes of tiles that may be admitted so that a memory holds them, and what they become."""
        return floor(memory_nbytes / (1 + self._largest_ratio))

    @cached_property
    def _largest_ratio(self) -> Fraction:
        """Upper bound of the elements of a tile of a coarser level, as a ratio to those of its unit."""
        levels = range(1, len(self._arrays))
        ratios = [prod((tiles.largest_ratio for tiles in self.tiles(level)), start=Fraction(1)) for level in levels]
        return max(ratios, default=Fraction(0))

    def _ahead(self, level: int) -> list[int]:
        """Return by how many elements of a level units may be written ahead of their turn, per axis."""
        ahead = list(self._straddling)
        for array in self._arrays[1 : level + 1]:
            ahead = [-(-extent // factor) for extent, factor in zip(ahead, array.factors, strict=True)]
        return ahead

    @cached_property
    def _nested_count(self) -> int:
        """The number of coarser levels, from the finest, whose order decides that of the units."""
        count = 0
        while self._is_in_any_order and count + 1 < len(self._arrays):
            if not all(tiles.nests_in(units) for tiles, units in self._pairs(count + 1)):
                break
            count += 1
        return count

    @cached_property
    def _turns(self) -> NestedTurns:
        arrays = self._arrays[: self._nested_count + 1]
        return NestedTurns([array.units for array in arrays], [array.factors for array in arrays[1:]])

    def _pairs(self, level: int) -> AxisPairs:
        return list(zip(self.tiles(level), self._arrays[level].units, strict=True))


def _touched_extent(tiles: HalvedUnits, units: AxisUnits) -> int:
    """Return an upper bound of the extent of all tiles together that have a part in one unit."""
    more = 0 if tiles.nests_in(units) else 2 * (tiles.largest_valid_extent - 1)
    return min(tiles.extent, units.largest + more)


def _waiting_in_order(pairs: AxisPairs, ahead: Sequence[int]) -> int:
    """Return an upper bound of the elements that wait where tiles come in C order, some of them ahead of it.

    On the first axis on which a unit needs more than one tile, all tiles of its layer wait for the last of them.
    """
    before = 1
    for axis, (tiles, units) in enumerate(pairs):
        if not tiles.is_one_per_unit(units):
            layer = min(tiles.extent, _touched_extent(tiles, units) + ahead[axis])
            return before * layer * prod(behind.extent for behind, _ in pairs[axis + 1 :])
        before *= min(tiles.extent, tiles.largest_valid_extent + ahead[axis])
    return before
