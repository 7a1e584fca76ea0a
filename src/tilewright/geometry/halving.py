"""Coarser levels of one axis: a write unit of one level is a tile of the next one, halved or as it is.

Units of a coarser level end on borders of stored objects, as all units do. Where they also end on borders of units of
the level below, they *nest*: no unit of the level below lies in two of them.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

from tilewright.errors import GeometryError
from tilewright.geometry.intervals import Interval
from tilewright.geometry.units import AxisUnits


@dataclass(frozen=True, slots=True)
class HalvedUnits:
    """Write units of one axis as tiles of the next coarser level.

    Parameters
    ----------
    units : AxisUnits
        Units of the finer level.
    factor : int
        Elements of the finer level per element of the coarser one: 2, or 1 where the axis stays as it is.

    Raises
    ------
    GeometryError
        If an element of the coarser level would be made of two units.

    Examples
    --------
    >>> halved = HalvedUnits(AxisUnits(extent=11, step=4), factor=2)
    >>> halved.extent, [halved.valid(index) for index in range(halved.count)], halved.indices_in(1, 4)
    (6, [(0, 2), (2, 4), (4, 6)], range(0, 2))
    """

    units: AxisUnits
    factor: int

    def __post_init__(self) -> None:
        if self.units.count > 1 and (self.units.first % self.factor or self.units.step % self.factor):
            raise GeometryError(f"the units {self.units} do not end on multiples of {self.factor}")

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.units.count

    @property
    def extent(self) -> int:
        """Elements of the axis on the coarser level."""
        return -(-self.units.extent // self.factor)

    @property
    def largest_valid_extent(self) -> int:
        """Upper bound of the extent of a tile."""
        return -(-self.units.largest // self.factor)

    @property
    def largest_ratio(self) -> Fraction:
        """Upper bound of the extent of a tile, as a ratio to that of its unit."""
        spans = (self.units.span(index) for index in {0, min(1, self.count - 1), self.count - 1})
        return max(Fraction(-(-(stop - start) // self.factor), stop - start) for start, stop in spans)

    def valid(self, index: int) -> Interval:
        """Return the elements of a tile, on the coarser level."""
        start, stop = self.units.span(index)
        return start // self.factor, -(-stop // self.factor)

    def indices_in(self, start: int, stop: int) -> range:
        """Return the indices of the tiles that own an element of ``[start, stop)``."""
        return self.units.indices_in(start * self.factor, min(stop * self.factor, self.units.extent))

    def nests_in(self, units: AxisUnits) -> bool:
        """Return whether each tile lies in one of these units."""
        if units.count == 1:
            return True
        first, step = self.units.first // self.factor, self.units.step // self.factor
        last_border = units.span(units.count - 1)[0]
        return (
            self.count > 1
            and units.first >= first
            and (units.first - first) % step == 0
            and units.step % step == 0
            and last_border <= self.valid(self.count - 1)[0]
        )

    def is_one_per_unit(self, units: AxisUnits) -> bool:
        """Return whether each of these units has one tile, and each tile one unit."""
        return self.nests_in(units) and units.count == self.count


def coarser_units(tiles: HalvedUnits, stored: int, factor: int) -> AxisUnits:
    """Return the units of a coarser level: they nest where they can, and have about as many elements as finer ones.

    Parameters
    ----------
    tiles : HalvedUnits
        Units of the finer level as tiles of this one.
    stored : int
        Elements of a stored object of this level.
    factor : int
        Factor to the next level: units end on multiples of it.

    Examples
    --------
    >>> coarser_units(HalvedUnits(AxisUnits(extent=100, step=8), factor=2), stored=8, factor=2)
    AxisUnits(extent=50, step=8, first=8, last_start=48)
    """
    border = lcm(stored, factor)
    if tiles.count == 1 or tiles.extent <= border:
        return AxisUnits(tiles.extent, -(-tiles.extent // border) * border)
    first, step = tiles.units.first // tiles.factor, tiles.units.step // tiles.factor
    repeat = border // gcd(step, border)
    group = repeat * max(1, tiles.factor // repeat)
    for place in reversed(range(group)):
        if (first + place * step) % border == 0:
            last_start = tiles.valid(tiles.count - 1)[0]
            return AxisUnits(tiles.extent, group * step, first=first + place * step, last_start=last_start)
    return AxisUnits(tiles.extent, border * max(1, tiles.units.step // border))
