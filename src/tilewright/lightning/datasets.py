"""A dataset cuts each tile once, whatever the number of data-loader workers, and reads only the window of the tile."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from tilewright.errors import GeometryError
from tilewright.geometry import TileInformation
from tilewright.plan.axes import per_spatial_axis
from tilewright.storage.source import open_source
from tilewright.strategies.tiled_image import TiledImage


class IterableTiledPredDataset(IterableDataset[tuple[torch.Tensor, TileInformation]]):
    """The tiles of images, with what is needed to put their predictions together again.

    Parameters
    ----------
    sources : source, or list of sources
        Paths of TIFF files or Zarr arrays, or arrays of Zarr, NumPy or Dask; all have the same axes.
    axes : str
        The axes of each source in its own order, letters of ``STCZYX``.
    tile_size, overlaps : sequence of int
        Per spatial axis, in the order (Z)YX.
    borders : sequence of int, optional
        Per spatial axis, what valid regions end on multiples of. Where not given, tiles are as few as can be.
    dtype : str, default="float32"
        The data type of the tiles.

    Attributes
    ----------
    images : tuple of TiledImage
        The images in order; their samples are counted through all of them.

    Raises
    ------
    SourceError
        If a source cannot be opened. It names the source.
    GeometryError
        If axes, tiles or overlaps do not fit.
    """

    def __init__(
        self,
        sources: Any,
        axes: str,
        tile_size: Sequence[int],
        overlaps: Sequence[int],
        *,
        borders: Sequence[int] | None = None,
        dtype: str = "float32",
    ) -> None:
        opened = [open_source(source, axes) for source in (sources if isinstance(sources, list | tuple) else [sources])]
        if not opened:
            raise GeometryError("the dataset has no sources")
        spatial = opened[0].axes.spatial
        self.tile_size = per_spatial_axis("tile_size", tile_size, spatial)
        self.overlaps = per_spatial_axis("overlaps", overlaps, spatial)
        self.borders = per_spatial_axis("borders", borders or [1] * len(spatial), spatial)
        self.axes = axes
        self.dtype = np.dtype(dtype)
        images: list[TiledImage] = []
        first_sample = 0
        for source in opened:
            image = TiledImage(source, self.tile_size, self.overlaps, self.borders, first_sample)
            # Refuse an overlap that does not fit now rather than in a data-loader worker.
            image.tilings(channels=1)
            first_sample += image.sample_count
            if image.source.axes.channels != opened[0].axes.channels:
                raise GeometryError(
                    f"{source.name} has {image.source.axes.channels} channels, but {opened[0].name} has "
                    f"{opened[0].axes.channels}: the tiles of a dataset go into common batches; make a dataset of each"
                )
            images.append(image)
        self.images = tuple(images)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, TileInformation]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = 0
        for image in self.images:
            count = image.sample_count * image.tiles_per_sample
            # Every step-th tile of all images: then the batches of all workers come in about the order of tiles.
            for tile in range((first - number) % step, count, step):
                array, information = image.read_tile(tile)
                # A copy: whoever gets the tile may write into it.
                yield torch.from_numpy(np.array(array, dtype=self.dtype, order="C")), information
            number += count


def collate_tiles(batch: Sequence[tuple[Any, TileInformation]]) -> tuple[Any, list[TileInformation]]:
    """Put tiles to a batch, and leave their tile information a list.

    Parameters
    ----------
    batch : sequence of (tile, TileInformation)
        What the dataset yields.

    Returns
    -------
    tiles : tensor
        (B, C, (Z), Y, X).
    infos : list of TileInformation
        One per tile.
    """
    tiles, infos = zip(*batch, strict=True)
    return default_collate(list(tiles)), list(infos)
