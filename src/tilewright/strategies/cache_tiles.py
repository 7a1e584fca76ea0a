"""Tiles are cached until their image is covered; then it is stitched and written, while prediction goes on."""

from collections.abc import Sequence
from functools import cached_property
from operator import is_not
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.conversion import as_array
from tilewright.datasets.iterable import IterableTiledPredDataset
from tilewright.errors import IncompleteImageError
from tilewright.geometry import TileInformation
from tilewright.strategies.collected_images import CollectedImages
from tilewright.strategies.predictions import tiles_and_information


class _Shown:
    """A list that shows what is cached, and to which a user may append.

    It is one and the same list as long as its strategy lives, so that what is appended is found in it later.
    """

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._known: list[Any] = []

    def show(self, entries: Sequence[Any]) -> list[Any]:
        """Return the list, with these entries and those that were appended."""
        added = self.added()
        self._known = list(entries)
        self.entries[:] = [*self._known, *added]
        return self.entries

    def assign(self, entries: Sequence[Any]) -> None:
        """Take a list of the user: what is cached, and what is added to it."""
        self.entries[:] = list(entries)
        self.added()

    def added(self) -> list[Any]:
        """Return what was appended, or raise TypeError where the list was changed in another way."""
        count = len(self._known)
        if len(self.entries) < count or any(map(is_not, self.entries, self._known)):
            self.entries[:] = self._known
            raise TypeError("tile_cache and tile_info_cache may be appended to, and in no other way be changed")
        return self.entries[count:]

    def clear(self) -> None:
        """Show nothing any more."""
        self._known = []
        self.entries.clear()


class CacheTiles(CollectedImages):
    """Cache tiles until a whole image is predicted, then stitch and write it.

    Parameters
    ----------
    write_func : callable
        Writes an image: called with ``file_path`` and ``img``, C(Z)YX for an image of one sample and SC(Z)YX for one
        of several, and with the further keywords. Indices along T count as samples, too. Of a function
        that is decorated with `takes_lazy_image`, ``img`` is a dask array of which each chunk is stitched when it is
        computed, so that no worker holds the whole image. It may be called again where a worker dies, so it should
        write under another name first, as `write_tiff` does.
    write_extension : str
        The ending of the outputs, with its dot.
    write_func_kwargs : dict
        Further keywords of the function.
    client : distributed.Client, optional
        The cluster that stitches and writes, while the next images are predicted; where not given that of the current
        client. Without one, each image is written on threads of this process before `write_batch` returns.
    memory_nbytes : int, optional
        Bytes of tiles that the cluster may hold before prediction waits for images that are being written; half the
        memory of its workers where not given. One image is held whole, whatever it takes.
    axes : {"STCZYX", "source"}
        The order of the axes of ``img``. With ``"source"`` it has the axes of its source, and C only where that has it,
        or the model gives more than one channel: before the first spatial axis.

    Attributes
    ----------
    write_func, write_extension, write_func_kwargs
        As given.

    Notes
    -----
    The outputs are ``dirpath/<name of the source><extension>``, or ``dirpath/prediction_<number><extension>`` for
    sources that are arrays. An output that exists is replaced when its image is written.

    `write_tiff` and `write_zarr` take lazy images: they write region by region.

    On a cluster, an image that cannot be written does not end the others: the error at the end names each such image,
    its file and the reason. Only if three images fail and none could be written, the run ends at once. Without a client
    it ends after the batch in which an image failed. A worker that dies while it holds tiles, stitches or writes costs
    nothing: its tiles are sent again, and its image is written again, up to three times.

    Examples
    --------
    A trainer predicts tiles of two samples, and `write_tiff` writes them to one file. The tiles overlap, so that the
    result is that of the whole samples:

    >>> import tempfile
    >>> import numpy as np, pytorch_lightning as pl, tifffile, torch
    >>> import tilewright as tw
    >>> def smooth(images):
    ...     return torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1)
    >>> class Smoothing(pl.LightningModule):
    ...     def predict_step(self, batch, batch_idx):
    ...         tiles, infos = batch
    ...         return smooth(tiles), infos
    >>> def predict(strategy, folder):
    ...     writer = tw.PredictionWriterCallback(strategy, dirpath=folder)
    ...     tiled = tw.IterableTiledPredDataset(f"{folder}/raw.tif", axes="SYX", tile_size=(32, 32), overlaps=(8, 8))
    ...     loader = torch.utils.data.DataLoader(tiled, batch_size=4, collate_fn=tw.collate_tiles)
    ...     trainer = pl.Trainer(callbacks=[writer], logger=False, enable_progress_bar=False)
    ...     _ = trainer.predict(Smoothing(), loader, return_predictions=False)
    >>> samples = np.random.default_rng(0).random((2, 50, 60), dtype="float32")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tifffile.imwrite(f"{folder}/raw.tif", samples, photometric="minisblack")
    ...     predict(tw.CacheTiles(tw.write_tiff, ".tiff", {"compression": "zlib"}), folder)
    ...     planes = tifffile.imread(f"{folder}/raw.tiff")
    >>> planes.shape
    (2, 1, 50, 60)
    >>> expected = smooth(torch.from_numpy(samples)[:, None])
    >>> np.testing.assert_allclose(planes, expected, rtol=0, atol=1e-5)

    A function of your own writes any other format. This one takes a dask array, and never holds the whole image:

    >>> @tw.takes_lazy_image
    ... def write_mean(file_path, img):
    ...     np.savetxt(file_path, img.mean(axis=(0, 1)).compute())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tifffile.imwrite(f"{folder}/raw.tif", samples, photometric="minisblack")
    ...     predict(tw.CacheTiles(write_mean, ".txt"), folder)
    ...     mean = np.loadtxt(f"{folder}/raw.txt")
    >>> np.testing.assert_allclose(mean, expected.mean(axis=(0, 1)), rtol=0, atol=1e-5)
    """

    _dataset_type = IterableTiledPredDataset

    @cached_property
    def _shown(self) -> tuple[_Shown, _Shown]:
        """What `tile_cache` and `tile_info_cache` show."""
        return _Shown(), _Shown()

    @property
    def tile_cache(self) -> list[Any]:
        """The tiles of images that are not covered yet, (1, C, (Z), Y, X) each.

        With a client these lack their halo, and are futures as soon as they are sent to another process. What is
        appended here, and to `tile_info_cache`, is taken in with the next batch, as of its data loader. A list that is
        assigned begins with these.
        """
        return self._shown[0].show([tile for tile, _ in self._entries()])

    @tile_cache.setter
    def tile_cache(self, tiles: Sequence[Any]) -> None:
        self._shown[0].assign(tiles)

    @property
    def tile_info_cache(self) -> list[TileInformation]:
        """Where the tiles of the cache belong; it may be appended to, as `tile_cache` may."""
        return self._shown[1].show([information for _, information in self._entries()])

    @tile_info_cache.setter
    def tile_info_cache(self, infos: Sequence[TileInformation]) -> None:
        self._shown[1].assign(infos)

    @property
    def last_tiles(self) -> list[bool]:
        """Whether each tile of the cache is the last one of its sample."""
        return [information.last_tile for information in self.tile_info_cache]

    def _tiles_of(
        self, trainer: Any, prediction: Any, batch: Any, dataloader_idx: int
    ) -> tuple[AnyArray, list[TileInformation]]:
        tiles, infos = tiles_and_information(prediction, batch)
        added, added_infos = self._take_added()
        return (np.concatenate([*added, tiles]) if added else tiles), [*added_infos, *infos]

    def _forget(self) -> None:
        super()._forget()
        for shown in self._shown:
            shown.clear()

    def finalize(self) -> None:
        """Wait until all images are written, and check that every image was predicted whole.

        Raises
        ------
        ImageWriteError
            If images could not be written. It names them and their files; all others are on disk.
        IncompleteImageError
            If elements of an image were never predicted, or tiles were added that no batch has followed.
        """
        try:
            self._collect_added()
        except BaseException:
            self.abort()
            raise
        super().finalize()

    def _collect_added(self) -> None:
        """Take in what was added since the last batch, which has said to which data loader it belongs."""
        added, infos = self._take_added()
        if added and self._writes is None:
            raise IncompleteImageError(
                f"{len(added)} tiles were appended to tile_cache, and no batch has said of which data set they are"
            )
        if added:
            self._collect(self._last_loader, [tile for batch in added for tile in batch], infos)

    def _take_added(self) -> tuple[list[AnyArray], list[TileInformation]]:
        """Return what a user has added to the caches, which must be as many tiles as tile information."""
        tiles, infos = (shown.added() for shown in self._shown)
        for shown in self._shown:
            # Nothing that is written may be held by a list that was shown.
            shown.clear()
        if len(tiles) != len(infos):
            raise ValueError(f"{len(tiles)} tiles were appended to tile_cache, but {len(infos)} to tile_info_cache")
        return [as_array(tile) for tile in tiles], infos
