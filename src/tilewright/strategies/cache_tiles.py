"""Tiles are cached until their image is covered; then it is stitched and written, while prediction goes on."""

from typing import Any

from tilewright.assemble import AnyArray
from tilewright.datasets.iterable import IterableTiledPredDataset
from tilewright.geometry import TileInformation
from tilewright.strategies.collected_images import CollectedImages
from tilewright.strategies.predictions import tiles_and_information


class CacheTiles(CollectedImages):
    """Cache tiles until a whole image is predicted, then stitch and write it.

    Parameters
    ----------
    write_func : callable
        Writes an image: called with ``file_path`` and ``img``, C(Z)YX for an image of one sample and SC(Z)YX for one
        of several, and with the further keywords. Where it has an attribute ``takes_lazy_image`` that is true, ``img``
        is a dask array of which each chunk is stitched when it is computed, so that no worker holds the whole image.
        It may be called again where a worker dies, so it should write under another name first, as `write_tiff` does.
    write_extension : str
        The ending of the outputs, with its dot.
    write_func_kwargs : dict
        Further keywords of the function.
    client : distributed.Client, optional
        The cluster that stitches and writes, while the next images are predicted. Where not given, each image is
        written on threads of this process before `write_batch` returns.
    max_inflight_nbytes : int or "auto"
        Bytes of tiles that the cluster may hold before prediction waits for images that are being written; half the
        memory of its workers where not given. One image is held whole, whatever it takes.

    Attributes
    ----------
    write_func, write_extension, write_func_kwargs
        As given.

    Notes
    -----
    The outputs are ``dirpath/<name of the source><extension>``, or ``dirpath/prediction_<number><extension>`` for
    sources that are arrays. An output that exists is replaced when its image is written.
    """

    _dataset_type = IterableTiledPredDataset

    @property
    def tile_cache(self) -> list[Any]:
        """The tiles of images that are not covered yet, (1, C, (Z), Y, X) each.

        With a client these lack their halo, and are futures as soon as there are enough of them to be sent.
        """
        return [tile for tile, _ in self._entries()]

    @property
    def tile_info_cache(self) -> list[TileInformation]:
        """Where the tiles of the cache belong."""
        return [information for _, information in self._entries()]

    @property
    def last_tiles(self) -> list[bool]:
        """Whether each tile of the cache is the last one of its sample."""
        return [information.last_tile for information in self.tile_info_cache]

    def _tiles_of(
        self, trainer: Any, prediction: Any, batch: Any, dataloader_idx: int
    ) -> tuple[AnyArray, list[TileInformation]]:
        return tiles_and_information(prediction, batch)
