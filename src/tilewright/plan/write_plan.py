"""A plan answers, by arithmetic alone, which tiles a unit needs, which units a tile feeds, and what the run costs.

It is frozen, holds a few numbers per axis, and is the same for every executor: what is written follows from it and
from the predictions, from nothing else.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from math import prod
from typing import Any

from tilewright.geometry import (
    AxisTiling,
    AxisUnits,
    Region,
    element_count,
    position_of,
    ranks_in,
)
from tilewright.plan.describe import describe
from tilewright.plan.dtypes import itemsize
from tilewright.plan.footprint import straddling_extent


@dataclass(frozen=True)
class WritePlan:
    """The write units of one output array, the tiles that feed them, and the cost of both.

    Parameters
    ----------
    axes : str
        The axes of the output, in the order ``STCZYX``.
    dtype : str
        The data type of the output, by its NumPy name.
    layout : str
        ``"compact"`` or ``"aligned"``.
    tilings, units : tuple
        One `AxisTiling` and one `AxisUnits` per output axis.
    chunks : tuple of int
        The extents of a chunk, one per output axis.
    shards : tuple of int or None
        The extents of a shard where the array is sharded.
    waiting_nbytes : int
        Upper bound of the bytes of tiles that wait for units that they share.
    window_nbytes : int
        Bytes of tiles that may be in flight beyond those that wait.
    compact_tile_count : int
        The number of tiles of the compact layout, to compare with.
    """

    axes: str
    dtype: str
    layout: str
    tilings: tuple[AxisTiling, ...]
    units: tuple[AxisUnits, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    waiting_nbytes: int
    window_nbytes: int
    compact_tile_count: int
    _tile_counts: tuple[int, ...] = field(init=False, compare=False, repr=False)
    _unit_counts: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tile_counts", tuple(tiling.count for tiling in self.tilings))
        object.__setattr__(self, "_unit_counts", tuple(units.count for units in self.units))

    def __str__(self) -> str:
        return describe(self)

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
        return {field.name: _as_json(getattr(self, field.name)) for field in fields(self) if field.init}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "WritePlan":
        """Return the plan that `to_dict` was called on."""
        shards = values["shards"]
        return cls(
            **values
            | {
                "tilings": tuple(AxisTiling(**numbers) for numbers in values["tilings"]),
                "units": tuple(AxisUnits(**numbers) for numbers in values["units"]),
                "chunks": tuple(values["chunks"]),
                "shards": None if shards is None else tuple(shards),
            }
        )

    # What is written.

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The extents of the output array."""
        return tuple(tiling.extent for tiling in self.tilings)

    @property
    def stored_extents(self) -> tuple[int, ...]:
        """The extents of a stored object: a shard where the array is sharded, else a chunk."""
        return self.chunks if self.shards is None else self.shards

    @property
    def unit_extents(self) -> tuple[int, ...]:
        """The extents of an inner write unit; those at the ends of an axis may be shorter or longer."""
        return tuple(min(units.step, units.extent) for units in self.units)

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
    def itemsize(self) -> int:
        """Bytes of one element."""
        return itemsize(self.dtype)

    # What it costs.

    @cached_property
    def tile_count(self) -> int:
        """The number of tiles, each predicted once."""
        return prod(self._tile_counts)

    @cached_property
    def unit_count(self) -> int:
        """The number of write units."""
        return prod(self._unit_counts)

    @property
    def object_count(self) -> int:
        """The number of stored objects: files, where the output is a folder."""
        return prod(-(-extent // stored) for extent, stored in zip(self.shape, self.stored_extents, strict=True))

    @cached_property
    def units_are_independent(self) -> bool:
        """Whether every tile lies in one unit, so that one task predicts and writes the unit."""
        return not any(straddling_extent(tiling, units) for tiling, units in zip(self.tilings, self.units, strict=True))

    @cached_property
    def largest_unit_distance(self) -> int:
        """Upper bound of the distance, in ranks, from the unit in which a tile begins to another one that it feeds."""
        distance = 0
        for tiling, units in zip(self.tilings, self.units, strict=True):
            reach = 0 if not straddling_extent(tiling, units) else tiling.largest_valid_extent // units.step + 2
            distance = distance * units.count + min(reach, units.count - 1)
        return distance

    @property
    def task_count(self) -> int:
        """The number of Dask tasks of `predict_to_zarr`, with one tile in a batch."""
        return self.unit_count if self.units_are_independent else self.unit_count + self.tile_count

    @property
    def output_nbytes(self) -> int:
        """Bytes of the output before compression."""
        return prod(self.shape) * self.itemsize

    @property
    def largest_unit_nbytes(self) -> int:
        """Upper bound of the bytes of one write unit."""
        return prod(units.largest for units in self.units) * self.itemsize

    @property
    def peak_live_nbytes(self) -> int:
        """Upper bound of the bytes of predicted tiles that are held at any time."""
        return min(self.waiting_nbytes + self.window_nbytes, self.output_nbytes)

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
        return tuple(tiling.valid(index) for tiling, index in zip(self.tilings, self.tile_position(tile), strict=True))

    def crop_region(self, tile: int) -> Region:
        """Return where the valid region lies inside the padded tile."""
        return tuple(tiling.crop(index) for tiling, index in zip(self.tilings, self.tile_position(tile), strict=True))

    def unit_region(self, unit: int) -> Region:
        """Return the elements that a unit owns."""
        position = position_of(unit, self._unit_counts)
        return tuple(units.span(index) for units, index in zip(self.units, position, strict=True))

    def units_of_tile(self, tile: int) -> tuple[int, ...]:
        """Return the units that hold a piece of this tile, in C order."""
        return ranks_in(
            tuple(
                units.indices_in(*interval) for units, interval in zip(self.units, self.valid_region(tile), strict=True)
            ),
            self._unit_counts,
        )

    def tiles_of_unit(self, unit: int) -> tuple[int, ...]:
        """Return the tiles that have a piece in this unit, in C order."""
        return self.tiles_in(self.unit_region(unit))

    def tiles_in(self, region: Region) -> tuple[int, ...]:
        """Return the tiles that own an element of this region, in C order."""
        return ranks_in(
            tuple(tiling.indices_in(*interval) for tiling, interval in zip(self.tilings, region, strict=True)),
            self._tile_counts,
        )

    def tiles_starting_in(self, unit: int) -> tuple[int, ...]:
        """Return the tiles whose valid region begins in this unit: those to predict when it comes to its turn.

        Each tile begins in one unit, the first in C order of those that it feeds. So when all tiles that begin in a
        unit or before it are there, the unit is complete.
        """
        return ranks_in(
            tuple(
                tiling.starts_in(*interval)
                for tiling, interval in zip(self.tilings, self.unit_region(unit), strict=True)
            ),
            self._tile_counts,
        )

    def tile_nbytes(self, tile: int) -> int:
        """Return the bytes of a tile's valid region."""
        return element_count(self.valid_region(tile)) * self.itemsize

    def unit_nbytes(self, unit: int) -> int:
        """Return the bytes of a unit."""
        return element_count(self.unit_region(unit)) * self.itemsize

    def objects_of_unit(self, unit: int) -> tuple[tuple[int, ...], ...]:
        """Return the grid positions of the stored objects of a unit, in C order."""
        grids = tuple(
            range(start // stored, -(-stop // stored))
            for (start, stop), stored in zip(self.unit_region(unit), self.stored_extents, strict=True)
        )
        positions: list[tuple[int, ...]] = [()]
        for grid in grids:
            positions = [(*position, index) for position in positions for index in grid]
        return tuple(positions)


def _as_json(value: Any) -> Any:
    """Return a number, a text, a tuple or an axis as JSON has it."""
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    return value
