"""A Zarr array with the axes of the source is addressed and read with those of the plan, element for element."""

import posixpath
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from tilewright.assemble import AnyArray
from tilewright.objects.stored_array import ArrayView


@dataclass(frozen=True)
class ReorderedArray(ArrayView):
    """Zarr array whose axes are in another order than those of the plan.

    Parameters
    ----------
    one : zarr.Array
        The Zarr array.
    order : tuple of int
        For each of its axes the axis of the plan.
    """

    one: zarr.Array[Any]
    order: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""
        return self._planned(self.one.shape)

    def key(self, position: tuple[int, ...]) -> str:
        """Return the key in the store of an object by its position on the grid of the plan."""
        key: str = self.metadata.encode_chunk_key(tuple([position[axis] for axis in self.order]))
        return posixpath.join(self.path, key)

    def part(self, planned: AnyArray) -> AnyArray:
        """Return a part of an object with the axes of the Zarr array: a copy."""
        return np.ascontiguousarray(planned.transpose(self.order))

    def __getitem__(self, selection: Any) -> AnyArray:
        """Return elements by integers, slices and an ellipsis, as an array of Zarr does."""
        chosen = list(selection) if isinstance(selection, tuple) else [selection]
        first = chosen.index(Ellipsis) if Ellipsis in chosen else len(chosen)
        missing = self.ndim - len(chosen) + (first < len(chosen))
        chosen[first : first + 1] = [slice(None)] * missing
        read = np.asarray(self.one[tuple([chosen[axis] for axis in self.order])])
        kept = [axis for axis in self.order if isinstance(chosen[axis], slice)]
        return read.transpose([kept.index(axis) for axis in sorted(kept)])

    def _planned(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        return tuple([extents[self.order.index(axis)] for axis in range(len(self.order))])
