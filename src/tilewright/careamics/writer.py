"""A trainer of CAREamics writes each tile while it predicts, and predicts only what is not written yet."""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tilewright.careamics.images import images_of, predicted_samples, predicted_tiles
from tilewright.careamics.kept_predictions import kept_predictions
from tilewright.careamics.model import CareamicsModel
from tilewright.careamics.needed_tiles import NeededTiles
from tilewright.datasets.adapted import AdaptedDataset
from tilewright.datasets.tiled_image import TiledImage
from tilewright.lightning import PredictionWriterCallback
from tilewright.strategies import WriteImage, WriteStrategy, WriteTilesZarr
from tilewright.strategies.write_strategy import Prepares


class _Trainer:
    """Trainer of CAREamics as the write strategies see it: its images, and its model with the normalisation."""

    def __init__(self, trainer: Any, dataset: Any, batch_size: int) -> None:
        self._trainer = trainer
        self.given = dataset
        adapted = AdaptedDataset(images_of(dataset))
        self.predict_dataloaders = [SimpleNamespace(dataset=adapted, batch_size=batch_size)]

    @property
    def dataset(self) -> AdaptedDataset:
        """The images."""
        adapted: AdaptedDataset = self.predict_dataloaders[0].dataset
        return adapted

    @property
    def is_tiled(self) -> bool:
        """Whether CAREamics predicts tiles, and not whole images."""
        return all(isinstance(image, TiledImage) for image in self.dataset.images)

    @property
    def lightning_module(self) -> CareamicsModel:
        """The model."""
        network = self._trainer.lightning_module.model
        return CareamicsModel(network, self.given.normalization, self.given.config.channels)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


class PredictionWriter(PredictionWriterCallback):
    """Write what a `CAREamist`, or a trainer with a module of CAREamics, predicts.

    Parameters
    ----------
    write_strategy : WriteStrategy
        How predictions are written: `WriteTilesZarr` and `CacheTiles` take tiles, `WriteImage` whole images.
    dirpath : Path or str, default="predictions"
        The folder of all outputs. A relative one is taken from the working directory, with a warning.

    Notes
    -----
    It goes into ``CAREamist(callbacks=[writer])`` or ``Trainer(callbacks=[writer])``, and ends each run itself. With
    `WriteTilesZarr` and ``if_exists="resume"`` only batches with tiles that are not written yet are predicted.

    ``CAREamist.predict`` keeps all predictions in memory and returns them; those of an earlier run are read from the
    outputs, or predicted again where they were stored with another data type. All tiles are predicted where another
    callback writes predictions, too: ``CAREamist.predict_to_disk`` has one.
    ``trainer.predict(..., return_predictions=False)`` returns nothing, and needs no memory for them.
    """

    def __init__(self, write_strategy: WriteStrategy, dirpath: Path | str = "predictions") -> None:
        super().__init__(write_strategy, dirpath)
        self._view: _Trainer | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let the data loader that CAREamics is about to make read what is needed, and nothing else.

        Raises
        ------
        TypeError
            If the trainer has no data module of CAREamics.
        NotImplementedError
            If it has several processes or devices.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "predict" or not self.writing_predictions:
            return
        # Of a run that did not end nothing must get into this one.
        self._abort()
        module = getattr(trainer, "datamodule", None)
        dataset = getattr(module, "predict_dataset", None)
        if module is None or dataset is None:
            raise TypeError(
                "the trainer has no data module of CAREamics with a dataset for prediction; pass "
                "datamodule=CareamicsDataModule(...) to trainer.predict, or use CAREamist.predict"
            )
        # Lightning says so where a resumed run has nothing left to predict.
        warnings.filterwarnings("ignore", message="Total length of `(DataLoader|CombinedLoader)` across ranks is zero")
        self._view = _Trainer(trainer, dataset, module.batch_size)
        begin = partial(self._begin, self._view)
        open_tiles, returns_all = self._view.dataset.open_tiles, bool(trainer.predict_loop.return_predictions)
        module.predict_dataset = NeededTiles(dataset, open_tiles, begin, returns_all=returns_all)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Let the strategy refuse datasets and outputs before anything is predicted."""
        if self._view is not None:
            self._begin(self._view)

    def write_on_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Hand a batch to the strategy; raises as `PredictionWriterCallback.write_on_batch_end`."""
        if self._view is None:
            return
        images = self._view.dataset.images
        taken: Any
        given: Any = None
        if self._view.is_tiled:
            taken = predicted_tiles(prediction, images)
        else:
            taken, numbers = predicted_samples(prediction, images)
            given = (None, numbers)
        super().write_on_batch_end(self._view, pl_module, taken, batch_indices, given, batch_idx, dataloader_idx)

    def on_predict_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Let the trainer return what an earlier run has predicted, too, once all is written."""
        view = self._view
        if view is None or not isinstance(self.write_strategy, WriteTilesZarr):
            return
        if not trainer.predict_loop.return_predictions:
            return
        reports = self.write_strategy.finalize()
        tiles, predictions = view.datamodule.predict_dataset, trainer.predict_loop.predictions
        if not tiles.needed:
            predictions.clear()
        predictions.extend(kept_predictions(view.given, tiles.left_out(), view.dataset.images, reports))

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Wait until all is written, check that it is complete, and say so."""
        self._restore()
        super().on_predict_end(trainer, pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End a run of which nothing was left to be predicted."""
        if self._view is not None:
            self.on_predict_end(trainer, pl_module)
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close what the strategy has opened; what is written stays."""
        self._restore()
        super().on_exception(trainer, pl_module, exception)

    def _begin(self, view: _Trainer) -> None:
        if isinstance(self.write_strategy, WriteImage) == view.is_tiled:
            what, others = "whole images", "WriteImage, or predict with tile_size"
            if view.is_tiled:
                what, others = "tiles", "WriteTilesZarr or CacheTiles, or predict without tile_size"
            name = type(self.write_strategy).__name__
            raise TypeError(f"CAREamics predicts {what} here, which {name} does not take; use {others}")
        if isinstance(self.write_strategy, Prepares):
            self.write_strategy.prepare(view, self.dirpath)
        are_others = any(map(self._is_another_writer, view.callbacks))
        if are_others or (view.predict_loop.return_predictions and not self._stores_what_is_returned):
            # What is stored stands for no prediction, or others want all of them.
            view.dataset.open_tiles.keep_all()

    def _is_another_writer(self, callback: Any) -> bool:
        """Return whether a callback writes predictions, too: that of CAREamics is always there, and mostly off."""
        if callback is self or not hasattr(callback, "write_on_batch_end"):
            return False
        return bool(getattr(callback, "is_enabled", True) and getattr(callback, "writing_predictions", True))

    @property
    def _stores_what_is_returned(self) -> bool:
        strategy = self.write_strategy
        return (
            isinstance(strategy, WriteTilesZarr)
            and strategy.dtype in (None, "float32")
            and strategy.options.value_range is None
        )

    def _restore(self) -> None:
        """Give the data module its dataset back."""
        if self._view is not None:
            self._view.datamodule.predict_dataset = self._view.given
        self._view = None
