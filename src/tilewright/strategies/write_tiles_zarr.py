"""Tiles that a trainer predicts go to the cluster; each stored object is written once, whole; an image is an array."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.arguments import flag, whole_number
from tilewright.assemble import AnyArray
from tilewright.conversion import ValueRange
from tilewright.datasets.adapted import AdaptedDataset
from tilewright.datasets.images import image_of_sample
from tilewright.datasets.iterable import IterableTiledPredDataset
from tilewright.datasets.tiled_image import TiledImage
from tilewright.errors import IncompleteImageError, UnitGivenUpError
from tilewright.executors.placement import Placement
from tilewright.identity.models import ModelFacts
from tilewright.model.own_memory import OwnMemory
from tilewright.ome.world import GivenWorld
from tilewright.outputs.options import OutputOptions, output_dtype
from tilewright.plan.request import check_output_axes
from tilewright.provenance.call import Call
from tilewright.provenance.document import Origin
from tilewright.runs.beginning import Beginning
from tilewright.runs.output_run import OutputRun
from tilewright.runs.report import Report
from tilewright.runs.reporting.saving import SavedReport
from tilewright.stopping import GRACE_SECONDS
from tilewright.stores.local_paths import local_path
from tilewright.strategies.image_run import AskedImage, ImageRun, ImageRuns, outputs_of, pages_of
from tilewright.strategies.predictions import tiles_and_information
from tilewright.strategies.trainer_strategy import Key, TrainerStrategy
from tilewright.strategies.write_strategy import check_extents, loaders_of
from tilewright.transport.clients import check_client, cluster_client

if TYPE_CHECKING:
    import os

    from distributed import Client

_log = logging.getLogger(__name__)


class WriteTilesZarr(TrainerStrategy):
    """Write tiled predictions to Zarr, each stored object once and whole.

    Parameters
    ----------
    client : distributed.Client, optional
        The cluster that writes. Where not given it is the current client's, else one in this process, closed by
        `finalize`.
    chunks, shards, levels, labels
        As in `plan_write`.
    compressors, dtype, value_range, fill_value, zarr_format
        As in `predict_to_zarr`.
    if_exists : {"fail", "overwrite", "overwrite-foreign", "resume"}
        What to do where an output exists, as in `predict_to_zarr`. With ``"resume"``, complete images stay as they
        are, and of the others the dataset yields only the tiles that are needed.
    window_nbytes : int, optional
        Bytes of tiles that may be in flight beyond those that must wait for their neighbours.
    ledger : path, optional
        A local folder for the ledgers, one folder in it for each image; beside the outputs where not given.
    report : path, optional
        A local folder for the reports. Each image has a page ``<name of its output>.html`` there, which is written when
        the image is complete, and also where the run fails or is stopped, as in `predict_to_zarr`.
    scale, units, channel_names, ome_version
        Physical metadata of all images, as in `predict_to_zarr`; those of each source where not given.
    axes : {"STCZYX", "source"}
        The order of the axes of each output, as ``output_axes`` in `plan_write`.

    Attributes
    ----------
    reports : list of Report
        One for each image that is complete, in the order in which they were completed.

    Notes
    -----
    The outputs are ``dirpath/<name of the source>.zarr``, or groups of ``dirpath/prediction.zarr`` for sources that are
    arrays, each with its array ``0``.

    A prediction is held where the model left it, with its halo, as long as the plan has room for that; else it is
    copied without the halo. No other code may change it until it is written. A model that uses the memory of its first
    predictions again is noticed, and then each is copied. A model that begins with that later is an error.

    Examples
    --------
    A trainer predicts the tiles of an array, which is image 0. The second run finds it complete, and writes nothing:

    >>> import tempfile
    >>> import numpy as np, pytorch_lightning as pl, torch, zarr
    >>> import tilewright as tw
    >>> class Doubling(pl.LightningModule):
    ...     def predict_step(self, batch, batch_idx):
    ...         tiles, infos = batch
    ...         return 2 * tiles, infos
    >>> def predict(strategy, folder, image):
    ...     writer = tw.PredictionWriterCallback(strategy, dirpath=folder)
    ...     tiled = tw.IterableTiledPredDataset(image, axes="YX", tile_size=(32, 32), overlaps=(8, 8))
    ...     loader = torch.utils.data.DataLoader(tiled, batch_size=4, collate_fn=tw.collate_tiles)
    ...     trainer = pl.Trainer(callbacks=[writer], logger=False, enable_progress_bar=False)
    ...     _ = trainer.predict(Doubling(), loader, return_predictions=False)
    ...     return [(report.unit_count, report.kept_unit_count) for report in strategy.reports]
    >>> image = np.arange(50 * 60, dtype="float32").reshape(50, 60)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = predict(tw.WriteTilesZarr(), folder, image)
    ...     second = predict(tw.WriteTilesZarr(if_exists="resume"), folder, image)
    ...     written = zarr.open_array(f"{folder}/prediction.zarr/0/0", mode="r")[:]
    >>> first, second
    ([(1, 0)], [(0, 1)])
    >>> bool((written == 2 * image).all())
    True
    """

    _dataset_type = IterableTiledPredDataset

    def __init__(
        self,
        client: "Client | None" = None,
        *,
        chunks: Sequence[int] | str = "auto",
        shards: Sequence[int] | str | None = None,
        compressors: Any = "auto",
        dtype: Any = None,
        value_range: Sequence[float] | None = None,
        fill_value: Any = 0,
        zarr_format: int = 3,
        if_exists: str = "fail",
        window_nbytes: int | None = None,
        ledger: "str | os.PathLike[str] | None" = None,
        levels: int | str = "auto",
        labels: bool = False,
        scale: Sequence[float] | Mapping[str, float] | None = None,
        units: str | Mapping[str, str] | None = None,
        channel_names: Sequence[str] | None = None,
        ome_version: str | None = None,
        report: "str | os.PathLike[str] | None" = None,
        axes: str = "STCZYX",
    ) -> None:
        self._call = Call.of(WriteTilesZarr, locals())
        if window_nbytes is not None:
            whole_number("window_nbytes", window_nbytes)
        check_client(client)
        self.client = client
        self.chunks = chunks
        self.shards = shards
        self.dtype = None if dtype is None else output_dtype(dtype)
        given = GivenWorld(scale, units, channel_names)
        mapped = ValueRange.of(value_range, self.dtype)
        self.options = OutputOptions(
            compressors, fill_value, zarr_format, if_exists, given=given, ome_version=ome_version, value_range=mapped
        )
        self.options.check_shards(shards)
        check_extents("chunks", chunks)
        check_extents("shards", shards)
        self.options.check_dtype(self.dtype or "float64")
        self.window_nbytes = window_nbytes
        self.levels = levels if levels == "auto" else whole_number("levels", levels)
        self.labels = flag("labels", labels)
        check_output_axes("axes", axes)
        self.axes = axes
        self.ledger = None if ledger is None else local_path(ledger, "ledger")
        self.report = None if report is None else local_path(report, "report")
        if self.report is not None and self.report.suffix in (".html", ".htm"):
            raise ValueError(f"report must be a folder, in which each image has a page, got {str(report)!r:.200}")
        self.reports: list[Report] = []
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._opened = ExitStack()
        self._runs = ImageRuns(self.reports)
        self._errors: dict[Key, BaseException] = {}
        self._memory = OwnMemory()

    def _take_in(self, trainer: Any, prediction: Any, batch: Any, dataloader_idx: int) -> None:
        tiles, infos = tiles_and_information(prediction, batch)
        left_alone = tiles if self._memory.is_left_alone(tiles) else None
        groups: dict[int, list[tuple[Any, AnyArray]]] = {}
        images = self._images[dataloader_idx]
        for tile, information in zip(tiles, infos, strict=True):
            groups.setdefault(image_of_sample(images, information.sample_id), []).append((information, tile))
        for index, group in groups.items():
            self._hand_over((dataloader_idx, index), group, left_alone)
        self._runs.close_complete()

    def _images_of(self, dataset: Any) -> Sequence[TiledImage]:
        images: Sequence[TiledImage] = getattr(dataset, "images", ())
        if not images or not all(isinstance(image, TiledImage) for image in images):
            raise TypeError(
                f"the tiles of a {type(dataset).__name__} are not known beforehand, so that no Zarr array can be "
                "planned for them; use an IterableTiledPredDataset of tilewright, or CacheTiles"
            )
        return images

    def _open(self, trainer: Any, images: Mapping[Key, TiledImage], folder: Path) -> None:
        outputs = outputs_of(list(images.values()), folder, self.options, self.ledger)
        self.reports = []
        self._runs = ImageRuns(self.reports)
        self._origin = Origin(self._call)
        self._model = ModelFacts.of(getattr(trainer, "lightning_module", None), trainer)
        self._model_file = str(getattr(trainer, "ckpt_path", None) or "")
        self._predicted_by = f"a trainer of precision {getattr(trainer, 'precision', 'unknown')}"
        client = self._opened.enter_context(cluster_client(self.client))
        self._placement = self._opened.enter_context(Placement(client))
        pages = pages_of(list(images.values()), self.report)
        for (key, image), output, page in zip(images.items(), outputs, pages, strict=True):
            options = self._options_of(image, is_label=output.is_label)
            output_run = self._opened.enter_context(OutputRun(output, options, self._placement))
            self._runs[key] = ImageRun(image, output_run, SavedReport(page, str(output), makes_folder=True))
        # All are compared before the first one is changed.
        found = {key: self._compared(self._runs[key]) for key in images}
        needed = [self._take_up(self._runs[key], found[key]) for key in images]
        self._yield_needed(trainer, needed)

    def finalize(self) -> list[Report]:
        """Wait until all that was handed over is written, and check that every image is complete.

        Returns
        -------
        list of Report
            One per image.

        Raises
        ------
        IncompleteImageError
            If an element of an image was never predicted. It names the images, and where they miss how many elements.
        UnitGivenUpError
            If units could not be written. It names them; all others are complete.
        """
        if self._run is None:
            return self.reports
        try:
            for image_run in self._runs.begun():
                image_run.run.finish()
            self._runs.close_complete()
            incomplete = {key: image_run.describe_incomplete() for key, image_run in self._runs.items()}
            self._errors |= {key: IncompleteImageError(text) for key, text in incomplete.items()}
            given_up = self._runs.given_up
        finally:
            self.abort()
        if incomplete:
            raise IncompleteImageError("; ".join([*incomplete.values(), *given_up]))
        if given_up:
            raise UnitGivenUpError("; ".join(given_up))
        _log.info("all %d images are complete: every element was predicted and written once", len(self.reports))
        return self.reports

    def abort(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Let what is in flight be written, and close the cluster if it was opened here. What is written stays."""
        datasets = [] if self._run is None else self._run[0]
        runs, errors, opened = self._runs, self._errors, self._opened
        error = sys.exception()
        until = monotonic() + grace_seconds
        self._forget()
        try:
            for image_run in runs.begun():
                # The caller has an error of its own.
                with suppress(Exception):
                    image_run.run.drain(until - monotonic())
        finally:
            for dataset in datasets:
                if isinstance(dataset, IterableTiledPredDataset | AdaptedDataset) and hasattr(dataset, "open_tiles"):
                    dataset.open_tiles.keep_all()
            try:
                opened.close()
            finally:
                runs.end(error, errors)

    def _compared(self, image_run: ImageRun) -> Beginning | None:
        """Return how an image begins that an earlier run has begun; None where the first tile is needed to know."""
        begun = image_run.output_run.header()
        if begun is None:
            return None
        asked = self._asked(image_run.image, begun.plan.channels, self.dtype or begun.plan.dtype)
        return image_run.output_run.open(asked)

    def _take_up(self, image_run: ImageRun, found: Beginning | None) -> AnyArray | None:
        """Begin at once where an earlier run has, and return for each tile whether it is needed; None where all are."""
        if found is None:
            return None
        image_run.begin(found)
        image_run.is_resumed = True
        is_open = image_run.open_tiles()
        # An image that is complete is closed before the next one is opened.
        self._runs.close_complete()
        return is_open

    def _yield_needed(self, trainer: Any, needed: Sequence[AnyArray | None]) -> None:
        """Let the datasets yield only tiles that are needed: for each image, one bool per tile; None where all are."""
        waiting = iter(needed)
        for loader, images in zip(loaders_of(trainer), self._images, strict=True):
            of_images = [next(waiting) for _ in images]
            if all(is_open is None for is_open in of_images) or not hasattr(loader.dataset, "open_tiles"):
                continue
            is_open = [
                np.ones(image.tile_count, bool) if of_image is None else of_image
                for image, of_image in zip(images, of_images, strict=True)
            ]
            loader.dataset.open_tiles.keep(np.concatenate(is_open), getattr(loader, "batch_size", None))

    def _hand_over(self, key: Key, group: list[tuple[Any, AnyArray]], left_alone: AnyArray | None) -> None:
        """Hand over tiles of one image, as they are where the model leaves its prediction alone."""
        image_run = self._runs.get(key)
        if image_run is None:  # Tiles that came twice: the image has them.
            return
        image = image_run.image
        # All of this before the output is created, which may replace another one.
        dtype, channels = image_run.dtype_and_channels([tile for _, tile in group], self.dtype)
        asked = self._asked(image, channels, dtype)
        plan = image_run.plan or asked.plan(None)
        numbers = [image.tile_of(information, plan) for information, _ in group]
        if image_run.plan is None:
            image_run.begin(image_run.output_run.open(asked))
        arrays = [
            image_run.valid(tile, number, information, is_converted=self.dtype is not None)
            for number, (information, tile) in zip(numbers, group, strict=True)
        ]
        if left_alone is None:
            arrays = [array.copy() for array in arrays]
        else:
            self._memory.hold(left_alone, arrays)
        self._runs.wait_for_room(image_run, sum(array.nbytes for array in arrays))
        image_run.run.hand_over(numbers, arrays)

    def _options_of(self, image: TiledImage, *, is_label: bool = False) -> OutputOptions:
        return self.options.for_image(image.source.axes.names, image.source.world, is_label=is_label)

    def _asked(self, image: TiledImage, channels: int, dtype: str) -> AskedImage:
        return AskedImage(
            image=image,
            channels=channels,
            dtype=dtype,
            chunks=self.chunks,
            shards=self.shards,
            options=self._options_of(image),
            window_nbytes=self.window_nbytes,
            levels=self.levels,
            labels=self.labels,
            axes=self.axes,
            model=self._model,
            model_file=self._model_file,
            origin=self._origin,
            predicted_by=f"{self._predicted_by}, borders {image.borders}",
        )
