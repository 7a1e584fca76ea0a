"""An array of an output is addressed in the order of its plan, however its axes lie in Zarr."""

import posixpath
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store

from tilewright.assemble import AnyArray


class ArrayView(ABC):
    """View of one or more equal Zarr arrays with the axes of the plan.

    Parameters
    ----------
    one : zarr.Array
        The Zarr array, or any of them.
    """

    one: zarr.Array[Any]

    @property
    def store(self) -> Store:
        """The store."""
        return self.one.store

    @property
    def metadata(self) -> Any:
        """The metadata, of each of them."""
        return self.one.metadata

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type."""
        return self.one.dtype

    @property
    def compressors(self) -> Any:
        """The compressors."""
        return self.one.compressors

    @property
    def fill_value(self) -> Any:
        """The value of elements that are not written."""
        return self.one.fill_value

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def path(self) -> str:
        """The path in the store."""
        return self.one.path

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The extents."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """The extents of a chunk."""
        return self._planned(self.one.chunks)

    @property
    def shards(self) -> tuple[int, ...] | None:
        """The extents of a shard; None without shards."""
        return None if self.one.shards is None else self._planned(self.one.shards)

    @abstractmethod
    def key(self, position: tuple[int, ...]) -> str:
        """Return the key in the store of an object by its position on the grid of the plan."""

    @abstractmethod
    def part(self, planned: AnyArray) -> AnyArray:
        """Return a part of an object with the axes of the Zarr array, contiguous."""

    @abstractmethod
    def __getitem__(self, selection: Any) -> AnyArray:
        """Return elements by integers, slices and an ellipsis, as an array of Zarr does."""

    def __array__(self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None) -> AnyArray:
        return self[...].astype(dtype or self.dtype, copy=False)

    @abstractmethod
    def _planned(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Return the extents of an object as those of the plan."""


StoredArray = zarr.Array[Any] | ArrayView
"""An array of an output as it is stored."""


def object_key(array: StoredArray, position: tuple[int, ...]) -> str:
    """Return the key in the store of an object by its position on the grid of the plan."""
    if isinstance(array, ArrayView):
        return array.key(position)
    return posixpath.join(array.path, array.metadata.encode_chunk_key(position))
