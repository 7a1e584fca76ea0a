"""Datasets that yield each sample or tile once, for any number of data-loader workers.

Only the yielded samples and tiles are read, and each file is closed after its last one.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from tilewright.assemble import AnyArray
from tilewright.conversion import is_number
from tilewright.datasets.images import SourceImage
from tilewright.datasets.open_tiles import OpenTiles
from tilewright.datasets.tiled_image import TiledImage
from tilewright.errors import GeometryError
from tilewright.geometry import TileInformation
from tilewright.sources.opening import open_source
from tilewright.sources.readers.reader import ReadFunction
from tilewright.sources.source import Source


class IterablePredDataset(IterableDataset[tuple[torch.Tensor, int]]):
    """Dataset of whole samples of images.

    Parameters
    ----------
    sources : source, or list of sources
        Paths of TIFF files or Zarr arrays, or arrays of Zarr, NumPy or Dask; all have the same axes.
    axes : str or None
        The axes of each source in its own order, letters of ``STCZYX``; None for those that its metadata name.
    read_source_func : callable, optional
        Reader of any other path: takes the path and the axes, returns an array of NumPy, Zarr or Dask. For NumPy, each
        data-loader worker holds one whole file at a time.
    dtype : str, default="float32"
        Data type of what is yielded.

    Attributes
    ----------
    images : tuple of SourceImage
        The images, in order.

    Raises
    ------
    SourceError
        If a source cannot be opened. The message names it.
    GeometryError
        If the axes do not fit a source.

    Notes
    -----
    Yields ``(sample, sample_id)``: a tensor C(Z)YX, and its index in the whole dataset. Samples of different extents
    need batches of one.
    """

    def __init__(
        self, sources: Any, axes: str | None, *, read_source_func: ReadFunction | None = None, dtype: str = "float32"
    ) -> None:
        opened = _open_all(sources, axes, read_source_func)
        self.axes = opened[0][0].axes.names
        self.dtype = _tensor_dtype(dtype)
        self.images = tuple(SourceImage(source, first) for source, first in opened)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        for image in self.images:
            # Closed also where the iteration stops early.
            with closing(image.source):
                for sample in _share_of_worker(image.first_sample, image.sample_count):
                    yield _as_tensor(image.read_sample(sample), self.dtype), image.first_sample + sample


class IterableTiledPredDataset(IterableDataset[tuple[torch.Tensor, TileInformation]]):
    """Dataset of the tiles of images, each with the tile information to stitch its prediction.

    Parameters
    ----------
    sources, axes, read_source_func, dtype
        As in `IterablePredDataset`.
    tile_size, overlaps : sequence of int
        Per spatial axis, in the order (Z)YX.
    borders : sequence of int, optional
        Per spatial axis, valid regions end on multiples of this. By default there are as few tiles as possible.

    Attributes
    ----------
    images : tuple of TiledImage
        The images, in order.
    open_tiles : OpenTiles
        The tiles to yield: those that a resumed run needs, else all.

    Raises
    ------
    SourceError, GeometryError
        As in `IterablePredDataset`; GeometryError also if tiles or overlaps do not fit.
    """

    def __init__(
        self,
        sources: Any,
        axes: str | None,
        tile_size: Sequence[int],
        overlaps: Sequence[int],
        *,
        borders: Sequence[int] | None = None,
        read_source_func: ReadFunction | None = None,
        dtype: str = "float32",
    ) -> None:
        opened = _open_all(sources, axes, read_source_func)
        self.axes = opened[0][0].axes.names
        self.dtype = _tensor_dtype(dtype)
        self.images = tuple(TiledImage.of(source, first, tile_size, overlaps, borders) for source, first in opened)
        self.tile_size = self.images[0].tile_size
        self.overlaps = self.images[0].overlaps
        self.borders = self.images[0].borders
        self.open_tiles = OpenTiles()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, TileInformation]]:
        first = [0, *accumulate(image.tile_count for image in self.images)]
        needed = self.open_tiles.needed(_share_of_worker(0, first[-1]))
        for index, tiles in groupby(needed, lambda tile: bisect_right(first, tile) - 1):
            image = self.images[index]
            with closing(image.source):
                for tile in tiles:
                    array, information = image.read_tile(tile - first[index])
                    yield _as_tensor(array, self.dtype), information


def collate_tiles(batch: Sequence[tuple[Any, TileInformation]]) -> tuple[Any, list[TileInformation]]:
    """Collate tiles to a batch, and their tile information to a list.

    Parameters
    ----------
    batch : sequence of (tile, TileInformation)
        Items of the dataset.

    Returns
    -------
    tiles : tensor
        Shape (B, C, (Z), Y, X).
    infos : list of TileInformation
        One per tile.
    """
    tiles, infos = zip(*batch, strict=True)
    return default_collate(list(tiles)), list(infos)


def _tensor_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the data type of the tensors, or raise TypeError where a tensor cannot have it."""
    try:
        known: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        known = np.dtype(object)
    if not is_number(known):
        raise TypeError(f"dtype must be that of bools, whole numbers or floats, such as 'float32', got {dtype!r:.80}")
    return known


# Without this, a data loader that has no `collate_fn` would collate each field of the tile information.
default_collate_fn_map[TileInformation] = lambda batch, **_: list(batch)


def _open_all(sources: Any, axes: str | None, read_source_func: ReadFunction | None) -> list[tuple[Source, int]]:
    """Return the sources, each with the number of its first sample."""
    opened = []
    for source in sources if isinstance(sources, list | tuple) else [sources]:
        opened.append(open_source(source, axes, read_source_func))
        # There may be more files than one process can keep open, or hold in memory.
        opened[-1].close()
    if not opened:
        raise GeometryError("the dataset has no sources")
    for source in opened:
        if source.axes.spatial != opened[0].axes.spatial:
            raise GeometryError(
                f"{source.name} has the axes {source.axes.names}, but {opened[0].name} has {opened[0].axes.names}; "
                "make a dataset of each"
            )
        if source.axes.channels != opened[0].axes.channels:
            raise GeometryError(
                f"{source.name} has {source.axes.channels} channels, but {opened[0].name} has "
                f"{opened[0].axes.channels}: what a dataset yields goes into common batches; make a dataset of each"
            )
    first = accumulate((source.axes.sample_count for source in opened[:-1]), initial=0)
    return list(zip(opened, first, strict=True))


def _share_of_worker(number: int, count: int) -> range:
    """Return the indices of the ``count`` items for this data-loader worker; item 0 has this number in the dataset.

    Every n-th item, so that the batches of all workers come in about the order of the items.
    """
    worker = get_worker_info()
    first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
    return range((first - number) % step, count, step)


def _as_tensor(array: AnyArray, dtype: np.dtype[np.generic]) -> torch.Tensor:
    # A copy: the model may write into it.
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))
