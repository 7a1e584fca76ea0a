"""An output as it is planned: its arrays, the tiles that feed them, and what both cost, by arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any, Self

from tilewright.geometry import AxisTiling
from tilewright.geometry.footprint import straddling_extent
from tilewright.plan.array_plan import ArrayPlan
from tilewright.plan.pyramid import Pyramid
from tilewright.plan.request import PlanRequest


@dataclass(frozen=True)
class OutputPlan:
    """Fields and costs of a plan, as `WritePlan` documents them."""

    axes: str
    layout: str
    tilings: tuple[AxisTiling, ...]
    arrays: tuple[ArrayPlan, ...]
    waiting_nbytes: int
    window_nbytes: int
    compact_tile_count: int
    reduction: str = "mean"
    comes_in_tile_order: bool = False
    is_collection: bool = False
    stored_axes: str | None = None
    request: PlanRequest | None = field(default=None, compare=False, repr=False)
    _tile_counts: tuple[int, ...] = field(init=False, compare=False, repr=False)
    _last_units: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tile_counts", tuple(tiling.count for tiling in self.tilings))
        counts = accumulate(prod(array.unit_counts) for array in self.arrays)
        object.__setattr__(self, "_last_units", tuple(count - 1 for count in counts))

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        # What is looked up is made anew, where it is needed.
        return type(self), tuple(getattr(self, field.name) for field in fields(self) if field.init)

    def to_dict(self) -> dict[str, Any]:
        """Return all that the plan is made of, in types that JSON has.

        Examples
        --------
        >>> import json
        >>> from tilewright.plan import WritePlan, plan_write
        >>> plan = plan_write((300, 300), "YX", (64, 64), (16, 16), shards="auto")
        >>> WritePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
        True
        """
        stored = [field.name for field in fields(self) if field.init and field.name != "request"]
        return {name: _as_json(getattr(self, name)) for name in stored}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
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
    def padding(self) -> str:
        """How an axis that is shorter than its tile is padded, as a request says it."""
        return "zeros" if any(tiling.pads_behind for tiling in self.tilings) else "reflect"

    @property
    def channels(self) -> int:
        """The number of channels of the output."""
        return self.shape[self.axes.index("C")] if "C" in self.axes else 1

    @cached_property
    def extremes_nbytes(self) -> int:
        """Bytes of the least and the greatest value of each channel of each sample in a unit, at most.

        Zero where none are taken, since no window of display follows from them: for labels, bools, complex numbers, and
        samples in one array.
        """
        has_windows = self.is_collection or ("S" not in self.axes and self.stored_axes is None)
        if not has_windows or self.reduction == "mode" or self.dtype.startswith("complex"):
            return 0
        units = zip(self.axes, self.arrays[0].units, strict=True)
        return 2 * self.itemsize * prod(on_axis.largest for axis, on_axis in units if axis in "SC")

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """The factors per axis from each level to the next coarser one."""
        return tuple(array.factors for array in self.arrays[1:])

    @cached_property
    def stored_order(self) -> tuple[int, ...]:
        """For each axis of the stored arrays the axis of the plan; without that of samples in arrays of their own."""
        names = self.axes[int(self.is_collection) :] if self.stored_axes is None else self.stored_axes
        return tuple(map(self.axes.index, names))

    @cached_property
    def axes_as_stored(self) -> tuple[int, ...]:
        """The axes of the plan in the order in which elements are stored; that of samples may lie in their paths."""
        return tuple([axis for axis in range(len(self.axes)) if axis not in self.stored_order]) + self.stored_order

    def as_stored(self, values: Sequence[int]) -> tuple[int, ...]:
        """Return one value per axis of the plan as one per axis of the stored arrays.

        Examples
        --------
        >>> from tilewright.plan import plan_write
        >>> plan = plan_write((64, 48, 3), "YXC", (32, 32), (8, 8), output_axes="source")
        >>> plan.axes, plan.shape, plan.as_stored(plan.shape)
        ('CYX', (3, 64, 48), (64, 48, 3))
        """
        return tuple([values[axis] for axis in self.stored_order])

    @cached_property
    def _planned_order(self) -> tuple[int, ...]:
        return tuple(map(self.axes_as_stored.index, range(len(self.axes))))

    def as_planned(self, values: Sequence[int]) -> tuple[int, ...]:
        """Return one value per axis in the order of `axes_as_stored` as one per axis of the plan."""
        return tuple([values[place] for place in self._planned_order])

    @property
    def asked_chunks(self) -> tuple[int, ...]:
        """The extents of a chunk as a request has them: the axes are in the order of the output."""
        return self.chunks if self.stored_axes is None else self.as_stored(self.chunks)

    @property
    def asked_shards(self) -> tuple[int, ...] | None:
        """The extents of a shard as a request has them."""
        return self.shards if self.shards is None or self.stored_axes is None else self.as_stored(self.shards)

    def stored_paths(self, array: int) -> list[str]:
        """Return the paths of the Zarr arrays in which an array lies, in the group of the output.

        Examples
        --------
        >>> from tilewright.plan import plan_write
        >>> plan_write((2, 64, 64), "SYX", (32, 32), (8, 8), levels=2).stored_paths(1)
        ['0/1', '1/1']
        """
        name = self.arrays[array].name
        return [f"{sample}/{name}" for sample in range(self.shape[0])] if self.is_collection else [name]

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
        return not any(self._straddling)

    @cached_property
    def largest_unit_distance(self) -> int:
        """Upper bound of the distance, in ranks, from the unit in which a tile begins to another one that it feeds."""
        distance = 0
        for tiling, units, straddling in zip(self.tilings, self.arrays[0].units, self._straddling, strict=True):
            reach = 0 if not straddling else tiling.largest_valid_extent // units.step + 2
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
        return min(waiting_nbytes + self._pyramid.arriving_nbytes(self.admitted_nbytes), self._pyramid.nbytes)

    def admitted_within(self, memory_nbytes: int) -> int:
        """Return the bytes of tiles that may be admitted so that a memory holds them, and what they become."""
        return self._pyramid.admitted_within(memory_nbytes)

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

    @cached_property
    def finest_unit_count(self) -> int:
        """The number of units at full resolution."""
        return prod(self.arrays[0].unit_counts)

    # What it follows from.

    @cached_property
    def _straddling(self) -> tuple[int, ...]:
        """Upper bound of the extent of a tile that lies in two units, per axis; zero where none does."""
        return tuple(map(straddling_extent, self.tilings, self.arrays[0].units))

    @cached_property
    def _pyramid(self) -> Pyramid:
        """The coarser levels."""
        return Pyramid(self.arrays, self._straddling, is_in_any_order=not self.comes_in_tile_order)

    @cached_property
    def _tiled_unit_count(self) -> int:
        """The number of units that are tiles of a coarser level."""
        return self._last_units[-2] + 1 if len(self.arrays) > 1 else 0


def _as_json(value: Any) -> Any:
    """Return a number, a text, a tuple or an axis as JSON has it."""
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    if is_dataclass(value):
        return {field.name: _as_json(getattr(value, field.name)) for field in fields(value) if field.init}
    return value
