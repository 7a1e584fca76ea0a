"""An image that is a dask array is computed chunk by chunk in the calling thread, and never held whole."""

import functools
from collections.abc import Callable, Iterator
from itertools import accumulate, product
from typing import Any, TypeVar

import dask.array
import numpy as np
from dask.base import optimize
from dask.local import get_sync
from dask.optimization import cull
from dask.typing import Key

from tilewright.assemble import AnyArray, paste, shared_slices
from tilewright.geometry import Region, extents_of

WriteFunction = TypeVar("WriteFunction", bound=Callable[..., object])


def takes_lazy_image(write_func: WriteFunction) -> WriteFunction:
    """Declare that a write function takes an image that is a dask array, stitched where it is looked at.

    Parameters
    ----------
    write_func : callable
        The function; it gets the attribute `takes_lazy_image`.

    Examples
    --------
    >>> @takes_lazy_image
    ... def write(file_path, img):
    ...     pass
    >>> is_lazy(write), is_lazy(print)
    (True, False)
    """
    write_func.takes_lazy_image = True  # type: ignore[attr-defined]
    return write_func


def is_lazy(write_func: Callable[..., object]) -> bool:
    """Return whether a function, a partial of one, a method or a callable object declares `takes_lazy_image`."""
    while isinstance(write_func, functools.partial):
        write_func = write_func.func
    called: Any = type(write_func).__call__
    return any(bool(getattr(declared, "takes_lazy_image", False)) for declared in (write_func, called))


class LazyImage:
    """Any region of an image that is a dask array, computed when it is read.

    The graph of the array is optimized once, then each chunk is computed from what it needs of that, so that the time
    for a chunk does not grow with the number of chunks.

    Parameters
    ----------
    img : dask array
        The image.

    Attributes
    ----------
    shape, dtype : tuple of int, numpy.dtype
        Those of the image; the data type in the byte order of this machine.

    Raises
    ------
    ValueError
        If the array does not know its extents.

    Examples
    --------
    >>> image = LazyImage(dask.array.arange(6, chunks=4))
    >>> list(image.chunk_regions())
    [((0, 4),), ((4, 6),)]
    >>> image.read(((3, 5),))
    array([3, 4])
    """

    def __init__(self, img: dask.array.Array) -> None:
        if any(np.isnan(extent) for extent in img.shape):
            raise ValueError(
                f"the image is a dask array of unknown extents, {img.shape}; call its compute_chunk_sizes() first"
            )
        (optimized,) = optimize(img)
        self._graph = dict(optimized.__dask_graph__())
        self._name: str = optimized.name
        self.shape: tuple[int, ...] = tuple(img.shape)
        self.dtype: np.dtype[np.generic] = img.dtype.newbyteorder("=")
        self._intervals = [
            [(stop - extent, stop) for stop, extent in zip(accumulate(extents), extents, strict=True)]
            for extents in img.chunks
        ]

    def chunk_regions(self) -> Iterator[Region]:
        """Yield the region of each chunk, in C order."""
        for region in product(*self._intervals):
            if 0 not in extents_of(region):
                yield region

    def read(self, region: Region) -> AnyArray:
        """Return a region of the image; of a whole chunk, the array that was computed.

        Parameters
        ----------
        region : Region
            One ``(start, stop)`` per axis.

        Raises
        ------
        ValueError
            If a chunk turns out to have another shape or data type than the array says.
        """
        met = [
            [index for index, (start, stop) in enumerate(intervals) if max(start, first) < min(stop, last)]
            for intervals, (first, last) in zip(self._intervals, region, strict=True)
        ]
        values: AnyArray | None = None
        for position in product(*met):
            chunk = tuple(intervals[index] for intervals, index in zip(self._intervals, position, strict=True))
            computed = self._compute(position, extents_of(chunk))
            if chunk == region:
                return computed
            if values is None:
                values = np.empty(extents_of(region), self.dtype)
            into, out_of = shared_slices(region, chunk)
            paste(values, into, computed, out_of)
            # Or it would be held while the next one is computed.
            del computed
        return np.empty(extents_of(region), self.dtype) if values is None else values

    def _compute(self, position: tuple[int, ...], extents: tuple[int, ...]) -> AnyArray:
        key: Key = (self._name, *position)
        needed, _ = cull(self._graph, [key])
        # In this thread: the caller may be one of several tasks on a worker, which counts its threads and its memory.
        computed: AnyArray = np.asarray(get_sync(needed, key))
        if computed.shape != extents or computed.dtype.newbyteorder("=") != self.dtype:
            raise ValueError(
                f"chunk {position} of the image is {computed.shape} {computed.dtype}, but its dask array says "
                f"{extents} {self.dtype}; make the array with the right chunks and dtype"
            )
        return computed


def regions_of(shape: tuple[int, ...], extents: tuple[int, ...]) -> Iterator[Region]:
    """Yield regions of these extents that partition an image, in C order; the last on each axis may be smaller.

    Examples
    --------
    >>> list(regions_of((2, 5), (2, 3)))
    [((0, 2), (0, 3)), ((0, 2), (3, 5))]
    """
    pairs = zip(shape, extents, strict=True)
    intervals = ([(start, min(start + step, extent)) for start in range(0, extent, step)] for extent, step in pairs)
    return product(*intervals)
