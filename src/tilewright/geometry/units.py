"""Write units of one axis, which partition it and end on borders of stored objects.

Where the tiles end on borders of stored objects too, the units follow the tiles, and every tile lies in one unit.
Elsewhere the units are equal steps, and share tiles.
"""

from dataclasses import dataclass, field

from tilewright.errors import GeometryError
from tilewright.geometry.intervals import Interval
from tilewright.geometry.tiling import AxisTiling


@dataclass(frozen=True, slots=True)
class AxisUnits:
    """Write units of one axis: a first one, then equal steps, up to the end of the axis.

    Parameters
    ----------
    extent : int
        Elements of the axis.
    step : int
        Elements of an inner unit.
    first : int, optional
        Elements of the first unit; by default ``step``.
    last_start : int, optional
        An element of the last unit, which reaches to the end of the axis; by default the last element.

    Attributes
    ----------
    count : int
        Number of units.

    Examples
    --------
    >>> units = AxisUnits(extent=10, step=4)
    >>> units.count, units.span(2), units.indices_in(3, 5)
    (3, (8, 10), range(0, 2))
    """

    extent: int
    step: int
    first: int = 0
    last_start: int | None = None
    count: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.extent < 1 or self.step < 1 or self.first < 0:
            raise GeometryError(
                f"extent and step must be at least 1 and first at least 0, got {self.extent}, {self.step}, {self.first}"
            )
        if self.first == 0:
            object.__setattr__(self, "first", self.step)
        last = self.extent - 1 if self.last_start is None else self.last_start
        object.__setattr__(self, "count", self._endless_index(last) + 1)

    @classmethod
    def around_tiles(cls, tiling: AxisTiling, stored: int, cells_per_unit: int) -> "AxisUnits":
        """Return units that no tile straddles, or raise GeometryError where the cells do not end on stored objects.

        Parameters
        ----------
        tiling : AxisTiling
            Tiles whose cells end on borders of stored objects.
        stored : int
            Elements of a stored object.
        cells_per_unit : int
            Cells of the tiling per unit; all before the first cell counts as one.

        Examples
        --------
        >>> tiling = AxisTiling(extent=100, tile=32, overlap=8, border=8)
        >>> units = AxisUnits.around_tiles(tiling, stored=8, cells_per_unit=2)
        >>> [units.span(index) for index in range(units.count)]
        [(0, 48), (48, 100)]
        """
        if not cells_end_on_borders(tiling, stored):
            raise GeometryError(f"the tiles {tiling} do not end on borders of stored objects of {stored} elements")
        start, cell = tiling.cells
        last_tile_start = tiling.valid(tiling.count - 1)[0]
        first = start + cell * (cells_per_unit - 1)
        return cls(tiling.extent, cell * cells_per_unit, first=first, last_start=last_tile_start)

    @property
    def largest(self) -> int:
        """Upper bound of the extent of a unit."""
        start, stop = self.span(self.count - 1)
        return max(min(self.first, self.extent), min(self.step, self.extent), stop - start)

    def span(self, index: int) -> Interval:
        """Return the elements of a unit."""
        if not 0 <= index < self.count:
            raise IndexError(f"there is no unit {index} on an axis of {self.count} units")
        start = 0 if index == 0 else self.first + (index - 1) * self.step
        return start, self.extent if index == self.count - 1 else self.first + index * self.step

    def index_at(self, coordinate: int) -> int:
        """Return the index of the unit that owns an element."""
        return min(self._endless_index(coordinate), self.count - 1)

    def indices_in(self, start: int, stop: int) -> range:
        """Return the indices of the units that own an element of ``[start, stop)``."""
        return range(self.index_at(start), self.index_at(stop - 1) + 1)

    def _endless_index(self, coordinate: int) -> int:
        return 0 if coordinate < self.first else 1 + (coordinate - self.first) // self.step


def cells_end_on_borders(tiling: AxisTiling, stored: int) -> bool:
    """Tell whether all cells of a tiling end on borders of stored objects.

    Examples
    --------
    >>> cells_end_on_borders(AxisTiling(extent=100, tile=32, overlap=8, border=8), stored=8)
    True
    >>> cells_end_on_borders(AxisTiling(extent=100, tile=32, overlap=8), stored=8)
    False
    """
    start, cell = tiling.cells
    return tiling.count == 1 or (start % stored == 0 and cell % stored == 0)
