"""Plan of one output: the tiles of each unit, the units of each tile, and all costs, by arithmetic alone.

It is frozen, is made of a few numbers per axis, and is the same for every executor: what is written follows from it and
from the predictions, from nothing else.
"""

from array import array as CompactArray  # noqa: N812
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from tilewright.geometry import GridRelation, Region, position_of
from tilewright.plan.array_plan import ArrayPlan
from tilewright.plan.describe import describe, describe_html, describe_region
from tilewright.plan.output_plan import OutputPlan
from tilewright.plan.relations import ArrayRelation, AxisTiles


@dataclass(frozen=True)
class WritePlan(OutputPlan):
    """The arrays of one output, the tiles that feed their write units, and the cost of both.

    A unit of one level is a tile of the next coarser one: after the predicted tiles, tiles are numbered as units are.

    Parameters
    ----------
    axes : str
        The axes of the output, in the order ``STCZYX``.
    layout : str
        ``"compact"`` or ``"aligned"``.
    tilings : tuple of AxisTiling
        The tiles, per output axis.
    arrays : tuple of ArrayPlan
        The arrays of the output, the one at full resolution first. Units are numbered from one array to the next.
    waiting_nbytes : int
        Upper bound of the bytes of tiles that wait for units that they share, or for units of coarser levels.
    window_nbytes : int
        Bytes of tiles that may be in flight beyond those that wait.
    compact_tile_count : int
        The number of tiles of the compact layout, to compare with.
    reduction : {"mean", "mode"}
        How elements become one of the next coarser level: intensities by their mean, labels by the most frequent one.
    comes_in_tile_order : bool
        Whether tiles come in C order of tiles, as from a data loader, and not in the order in which units want them.
    is_collection : bool
        Whether each sample is stored as an image of its own, which leaves out the axis S.
    stored_axes : str, optional
        The axes of the stored array where they are in the order of the source. It is no image of OME-Zarr then, and has
        no coarser levels. All else of the plan is in the order ``STCZYX``.
    request : PlanRequest, optional
        What the plan was made of, for `predict_to_zarr`; a ledger does not keep it.
    """

    def __str__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        return describe_html(self)

    # Tiles and units, by their ranks in C order.

    def tile_position(self, tile: int) -> tuple[int, ...]:
        """Return the position of a tile on the grid of tiles."""
        return position_of(tile, self._tile_counts)

    def tile_at(self, element: tuple[int, ...]) -> int:
        """Return the tile that owns this element of the output."""
        tile = 0
        for tiling, coordinate in zip(self.tilings, element, strict=True):
            tile = tile * tiling.count + tiling.index_at(coordinate)
        return tile

    def valid_region(self, tile: int) -> Region:
        """Return what a tile alone contributes, in coordinates of the output."""
        return self._tiles_like(tile).region(tile)

    def crop_region(self, tile: int) -> Region:
        """Return where the valid region lies inside the padded tile."""
        starts = [on_axis[index] for on_axis, index in zip(self._crop_starts, self.tile_position(tile), strict=True)]
        valid = self.valid_region(tile)
        return tuple([(first, first + stop - start) for first, (start, stop) in zip(starts, valid, strict=True)])

    def unit_region(self, unit: int) -> Region:
        """Return the elements that a unit owns."""
        array, rank = self._array_and_rank(unit)
        return array.unit_region(rank)

    def units_of_tile(self, tile: int) -> tuple[int, ...]:
        """Return the units that hold a piece of this tile, in C order."""
        return self._tiles_like(tile).related(tile)

    def tiles_of_unit(self, unit: int) -> tuple[int, ...]:
        """Return the tiles that have a piece in this unit, in C order."""
        return self._units_like(unit).related(unit)

    def tile_count_of_unit(self, unit: int) -> int:
        """Return the number of tiles that have a piece in this unit."""
        return self._units_like(unit).related_count(unit)

    def tiles_starting_in(self, unit: int) -> tuple[int, ...]:
        """Return the predicted tiles whose valid region begins in this unit: those to ask for when its turn comes.

        Each tile begins in one unit, the first in C order of those that it feeds. So when all tiles that begin in a
        unit or before it are there, the unit is complete. Tiles of coarser levels come when their units are written.
        """
        return self._relations[0].beginnings.related(unit) if unit < self.finest_unit_count else ()

    def unit_in_turn(self, place: int) -> int:
        """Return the unit whose turn it is: those of one coarser unit come together, coarser ones at the end."""
        return place if place >= self.finest_unit_count else self._pyramid.unit_in_turn(place)

    def tile_of_unit(self, unit: int) -> int | None:
        """Return the tile that a unit is for the next coarser level; None for units of the coarsest level."""
        return self.tile_count + unit if unit < self._tiled_unit_count else None

    def unit_of_tile(self, tile: int) -> int | None:
        """Return the unit that a tile is made of; None for a predicted tile."""
        return None if tile < self.tile_count else tile - self.tile_count

    def tiles_of_array(self, array: int) -> tuple[tuple[AxisTiles, ...], int]:
        """Return the tiles that feed an array, per axis, and the number of the first one."""
        relation = self._relations[array]
        return tuple(relation.tiles), relation.first_tile

    def share_of_tile(self, tile: int, count: int) -> int:
        """Return in which of so many parts of the image a tile lies, so that tiles of one unit are mostly together.

        The parts take up equal shares of each layer, the tiles with one place on the first axis that has several, and
        are the same in all layers. Where a layer has fewer tiles than there are parts, tiles are dealt out one by one.

        Examples
        --------
        >>> from tilewright.plan import plan_write
        >>> plan = plan_write((96, 512, 512), "ZYX", (64, 256, 256), (16, 64, 64))
        >>> [plan.share_of_tile(tile, 2) for tile in range(plan.tile_count)]
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1]
        """
        tiles = self._tiles_per_layer
        return tile % tiles * count // tiles if tiles >= count else tile % count

    @cached_property
    def _tiles_per_layer(self) -> int:
        """The number of tiles with one place on the first axis that has several."""
        return prod([count for count in self._tile_counts if count > 1][1:])

    def tile_nbytes(self, tile: int) -> int:
        """Return the bytes of a tile's valid region."""
        return self._tiles_like(tile).element_count(tile) * self.itemsize

    def unit_nbytes(self, unit: int) -> int:
        """Return the bytes of a unit."""
        return self._units_like(unit).element_count(unit) * self.itemsize

    def describe_unit(self, unit: int) -> str:
        """Return a unit in words."""
        return f"the unit at {self.describe_place(unit)}"

    def describe_place(self, unit: int) -> str:
        """Return in words where a unit lies.

        Examples
        --------
        >>> from tilewright.plan import plan_write
        >>> plan = plan_write((300, 300), "YX", (300, 300), (0, 0), levels=2)
        >>> plan.describe_place(plan.unit_count - 1)
        'level 1, Y 0:150, X 0:150'
        """
        array = self.array_of_unit(unit)
        return f"level {array}, " * (array > 0) + describe_region(self.axes, self.unit_region(unit))

    def place_of_unit(self, unit: int) -> dict[str, Any]:
        """Return where a unit lies in types that JSON has: its number, its level, and its region in that level."""
        region = [list(interval) for interval in self.unit_region(unit)]
        return {"unit": unit, "level": self.array_of_unit(unit), "region": region}

    def objects_of_unit(self, unit: int) -> tuple[tuple[int, ...], ...]:
        """Return the grid positions of the stored objects of a unit, in C order."""
        array, rank = self._array_and_rank(unit)
        return array.objects_of_unit(rank)

    def array_of_unit(self, unit: int) -> int:
        """Return the number of the array that a unit belongs to."""
        return bisect_left(self._last_units, unit)

    def first_unit(self, array: int) -> int:
        """Return the number of the first unit of an array."""
        return self._last_units[array - 1] + 1 if array else 0

    def _array_and_rank(self, unit: int) -> tuple[ArrayPlan, int]:
        """Return the array of a unit, and the rank of the unit in it."""
        array = self.array_of_unit(unit)
        return self.arrays[array], unit - self.first_unit(array)

    # What the answers are looked up in.

    @cached_property
    def _relations(self) -> tuple[ArrayRelation, ...]:
        """The tiles and units of each array."""
        first_units = [0, *(last + 1 for last in self._last_units[:-1])]
        relations = [ArrayRelation(self.tilings, self.arrays[0].units)]
        for level in range(1, len(self.arrays)):
            first_tile = self.tile_count + first_units[level - 1]
            tiles, units = self._pyramid.tiles(level), self.arrays[level].units
            relations.append(ArrayRelation(tiles, units, first_tile, first_units[level]))
        return tuple(relations)

    @cached_property
    def _predicted_tiles(self) -> GridRelation:
        return self._relations[0].units_of_tiles

    @cached_property
    def _finest_units(self) -> GridRelation:
        return self._relations[0].tiles_of_units

    def _tiles_like(self, tile: int) -> GridRelation:
        """Return the grid that a tile is of."""
        if tile < self.tile_count:
            return self._predicted_tiles
        return self._relations[self.array_of_unit(tile - self.tile_count) + 1].units_of_tiles

    def _units_like(self, unit: int) -> GridRelation:
        """Return the grid that a unit is of."""
        if unit < self.finest_unit_count:
            return self._finest_units
        return self._relations[self.array_of_unit(unit)].tiles_of_units

    @cached_property
    def _crop_starts(self) -> "tuple[CompactArray[int], ...]":
        """Where the valid regions begin inside the tiles, per axis."""
        return tuple(CompactArray("q", (t.crop(index)[0] for index in range(t.count))) for t in self.tilings)
