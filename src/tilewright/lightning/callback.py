"""Each batch goes to the write strategy as soon as it is predicted, and the run ends only when all of it is written."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.utilities import rank_zero_info

from tilewright.errors import RunStoppedError
from tilewright.strategies import WriteStrategy, create_write_strategy
from tilewright.strategies.write_strategy import Aborts, Prepares, check_one_process

if TYPE_CHECKING:
    from distributed import Client

    from tilewright.images.image_writer import WriteFunc

# Lightning comes as two packages that do not share their base classes, and the callback is one of each: what they do is
# the same, so that the first of them serves the trainers of both.
if TYPE_CHECKING:
    _Writer = BasePredictionWriter
else:
    try:
        from lightning.pytorch.callbacks import BasePredictionWriter as OtherPredictionWriter
    except ImportError:
        _Writer = BasePredictionWriter
    else:

        class _Writer(BasePredictionWriter, OtherPredictionWriter):
            """A prediction writer of both packages."""


class PredictionWriterCallback(_Writer):
    """Write predictions while a trainer predicts, of ``pytorch_lightning`` or of ``lightning.pytorch``.

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
        if isinstance(write_strategy, type) or not callable(getattr(write_strategy, "write_batch", None)):
            raise TypeError(
                f"write_strategy must be a write strategy, such as WriteTilesZarr(), got {write_strategy!r:.80}"
            )
        super().__init__(write_interval="batch")
        self.write_strategy = write_strategy
        self.writing_predictions = True
        self.dirpath = _absolute(dirpath)

    @classmethod
    def from_write_func_params(
        cls,
        write_type: str,
        tiled: bool,
        write_func: "WriteFunc | None" = None,
        write_extension: str | None = None,
        write_func_kwargs: dict[str, Any] | None = None,
        dirpath: Path | str = "predictions",
        *,
        client: "Client | None" = None,
    ) -> "PredictionWriterCallback":
        """Return a callback with the strategy for a kind of output.

        Parameters
        ----------
        write_type, tiled, write_func, write_extension, write_func_kwargs, client
            As in `create_write_strategy`.
        dirpath : Path or str, default="predictions"
            The folder of all outputs.

        Examples
        --------
        >>> writer = PredictionWriterCallback.from_write_func_params("tiff", tiled=True, dirpath="/data/predictions")
        >>> type(writer.write_strategy).__name__
        'CacheTiles'
        """
        strategy = create_write_strategy(
            write_type, tiled, write_func, write_extension, write_func_kwargs, client=client
        )
        return cls(strategy, _absolute(dirpath))

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the folder of the outputs before prediction; refuse a trainer of several processes, in each of them.

        Raises
        ------
        NotImplementedError
            If the trainer has several processes or devices.
        """
        if stage == "predict" and self.writing_predictions:
            check_one_process(trainer)
        super().setup(trainer, pl_module, stage)
        # Lightning cannot know which samples an iterable dataset yields; the tile information says it.
        warnings.filterwarnings("ignore", message="Couldn't infer the batch indices fetched from your dataloader")
        if stage == "predict" and self.writing_predictions:
            self.dirpath.mkdir(parents=True, exist_ok=True)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Let the strategy refuse datasets and outputs before anything is predicted."""
        super().on_predict_start(trainer, pl_module)
        # Of a run that did not end nothing must get into this one.
        self._abort()
        if self.writing_predictions and isinstance(self.write_strategy, Prepares):
            self.write_strategy.prepare(trainer, self.dirpath)

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
        """Hand a batch to the strategy; where SIGTERM has come, as at the end of a job, stop after it.

        Raises
        ------
        RunStoppedError
            If the trainer has received SIGTERM. What was handed over is written.
        """
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
            if getattr(trainer, "received_sigterm", False) is True:
                raise RunStoppedError(
                    f"SIGTERM: the prediction into {self.dirpath} has stopped after batch {batch_idx}. With "
                    "WriteTilesZarr, run it again with if_exists='resume' to go on from there"
                )

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Wait until all is written, check that it is complete, and say so."""
        super().on_predict_end(trainer, pl_module)
        if not self.writing_predictions:
            self._abort()
        elif isinstance(self.write_strategy, WriteStrategy):
            for report in self.write_strategy.finalize() or []:
                rank_zero_info(str(report))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close what the strategy has opened; what is written stays."""
        super().on_exception(trainer, pl_module, exception)
        self._abort()

    def _abort(self) -> None:
        if isinstance(self.write_strategy, Aborts):
            self.write_strategy.abort()


def _absolute(dirpath: Path | str) -> Path:
    """Return a folder that does not depend on the working directory, and warn where it did."""
    if not isinstance(dirpath, str | os.PathLike):
        raise TypeError(f"dirpath must be the path of a folder, got {dirpath!r:.80}")
    if not os.fspath(dirpath) or "://" in os.fspath(dirpath):
        raise ValueError(f"dirpath must be the path of a local folder, got {os.fspath(dirpath)!r:.200}")
    path = Path(dirpath).expanduser()
    if not path.is_absolute():
        path = Path.cwd() / path
        warnings.warn(
            f"the relative prediction folder {str(dirpath)!r} is taken from the working directory: {path}",
            # Where the callback is made.
            stacklevel=3,
        )
    return path
