"""The samples of one level lie in Zarr arrays of their own, and are addressed and read as one array with an axis S.

A stored object has the extent 1 on that axis, so that its bytes are those of the array of its sample.
"""

import posixpath
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store

from tilewright.assemble import AnyArray


@dataclass(frozen=True)
class SampleArrays:
    """Arrays ``<path>/<sample>/<name>`` of a store, equal but for what they hold.

    Parameters
    ----------
    one : zarr.Array
        The array of any sample.
    path : str
        Path of the group in the store; empty for its root.
    name : str
        Name of the level.
    count : int
        The number of samples.
    """

    one: zarr.Array[Any]
    path: str
    name: str
    count: int

    def path_of(self, sample: int) -> str:
        """Return the path of the array of a sample."""
        return posixpath.join(self.path, str(sample), self.name)

    @property
    def store(self) -> Store:
        """The store of all of them."""
        return self.one.store

    @property
    def metadata(self) -> Any:
        """The metadata of each of them."""
        return self.one.metadata

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type."""
        return self.one.dtype

    @property
    def compressors(self) -> Any:
        """The compressors of each of them."""
        return self.one.compressors

    @property
    def fill_value(self) -> Any:
        """The value of elements that are not written."""
        return self.one.fill_value

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of samples, and the extents of each."""
        return (self.count, *self.one.shape)

    @property
    def ndim(self) -> int:
        """The number of axes, with that of samples."""
        return len(self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """The extents of a chunk, which lies in one sample."""
        return (1, *self.one.chunks)

    @property
    def shards(self) -> tuple[int, ...] | None:
        """The extents of a shard, which lies in one sample; None without shards."""
        return None if self.one.shards is None else (1, *self.one.shards)

    def __getitem__(self, selection: Any) -> AnyArray:
        """Return elements by integers, slices and an ellipsis, as an array of Zarr does."""
        chosen = selection if isinstance(selection, tuple) else (selection,)
        if chosen[:1] == (Ellipsis,) or not chosen:
            # Without one for each axis, the ellipsis stands for that of samples too.
            chosen = (slice(None), *chosen) if len(chosen) <= self.ndim else chosen[1:]
        first, *others = chosen
        samples = range(self.count)[first]
        if isinstance(samples, int):
            return self._read(samples, others)
        read = [self._read(sample, others) for sample in samples]
        return np.stack(read) if read else np.empty((0, *self.one.shape), self.dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None) -> AnyArray:
        return self[...].astype(dtype or self.dtype, copy=False)

    def _read(self, sample: int, selection: list[Any]) -> AnyArray:
        array = zarr.open_array(self.store, path=self.path_of(sample), mode="r")
        return np.asarray(array[tuple(selection) or ...])


StoredArray = zarr.Array[Any] | SampleArrays
"""An array of an output as it is stored."""


def object_key(array: StoredArray, position: tuple[int, ...]) -> str:
    """Return the key in the store of an object by its position on the grid."""
    if not isinstance(array, SampleArrays):
        return posixpath.join(array.path, array.metadata.encode_chunk_key(position))
    sample, *others = position
    key: str = array.metadata.encode_chunk_key(tuple(others))
    return posixpath.join(array.path_of(sample), key)
