"""Tiles that a resumed run still needs: the datasets of a trainer yield these alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.datasets.tiled_image import TiledImage
from tilewright.strategies.write_strategy import loaders_of


def yield_needed_tiles(
    trainer: Any, images_of_loaders: Sequence[Sequence[TiledImage]], needed: Sequence[AnyArray | None]
) -> None:
    """Let the datasets yield only tiles that are needed: for each image, one bool per tile; None where all are."""
    waiting = iter(needed)
    for loader, images in zip(loaders_of(trainer), images_of_loaders, strict=True):
        of_images = [next(waiting) for _ in images]
        if all(is_open is None for is_open in of_images) or not hasattr(loader.dataset, "open_tiles"):
            continue
        is_open = [
            np.ones(image.tile_count, bool) if of_image is None else of_image
            for image, of_image in zip(images, of_images, strict=True)
        ]
        loader.dataset.open_tiles.keep(np.concatenate(is_open), getattr(loader, "batch_size", None))


def tiled_images(dataset: Any) -> Sequence[TiledImage]:
    """Return the images of a dataset of tiles, or raise TypeError where their tiles are not known beforehand."""
    images: Sequence[TiledImage] = getattr(dataset, "images", ())
    if not images or not all(isinstance(image, TiledImage) for image in images):
        raise TypeError(
            f"the tiles of a {type(dataset).__name__} are not known beforehand, so that no Zarr array can be planned "
            "for them; use an IterableTiledPredDataset of tilewright, or CacheTiles"
        )
    return images
