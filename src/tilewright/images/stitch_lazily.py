"""A stitched image as a dask array: a chunk is stitched when it is computed, from the tiles that it needs."""

import uuid
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from math import prod
from operator import sub
from typing import Any

import dask.array
import numpy as np

from tilewright.assemble import AnyArray
from tilewright.geometry import element_count
from tilewright.images.stitching import ImageStitching

LAZY_CHUNK_NBYTES = 32 * 2**20
"""About what a chunk of a lazily stitched image takes; one tile may take more."""
FETCH_NBYTES = 8 * 2**20
"""About as many bytes of tiles are fetched at once."""
Fetch = Callable[[Sequence[Any]], Sequence[AnyArray]]


def stitched_lazily(
    stitching: ImageStitching, tiles: Sequence[Any], fetch: Fetch = list, chunk_nbytes: int = LAZY_CHUNK_NBYTES
) -> dask.array.Array:
    """Return an image as a dask array, of which each chunk is stitched when it is computed.

    Parameters
    ----------
    stitching : ImageStitching
        How the tiles are put together.
    tiles : sequence
        The tiles, or what stands for them.
    fetch : callable
        Turns some of these into arrays.
    chunk_nbytes : int
        Bytes of a chunk, about; one tile may take more.
    """
    chunked = _Chunked(stitching, tiles, fetch, chunk_nbytes)
    image: dask.array.Array = dask.array.from_array(
        chunked,
        chunks=chunked.chunks,
        name=f"stitched-{uuid.uuid4().hex}",
        asarray=False,
        getitem=_Chunked.__getitem__,
        meta=np.empty((0,) * chunked.ndim, chunked.dtype),
    )
    ordered: dask.array.Array = stitching.ordered(image)
    return ordered


class _Chunked:
    """An image that can be sliced along its chunks, which end where valid regions of tiles end."""

    def __init__(self, stitching: ImageStitching, tiles: Sequence[Any], fetch: Fetch, chunk_nbytes: int) -> None:
        self._stitching = stitching
        self._tiles = list(tiles)
        self._fetch = fetch
        spatial = stitching.extents
        coords = [information.stitch_coords for information in stitching.tile_infos]
        starts = [sorted({start for start, _ in on_axis}) for on_axis in zip(*coords, strict=True)]
        self._borders = _chunk_borders(starts, spatial, chunk_nbytes // (stitching.channels * self.dtype.itemsize))
        self._tiles_at: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, information in enumerate(stitching.tile_infos):
            reached = [
                range(_index_at(borders, start), _index_at(borders, stop - 1) + 1)
                for borders, (start, stop) in zip(self._borders, information.stitch_coords, strict=True)
            ]
            for position in product(*reached):
                self._tiles_at[(information.sample_id - stitching.first_sample, *position)].append(number)
        samples = () if stitching.sample_count == 1 else (stitching.sample_count,)
        self.shape = (*samples, stitching.channels, *spatial)
        self.chunks = (
            *((1,) * count for count in samples),
            (stitching.channels,),
            *(tuple(stop - start for start, stop in pairwise(borders)) for borders in self._borders),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._stitching.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, slices: tuple[slice, ...]) -> AnyArray:
        """Return a whole chunk."""
        samples = self._stitching.sample_count
        sample = slices[0].start if samples > 1 else 0
        spatial = tuple((part.start, part.stop) for part in slices[-len(self._borders) :])
        position = map(_index_at, self._borders, [start for start, _ in spatial])
        numbers = self._tiles_at[(sample, *position)]
        stitched = self._stitching.stitch_sample(sample, spatial, self._fetched(numbers), numbers)
        return stitched if samples == 1 else stitched[np.newaxis]

    def _fetched(self, numbers: Sequence[int]) -> Iterator[AnyArray]:
        """Yield tiles, of which few are held at a time."""
        infos = self._stitching.tile_infos
        group: list[int] = []
        nbytes = 0
        for number in numbers:
            group.append(number)
            nbytes += element_count(infos[number].stitch_coords) * self._stitching.channels * self.dtype.itemsize
            if nbytes >= FETCH_NBYTES or number == numbers[-1]:
                yield from self._fetch([self._tiles[one] for one in group])
                group, nbytes = [], 0


def _index_at(borders: Sequence[int], element: int) -> int:
    return bisect_right(borders, element) - 1


def _chunk_borders(starts: Sequence[list[int]], extents: Sequence[int], most_elements: int) -> list[list[int]]:
    """Join the valid regions of tiles to chunks of at most so many elements, along the last axes first.

    Examples
    --------
    >>> _chunk_borders([[0, 4, 8], [0, 5]], (12, 10), 50)
    [[0, 4, 8, 12], [0, 10]]
    """
    ends = [[*axis_starts[1:], extent] for axis_starts, extent in zip(starts, extents, strict=True)]
    longest = [max(map(sub, axis_ends, axis_starts)) for axis_ends, axis_starts in zip(ends, starts, strict=True)]
    borders: list[list[int]] = []
    for axis in reversed(range(len(extents))):
        # The other axes take at least a tile each.
        most = most_elements // (prod(longest) // longest[axis])
        joined = [0]
        for end, following in zip(ends[axis], [*ends[axis][1:], None], strict=True):
            if following is None or following - joined[-1] > most:
                joined.append(end)
        borders.insert(0, joined)
        longest[axis] = max(stop - start for start, stop in pairwise(joined))
    return borders
