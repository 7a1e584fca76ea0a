"""Plan of one array: its stored objects, and the write units that own them."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

from tilewright.geometry import AxisUnits, Region, position_of
from tilewright.plan.dtypes import itemsize

FULL_RESOLUTION = "0"
"""Name of the full-resolution array in its group, as in OME-Zarr."""


@dataclass(frozen=True)
class ArrayPlan:
    """One array of an output.

    Parameters
    ----------
    dtype : str
        Data type of the array, by its NumPy name.
    units : tuple of AxisUnits
        Write units, per axis.
    chunks : tuple of int
        Extents of a chunk, per axis.
    shards : tuple of int or None
        Extents of a shard where the array is sharded.
    name : str
        Name of the array in the group of the output.
    factors : tuple of int
        Factors per axis from the array of the level below; empty at full resolution.
    """

    dtype: str
    units: tuple[AxisUnits, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    name: str = FULL_RESOLUTION
    factors: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ArrayPlan":
        """Return the array of a plan that `WritePlan.to_dict` was called on."""
        units = tuple(AxisUnits(**numbers) for numbers in values["units"])
        shards = None if values["shards"] is None else tuple(values["shards"])
        tuples = {name: tuple(values[name]) for name in ("chunks", "factors")}
        return cls(**values | {"units": units, "shards": shards} | tuples)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The extents of the array."""
        return tuple(units.extent for units in self.units)

    @property
    def stored_extents(self) -> tuple[int, ...]:
        """The extents of a stored object: a shard where the array is sharded, else a chunk."""
        return self.chunks if self.shards is None else self.shards

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of stored objects on each axis."""
        return tuple(-(-extent // stored) for extent, stored in zip(self.shape, self.stored_extents, strict=True))

    @cached_property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return itemsize(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the array before compression."""
        return prod(self.shape) * self.itemsize

    @cached_property
    def unit_counts(self) -> tuple[int, ...]:
        """The number of write units on each axis."""
        return tuple(units.count for units in self.units)

    @property
    def unit_extents(self) -> tuple[int, ...]:
        """The extents of an inner write unit; those at the ends of an axis may be shorter or longer."""
        return tuple(min(units.step, units.extent) for units in self.units)

    @property
    def largest_unit_nbytes(self) -> int:
        """Upper bound of the bytes of one write unit."""
        return prod(units.largest for units in self.units) * self.itemsize

    def unit_region(self, rank: int) -> Region:
        """Return the elements that a unit owns; units have ranks in C order."""
        position = position_of(rank, self.unit_counts)
        return tuple([units.span(index) for units, index in zip(self.units, position, strict=True)])

    def objects_of_unit(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """Return the grid positions of the stored objects of a unit, in C order."""
        intervals = zip(self.unit_region(rank), self.stored_extents, strict=True)
        return tuple(product(*(range(start // stored, -(-stop // stored)) for (start, stop), stored in intervals)))
