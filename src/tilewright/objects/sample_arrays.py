"""The samples of one level lie in Zarr arrays of their own, and are addressed and read as one array with an axis S.

A stored object has the extent 1 on that axis, so that its bytes are those of the array of its sample.
"""

import posixpath
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from tilewright.assemble import AnyArray
from tilewright.objects.stored_array import ArrayView


@dataclass(frozen=True)
class SampleArrays(ArrayView):
    """Arrays ``<group>/<sample>/<name>`` of a store, equal but for what they hold.

    Parameters
    ----------
    one : zarr.Array
        The array of any sample.
    group : str
        Path of the group in the store; empty for its root.
    name : str
        Name of the level.
    count : int
        The number of samples.
    """

    one: zarr.Array[Any]
    group: str
    name: str
    count: int

    def path_of(self, sample: int) -> str:
        """Return the path of the array of a sample."""
        return posixpath.join(self.group, str(sample), self.name)

    @property
    def path(self) -> str:
        """The path of the group."""
        return self.group

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of samples, and the extents of each."""
        return (self.count, *self.one.shape)

    def key(self, position: tuple[int, ...]) -> str:
        """Return the key in the store of an object by its position on the grid of the plan."""
        sample, *others = position
        key: str = self.metadata.encode_chunk_key(tuple(others))
        return posixpath.join(self.path_of(sample), key)

    def part(self, planned: AnyArray) -> AnyArray:
        """Return a part of an object without the axis of samples."""
        return planned.reshape(planned.shape[1:])

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

    def _planned(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *extents)

    def _read(self, sample: int, selection: list[Any]) -> AnyArray:
        array = zarr.open_array(self.store, path=self.path_of(sample), mode="r")
        return np.asarray(array[tuple(selection) or ...])
