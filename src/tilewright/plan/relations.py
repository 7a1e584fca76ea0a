"""Relation of the tiles of one array to its write units, by their numbers in the plan."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from tilewright.geometry import AxisTiling, AxisUnits, GridRelation, Interval, Region


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

    def tile_region(self, tile: int) -> Region:
        """Return the elements of a tile, in coordinates of the array."""
        return self._tiles.region(tile - self.first_tile)

    def tile_elements(self, tile: int) -> int:
        """Return the number of elements of a tile."""
        return self._tiles.element_count(tile - self.first_tile)

    def unit_elements(self, unit: int) -> int:
        """Return the number of elements of a unit."""
        return self._units.element_count(unit - self.first_unit)

    def units_of_tile(self, tile: int) -> tuple[int, ...]:
        """Return the units that hold a piece of a tile, in C order."""
        return self._shifted(self._tiles.related(tile - self.first_tile), self.first_unit)

    def tiles_of_unit(self, unit: int) -> tuple[int, ...]:
        """Return the tiles that have a piece in a unit, in C order."""
        return self._shifted(self._units.related(unit - self.first_unit), self.first_tile)

    def tile_count_of_unit(self, unit: int) -> int:
        """Return the number of tiles that have a piece in a unit."""
        return self._units.related_count(unit - self.first_unit)

    def tiles_starting_in(self, unit: int) -> tuple[int, ...]:
        """Return the predicted tiles that begin in a unit, in C order."""
        return self._beginnings.related(unit)

    @staticmethod
    def _shifted(numbers: tuple[int, ...], first: int) -> tuple[int, ...]:
        return tuple([number + first for number in numbers]) if first else numbers

    @cached_property
    def _tiles(self) -> GridRelation:
        on_axes = [
            _related(tiles.valid, tiles.count, units.indices_in)
            for tiles, units in zip(self.tiles, self.units, strict=True)
        ]
        return GridRelation(on_axes, [units.count for units in self.units])

    @cached_property
    def _units(self) -> GridRelation:
        on_axes = [
            _related(units.span, units.count, tiles.indices_in)
            for tiles, units in zip(self.tiles, self.units, strict=True)
        ]
        return GridRelation(on_axes, [tiles.count for tiles in self.tiles])

    @cached_property
    def _beginnings(self) -> GridRelation:
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
