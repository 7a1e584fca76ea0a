"""Lookup tables of the cells of two grids: memory per index of each axis, never per cell."""

from array import array
from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

from tilewright.geometry.intervals import Interval, Region
from tilewright.geometry.product import ranks_in

ROWS_KEPT = 4096
"""Number of rows of cells in the cache."""


class _Axis(NamedTuple):
    """One axis: start of each cell, and its share of the rank of the first related cell and of the kind."""

    cell_count: int
    starts: "array[int]"
    ranks: "array[int]"
    kinds: "array[int]"


class GridRelation:
    """Cells of a grid, their regions, and their related cells: a box of cells of another grid.

    Parameters
    ----------
    axes : sequence of iterable of (Interval, range)
        Per axis and index: its elements, which begin at the end of the index before, and the indices of its box on the
        other grid.
    counts : sequence of int
        Number of cells of the other grid per axis.
    first_cell, first_related : int, optional
        Numbers of the first cells of both grids; others follow in C order.

    Examples
    --------
    >>> relation = GridRelation([[((0, 4), range(0, 1)), ((4, 9), range(0, 2))], [((0, 3), range(0, 2))]], (2, 2))
    >>> relation.region(1), relation.element_count(1)
    (((4, 9), (0, 3)), 15)
    >>> relation.related(0), relation.related(1)
    ((0, 1), (0, 1, 2, 3))
    """

    def __init__(
        self,
        axes: Sequence[Iterable[tuple[Interval, range]]],
        counts: Sequence[int],
        first_cell: int = 0,
        first_related: int = 0,
    ) -> None:
        self._first_cell = first_cell
        self._axes: list[_Axis] = []
        # Few kinds of cells repeat: an extent and a number of related cells per axis.
        self._kinds: list[list[tuple[int, int]]] = []
        self._shapes: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._counts = tuple(counts)
        factor = 1
        for axis, cells in enumerate(axes):
            stride = prod(counts[axis + 1 :])
            found: dict[tuple[int, int], int] = {}
            starts, ranks, kinds = array("q", [0]), array("q"), array("q")
            for (start, stop), indices in cells:
                starts.append(stop)
                ranks.append(indices.start * stride + (0 if axis else first_related))
                kinds.append(factor * found.setdefault((stop - start, len(indices)), len(found)))
            self._axes.append(_Axis(len(ranks), starts, ranks, kinds))
            self._kinds.append(list(found))
            factor *= len(found)
        # A cache of the sums over all axes but the last.
        self._last_axis = self._axes[-1]
        self._rows: dict[int, tuple[int, int]] = {}

    def region(self, cell: int) -> Region:
        """Return the region of a cell."""
        rest = cell - self._first_cell
        region = []
        for axis in reversed(self._axes):
            rest, index = divmod(rest, axis.cell_count)
            region.append((axis.starts[index], axis.starts[index + 1]))
        self._check(cell, rest)
        return tuple(reversed(region))

    def related(self, cell: int) -> tuple[int, ...]:
        """Return the ranks of the related cells of the other grid, in C order."""
        rank, kind = self._place(cell)
        _, offsets = self._shapes.get(kind) or self._shape(kind)
        return tuple([rank + offset for offset in offsets])

    def related_count(self, cell: int) -> int:
        """Return the number of related cells of the other grid."""
        kind = self._place(cell)[1]
        return len((self._shapes.get(kind) or self._shape(kind))[1])

    def element_count(self, cell: int) -> int:
        """Return the number of elements of a cell."""
        kind = self._place(cell)[1]
        return (self._shapes.get(kind) or self._shape(kind))[0]

    def _place(self, cell: int) -> tuple[int, int]:
        """Return the rank of the first related cell, and the kind of the cell."""
        cell_count, _, ranks, kinds = self._last_axis
        row, index = divmod(cell - self._first_cell, cell_count)
        rank, kind = self._rows.get(row) or self._place_of_row(cell, row)
        return rank + ranks[index], kind + kinds[index]

    def _place_of_row(self, cell: int, row: int) -> tuple[int, int]:
        rest, rank, kind = row, 0, 0
        for axis in reversed(self._axes[:-1]):
            rest, index = divmod(rest, axis.cell_count)
            rank += axis.ranks[index]
            kind += axis.kinds[index]
        self._check(cell, rest)
        if len(self._rows) == ROWS_KEPT:
            self._rows.clear()
        self._rows[row] = rank, kind
        return rank, kind

    def _shape(self, kind: int) -> tuple[int, tuple[int, ...]]:
        """Return the number of elements of a kind of cell, and the ranks of its related cells after the first."""
        rest = kind
        elements, lengths = 1, []
        for on_axis in self._kinds:
            rest, which = divmod(rest, len(on_axis))
            extent, length = on_axis[which]
            elements *= extent
            lengths.append(length)
        shape = self._shapes[kind] = elements, ranks_in(tuple(map(range, lengths)), self._counts)
        return shape

    def _check(self, cell: int, rest: int) -> None:
        if rest != 0:
            counts = tuple(axis.cell_count for axis in self._axes)
            raise IndexError(f"there is no cell {cell} on a grid of {counts} cells from {self._first_cell} on")
