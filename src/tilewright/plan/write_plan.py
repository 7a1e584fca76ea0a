"""Plan of one output: the tiles of each unit, the units of each tile, and all costs, by arithmetic alone.

It is frozen, is made of a few numbers per axis, and is the same for every executor: what is written follows from it and
from the predictions, from nothing else.
"""

from array import array as CompactArray  # noqa: N812
from bisect import bisect_left
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

from tilewright.geometry import AxisTiling, AxisUnits, Region, position_of
from tilewright.geometry.footprint import straddling_extent
from tilewright.plan.array_plan import ArrayPlan
from tilewright.plan.describe import describe, describe_html, describe_region
from tilewright.plan.pyramid import Pyramid
from tilewright.plan.relations import ArrayRelation, AxisTiles
from tilewright.plan.request import PlanRequest


@dataclass(frozen=True)
class WritePlan:
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
    request : PlanRequest, optional
        What the plan was made of, for `predict_to_zarr`; a ledger does not keep it.
    """

    axes: str
    layout: str
    tilings: tuple[AxisTiling, ...]
    arrays: tuple[ArrayPlan, ...]
    waiting_nbytes: int
    window_nbytes: int
    compact_tile_count: int
    reduction: str = "mean"
    comes_in_tile_order: bool = False
    request: PlanRequest | None = field(default=None, compare=False, repr=False)
    _tile_counts: tuple[int, ...] = field(init=False, compare=False, repr=False)
    _last_units: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tile_counts", tuple(tiling.count for tiling in self.tilings))
        counts = accumulate(prod(array.unit_counts) for array in self.arrays)
        object.__setattr__(self, "_last_units", tuple(count - 1 for count in counts))

    def __str__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        return describe_html(self)

    def __reduce__(self) -> tuple[type["WritePlan"], tuple[Any, ...]]:
        # What is looked up is made anew, where it is needed.
        return WritePlan, tuple(getattr(self, field.name) for field in fields(self) if field.init)

    def to_dict(self) -> dict[str, Any]:
        """Return all that the plan is made of, in types that JSON has.

        Examples
        --------
        >>> import json
        >>> from tilewright.plan import plan_write
        >>> plan = plan_write((300, 300), "YX", (64, 64), (16, 16), shards="auto")
        >>> WritePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
        True
        """
        stored = [field.name for field in fields(self) if field.init and field.name != "request"]
        return {name: _as_json(getattr(self, name)) for name in stored}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "WritePlan":
        """Return the plan that `to_dict` was called on."""
        arrays = tuple(map(ArrayPlan.from_dict, values["arrays"]))
        tilings = tuple(AxisTiling(**numbers) for numbers in values["tilings"])
        return cls(**values | {"tilings": tilings, "arrays": arrays})

    # What is written.

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of the array at full resolution."""
        return self.arrays[0].shape

    @property
    def dtype(self) -> str:
        """The data type of the array at full resolution, and of the tiles."""
        return self.arrays[0].dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """The extents of a chunk of the array at full resolution."""
        return self.arrays[0].chunks

    @property
    def shards(self) -> tuple[int, ...] | None:
        """The extents of a shard of the array at full resolution, where it is sharded."""
        return self.arrays[0].shards

    @cached_property
    def itemsize(self) -> int:
        """Bytes of one element of a tile."""
        return self.arrays[0].itemsize

    @property
    def tile_size(self) -> tuple[int, ...]:
        """The tile on each spatial axis."""
        return tuple(t.tile for t, name in zip(self.tilings, self.axes, strict=True) if name in "ZYX")

    @property
    def overlap(self) -> tuple[int, ...]:
        """The overlap on each spatial axis."""
        return tuple(t.overlap for t, name in zip(self.tilings, self.axes, strict=True) if name in "ZYX")

    @property
    def channels(self) -> int:
        """The number of channels of the output."""
        return self.shape[self.axes.index("C")] if "C" in self.axes else 1

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """The factors per axis from each level to the next coarser one."""
        return tuple(array.factors for array in self.arrays[1:])

    # What it costs.

    @cached_property
    def tile_count(self) -> int:
        """The number of tiles, each predicted once."""
        return prod(self._tile_counts)

    @cached_property
    def unit_count(self) -> int:
        """The number of write units."""
        return self._last_units[-1] + 1

    @property
    def object_count(self) -> int:
        """The number of stored objects: files, where the output is a folder."""
        return sum(prod(array.grid) for array in self.arrays)

    @cached_property
    def units_are_independent(self) -> bool:
        """Whether every tile lies in one unit, so that one task predicts and writes the unit."""
        return not any(straddling_extent(tiling, units) for tiling, units in self._axes)

    @cached_property
    def largest_unit_distance(self) -> int:
        """Upper bound of the distance, in ranks, from the unit in which a tile begins to another one that it feeds."""
        distance = 0
        for tiling, units in self._axes:
            reach = 0 if not straddling_extent(tiling, units) else tiling.largest_valid_extent // units.step + 2
            distance = distance * units.count + min(reach, units.count - 1)
        return distance

    @property
    def task_count(self) -> int:
        """The number of Dask tasks of `predict_to_zarr`: one per unit, and one more where units share tiles.

        Where tiles are shared, one task predicts those that begin in a unit, and another one writes the unit. One more
        fetches the receipt of a unit that is also a tile of a coarser level.
        """
        predictions = 0 if self.units_are_independent else self.finest_unit_count
        return predictions + self.unit_count + self._tiled_unit_count

    @property
    def output_nbytes(self) -> int:
        """Bytes of the output before compression."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def largest_unit_nbytes(self) -> int:
        """Upper bound of the bytes of one write unit."""
        return max(array.largest_unit_nbytes for array in self.arrays)

    @property
    def padded_tile_nbytes(self) -> int:
        """Bytes of a tile with its halo."""
        return prod(tiling.tile for tiling in self.tilings) * self.itemsize

    @property
    def peak_live_nbytes(self) -> int:
        """Upper bound of the bytes of tiles that are held at any time."""
        return min(self.admitted_nbytes + self._pyramid.arriving_nbytes(self.admitted_nbytes), self.output_nbytes)

    @property
    def admitted_nbytes(self) -> int:
        """Bytes of tiles up to which further ones are admitted; those of coarser levels come unasked."""
        return min(self.waiting_nbytes + self.window_nbytes, self.output_nbytes)

    @cached_property
    def coarser_nbytes(self) -> int:
        """Upper bound of the bytes of tiles of coarser levels that are held at any time."""
        waiting_nbytes = self._pyramid.waiting_nbytes
        return min(waiting_nbytes + self._pyramid.arriving_nbytes(self.admitted_nbytes), self._coarser_array_nbytes)

    @property
    def _coarser_array_nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays[1:])

    @property
    def coarser_waiting_nbytes(self) -> int:
        """Bytes of tiles of coarser levels up to which further predictions are admitted."""
        return self._pyramid.waiting_nbytes

    @property
    def extra_inference(self) -> float:
        """Tiles of this layout, as a ratio to those of the compact layout."""
        return self.tile_count / self.compact_tile_count

    @property
    def read_ratio(self) -> float:
        """Elements that the tiles read together, as a ratio to those of the image."""
        return self.tile_count * prod(min(t.tile, t.extent) for t in self.tilings) / prod(self.shape)

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
        return self._relation_of_tile(tile).tile_region(tile)

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
        return self._relation_of_tile(tile).units_of_tile(tile)

    def tiles_of_unit(self, unit: int) -> tuple[int, ...]:
        """Return the tiles that have a piece in this unit, in C order."""
        return self._relations[self.array_of_unit(unit)].tiles_of_unit(unit)

    def tile_count_of_unit(self, unit: int) -> int:
        """Return the number of tiles that have a piece in this unit."""
        return self._relations[self.array_of_unit(unit)].tile_count_of_unit(unit)

    def tiles_starting_in(self, unit: int) -> tuple[int, ...]:
        """Return the predicted tiles whose valid region begins in this unit: those to ask for when its turn comes.

        Each tile begins in one unit, the first in C order of those that it feeds. So when all tiles that begin in a
        unit or before it are there, the unit is complete. Tiles of coarser levels come when their units are written.
        """
        return self._relations[0].tiles_starting_in(unit) if unit < self.finest_unit_count else ()

    @cached_property
    def finest_unit_count(self) -> int:
        """The number of units at full resolution."""
        return prod(self.arrays[0].unit_counts)

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
        return self._relation_of_tile(tile).tile_elements(tile) * self.itemsize

    def unit_nbytes(self, unit: int) -> int:
        """Return the bytes of a unit."""
        return self._relations[self.array_of_unit(unit)].unit_elements(unit) * self.itemsize

    def describe_unit(self, unit: int) -> str:
        """Return a unit in words."""
        array = self.array_of_unit(unit)
        of_level = f" of level {array}" if array else ""
        return f"the unit{of_level} at {describe_region(self.axes, self.unit_region(unit))}"

    def objects_of_unit(self, unit: int) -> tuple[tuple[int, ...], ...]:
        """Return the grid positions of the stored objects of a unit, in C order."""
        array, rank = self._array_and_rank(unit)
        return array.objects_of_unit(rank)

    def array_of_unit(self, unit: int) -> int:
        """Return the number of the array that a unit belongs to."""
        return bisect_left(self._last_units, unit)

    def _array_and_rank(self, unit: int) -> tuple[ArrayPlan, int]:
        """Return the array of a unit, and the rank of the unit in it."""
        array = self.array_of_unit(unit)
        return self.arrays[array], unit - (self._last_units[array - 1] + 1 if array else 0)

    # What the answers are looked up in.

    @property
    def _axes(self) -> tuple[tuple[AxisTiling, AxisUnits], ...]:
        """The tiles and the units of each axis."""
        return tuple(zip(self.tilings, self.arrays[0].units, strict=True))

    @cached_property
    def _pyramid(self) -> Pyramid:
        """The coarser levels."""
        straddling = [straddling_extent(tiling, units) for tiling, units in self._axes]
        return Pyramid(self.arrays, straddling, is_in_any_order=not self.comes_in_tile_order)

    @cached_property
    def _tiled_unit_count(self) -> int:
        """The number of units that are tiles of a coarser level."""
        return self._last_units[-2] + 1 if len(self.arrays) > 1 else 0

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

    def _relation_of_tile(self, tile: int) -> ArrayRelation:
        if tile < self.tile_count:
            return self._relations[0]
        return self._relations[self.array_of_unit(tile - self.tile_count) + 1]

    @cached_property
    def _crop_starts(self) -> "tuple[CompactArray[int], ...]":
        """Where the valid regions begin inside the tiles, per axis."""
        return tuple(CompactArray("q", (t.crop(index)[0] for index in range(t.count))) for t in self.tilings)


def _as_json(value: Any) -> Any:
    """Return a number, a text, a tuple or an axis as JSON has it."""
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    if is_dataclass(value):
        return {field.name: _as_json(getattr(value, field.name)) for field in fields(value) if field.init}
    return value
