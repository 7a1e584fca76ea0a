"""Each batch goes to the write strategy as soon as it is predicted, and the run ends only when all of it is written."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.utilities import rank_zero_info

from tilewright.strategies.write_strategy import WriteStrategy


class PredictionWriterCallback(BasePredictionWriter):
    """Write predictions while a trainer predicts.

    Parameters
    ----------
    write_strategy : WriteStrategy
        How predictions are written.
    dirpath : Path or str, default="predictions"
        The folder of all outputs. A relative one is taken from the working directory, with a warning.

    Attributes
    ----------
    writing_predictions : bool
        Whether predictions are written; turn it off to predict only.
    dirpath : Path
        The folder, absolute.
    """

    def __init__(self, write_strategy: WriteStrategy, dirpath: Path | str = "predictions") -> None:
        super().__init__(write_interval="batch")
        self.write_strategy = write_strategy
        self.writing_predictions = True
        self.dirpath = Path(dirpath)
        if not self.dirpath.is_absolute():
            self.dirpath = Path.cwd() / self.dirpath
            warnings.warn(
                f"the relative prediction folder {str(dirpath)!r} is taken from the working directory: {self.dirpath}",
                stacklevel=2,
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the folder of the outputs before prediction."""
        super().setup(trainer, pl_module, stage)
        # Lightning cannot know which samples an iterable dataset yields, and nobody here asks it.
        warnings.filterwarnings("ignore", message="Couldn't infer the batch indices fetched from your dataloader")
        if stage == "predict" and self.writing_predictions:
            self.dirpath.mkdir(parents=True, exist_ok=True)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Hand a batch to the strategy."""
        if self.writing_predictions:
            self.write_strategy.write_batch(
                trainer=trainer,
                pl_module=pl_module,
                prediction=prediction,
                batch_indices=batch_indices,
                batch=batch,
                batch_idx=batch_idx,
                dataloader_idx=dataloader_idx,
                dirpath=self.dirpath,
            )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait until all is written, check that it is complete, and say so."""
        super().on_predict_end(trainer, pl_module)
        if self.writing_predictions:
            for report in self.write_strategy.finalize() or []:
                rank_zero_info(str(report))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close what the strategy has opened; what is written stays."""
        super().on_exception(trainer, pl_module, exception)
        abort = getattr(self.write_strategy, "abort", None)
        if abort is not None:
            abort()
