"""Tiles of one axis, whose valid regions partition it: every element belongs to one tile.

Both layouts are one arithmetic. A tile that owns elements from ``start`` on reads from ``start - lo``, and owns up to
the last multiple of ``border`` that leaves ``hi`` elements of context. A border of one element is the ``compact``
layout, with the fewest tiles; the extent of a write unit is ``aligned``, where no two units share a tile.

The starts of the valid regions follow a pattern that repeats, so that each answer takes O(1)::

    |- head -|- lead -|...|------ cell ------|------ cell ------| ...
    0        one `step` each, up to the      `tiles_per_cell` tiles, `step` apart,
             next multiple of the border     each cell a whole number of borders
"""

from dataclasses import dataclass, field

from tilewright.errors import GeometryError
from tilewright.geometry.intervals import Interval


@dataclass(frozen=True, slots=True)
class AxisTiling:
    """Tiles of one axis.

    Parameters
    ----------
    extent : int
        Elements of the axis.
    tile : int
        Elements of a tile.
    overlap : int
        Elements that neighbouring tiles share at least; ``0 <= overlap < tile``. Half of it, rounded down, is the
        halo before the valid region, the rest the halo after it.
    border : int, default=1
        Inner ends of valid regions are multiples of this where a tile reaches one.
    pads_behind : bool, default=False
        Whether an axis that is shorter than the tile is padded behind its elements, and not on both sides.

    Attributes
    ----------
    count : int
        Number of tiles.

    Raises
    ------
    GeometryError
        If the numbers do not fit each other.

    Notes
    -----
    An axis shorter than the tile has one tile, which is padded to its full size.

    Examples
    --------
    >>> compact = AxisTiling(extent=35, tile=32, overlap=24)
    >>> [compact.valid(index) for index in range(compact.count)]
    [(0, 20), (20, 35)]
    >>> compact.read(1), compact.crop(1), compact.index_at(20)
    ((3, 35), (17, 32), 1)
    >>> compact.indices_in(0, 21), compact.starts_in(1, 35)
    (range(0, 2), range(1, 2))
    >>> aligned = AxisTiling(extent=35, tile=32, overlap=24, border=8)
    >>> [aligned.valid(index) for index in range(aligned.count)]
    [(0, 16), (16, 35)]
    """

    extent: int
    tile: int
    overlap: int
    border: int = 1
    pads_behind: bool = False
    count: int = field(init=False, compare=False, repr=False)
    _head: int = field(init=False, compare=False, repr=False)
    _lead_count: int = field(init=False, compare=False, repr=False)
    _cells_start: int = field(init=False, compare=False, repr=False)
    _cell_extent: int = field(init=False, compare=False, repr=False)
    _tiles_per_cell: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.extent < 1 or self.tile < 1 or self.border < 1:
            raise GeometryError(
                f"extent, tile and border must be at least 1, got {self.extent}, {self.tile} and {self.border}"
            )
        if not 0 <= self.overlap < self.tile:
            raise GeometryError(
                f"the overlap must be at least 0 and smaller than the tile, got overlap {self.overlap} "
                f"for a tile of {self.tile}"
            )
        reach = self.tile - self.halo[1]
        head = reach // self.border * self.border
        if head == 0 or head < self.halo[0]:
            # No border within reach, or one so early that the next tile would read before the axis.
            head = reach
        cells_start = _ceil_divide(head, self.border) * self.border
        if self.border <= self.step:
            cell_extent, tiles_per_cell = self.step // self.border * self.border, 1
        else:
            cell_extent, tiles_per_cell = self.border, _ceil_divide(self.border, self.step)
        lead_count = _ceil_divide(cells_start - head, self.step)
        names = ("_head", "_lead_count", "_cells_start", "_cell_extent", "_tiles_per_cell", "count")
        for name, value in zip(names, (head, lead_count, cells_start, cell_extent, tiles_per_cell, 1), strict=True):
            object.__setattr__(self, name, value)
        if self.extent > self.tile:
            # The first tile whose window would end at or after the end of the axis.
            last_start = self.extent - self.tile + self.halo[0]
            object.__setattr__(self, "count", self._first_start_at_or_after(last_start) + 1)

    @property
    def halo(self) -> tuple[int, int]:
        """Elements of context before and after an inner valid region, ``(lo, hi)``."""
        lo = self.overlap // 2
        return lo, self.overlap - lo

    @property
    def step(self) -> int:
        """Largest shift between neighbouring tiles, in elements."""
        return self.tile - self.overlap

    @property
    def padding(self) -> tuple[int, int]:
        """Padding before and after an axis that is shorter than the tile, in elements."""
        missing = max(0, self.tile - self.extent)
        before = 0 if self.pads_behind else missing // 2
        return before, missing - before

    @property
    def cells(self) -> tuple[int, int]:
        """Start and extent of the first cell of the repeating pattern; each cell begins with a tile."""
        return self._cells_start, self._cell_extent

    @property
    def largest_valid_extent(self) -> int:
        """Upper bound of the extent of a valid region."""
        last = self.extent - self.valid(self.count - 1)[0]
        return min(self.extent, max(self._head, min(self.step, self._cell_extent), last))

    def valid(self, index: int) -> Interval:
        """Return the valid region of a tile: the elements that it owns."""
        if not 0 <= index < self.count:
            raise IndexError(f"there is no tile {index} on an axis of {self.count} tiles")
        stop = self.extent if index == self.count - 1 else self._start(index + 1)
        return self._start(index), stop

    def read(self, index: int) -> Interval:
        """Return the elements that a tile reads; fewer than the tile only on a shorter axis."""
        start = max(0, min(self.valid(index)[0] - self.halo[0], self.extent - self.tile))
        return start, min(start + self.tile, self.extent)

    def crop(self, index: int) -> Interval:
        """Return the valid region of a tile relative to the (padded) tile.

        Examples
        --------
        >>> AxisTiling(extent=4, tile=6, overlap=3).crop(0)
        (1, 5)
        """
        start, stop = self.valid(index)
        origin = self.read(index)[0] - self.padding[0]
        return start - origin, stop - origin

    def index_at(self, coordinate: int) -> int:
        """Return the index of the tile that owns an element."""
        if not 0 <= coordinate < self.extent:
            raise IndexError(f"there is no element {coordinate} on an axis of {self.extent}")
        if coordinate < self._head:
            index = 0
        elif coordinate < self._cells_start:
            index = 1 + (coordinate - self._head) // self.step
        else:
            cell, offset = divmod(coordinate - self._cells_start, self._cell_extent)
            index = 1 + self._lead_count + cell * self._tiles_per_cell + offset // self.step
        return min(index, self.count - 1)

    def indices_in(self, start: int, stop: int) -> range:
        """Return the indices of the tiles that own an element of ``[start, stop)``."""
        return range(self.index_at(start), self.index_at(stop - 1) + 1)

    def starts_in(self, start: int, stop: int) -> range:
        """Return the indices of the tiles whose valid region begins in ``[start, stop)``."""
        first = self.index_at(start)
        if self._start(first) < start:
            first += 1
        return range(first, self.index_at(stop - 1) + 1)

    def _start(self, index: int) -> int:
        if index == 0:
            return 0
        if index <= self._lead_count:
            return self._head + (index - 1) * self.step
        cell, tile = divmod(index - 1 - self._lead_count, self._tiles_per_cell)
        return self._cells_start + cell * self._cell_extent + tile * self.step

    def _first_start_at_or_after(self, coordinate: int) -> int:
        """Return the first tile after tile 0 that starts here or later on an endless axis."""
        if coordinate <= self._head:
            return 1
        if coordinate <= self._cells_start:
            return 1 + min(self._lead_count, _ceil_divide(coordinate - self._head, self.step))
        cell, offset = divmod(coordinate - self._cells_start, self._cell_extent)
        tile = min(self._tiles_per_cell, _ceil_divide(offset, self.step))
        return 1 + self._lead_count + cell * self._tiles_per_cell + tile


def _ceil_divide(number: int, divisor: int) -> int:
    return -(-number // divisor)
