"""Tiles are cached until their image is covered; then it is stitched and written, while prediction goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.datasets.iterable import IterableTiledPredDataset
from tilewright.geometry import TileInformation
from tilewright.stitching import WriteFunc
from tilewright.strategies.collected_images import CollectedImages
from tilewright.strategies.predictions import tiles_and_information

if TYPE_CHECKING:
    from distributed import Client


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

    def __init__(
        self,
        write_func: WriteFunc,
        write_extension: str,
        write_func_kwargs: dict[str, Any] | None = None,
        *,
        client: "Client | None" = None,
        max_inflight_nbytes: int | str = "auto",
    ) -> None:
        super().__init__(write_func, write_extension, write_func_kwargs, client, max_inflight_nbytes)

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

    def prepare(self, trainer: Any, dirpath: Path | str) -> None:
        """Check datasets and outputs before anything is predicted.

        Raises
        ------
        TypeError
            If a dataset is no `IterableTiledPredDataset`.
        DestinationError
            If two sources would share an output, or an output is a source.
        """
        self._open(trainer, dirpath, IterableTiledPredDataset)

    def write_batch(
        self,
        trainer: Any,
        pl_module: Any,
        prediction: Any,
        batch_indices: Sequence[Any] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
        dirpath: Path | str,
    ) -> None:
        """Cache the tiles of a batch, and write the images that are covered now.

        Parameters
        ----------
        trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx, dirpath
            As in `WriteStrategy.write_batch`.

        Raises
        ------
        TypeError
            If the dataset is no `IterableTiledPredDataset`, or there is no tile information.
        ImageWriteError
            If an image could not be written. It names image and file.
        """
        try:
            self.prepare(trainer, dirpath)
            self._collect(dataloader_idx, *tiles_and_information(prediction, batch))
        except BaseException:
            self.abort()
            raise
