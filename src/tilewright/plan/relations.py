"""Relation of the tiles of one array to its write units, by their numbers in the plan."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from tilewright.geometry import AxisTiling, AxisUnits, GridRelation, Interval


class AxisTiles(Protocol):
    """Tiles of one axis: predicted ones, or units of the level below."""

    @property
    def count(self) -> int:
        """Number of tiles."""

    @property
    def extent(self) -> int:
        """Elements of the axis."""

    def valid(self, index: int) -> Interval:
        """Return the elements that a tile owns."""

    def indices_in(self, start: int, stop: int) -> range:
        """Return the indices of the tiles that own an element of ``[start, stop)``."""


@dataclass(frozen=True)
class ArrayRelation:
    """Tiles and units of one array.

    Parameters
    ----------
    tiles : sequence of AxisTiles
        Tiles, per axis.
    units : sequence of AxisUnits
        Write units, per axis.
    first_tile, first_unit : int
        Numbers of the first ones in the plan.
    """

    tiles: Sequence[AxisTiles]
    units: Sequence[AxisUnits]
    first_tile: int = 0
    first_unit: int = 0

    @cached_property
    def units_of_tiles(self) -> GridRelation:
        """The tiles, each with the units that hold a piece of it."""
        on_axes = [
            _related(tiles.valid, tiles.count, units.indices_in)
            for tiles, units in zip(self.tiles, self.units, strict=True)
        ]
        counts = [units.count for units in self.units]
        return GridRelation(on_axes, counts, self.first_tile, self.first_unit)

    @cached_property
    def tiles_of_units(self) -> GridRelation:
        """The units, each with the tiles that have a piece in it."""
        on_axes = [
            _related(units.span, units.count, tiles.indices_in)
            for tiles, units in zip(self.tiles, self.units, strict=True)
        ]
        counts = [tiles.count for tiles in self.tiles]
        return GridRelation(on_axes, counts, self.first_unit, self.first_tile)

    @cached_property
    def beginnings(self) -> GridRelation:
        """The units, each with the predicted tiles that begin in it."""
        tilings = [tiles for tiles in self.tiles if isinstance(tiles, AxisTiling)]
        on_axes = [
            _related(units.span, units.count, tiling.starts_in)
            for tiling, units in zip(tilings, self.units, strict=True)
        ]
        return GridRelation(on_axes, [tiling.count for tiling in tilings])


def _related(
    interval: Callable[[int], Interval], count: int, indices: Callable[[int, int], range]
) -> Iterator[tuple[Interval, range]]:
    """Yield each interval of an axis, with the indices on the other grid that it meets."""
    return ((owned, indices(*owned)) for owned in map(interval, range(count)))
