"""What hands predictions on, one batch at a time, and knows how to end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class WriteStrategy(Protocol):
    """How the predictions of a Lightning trainer are written."""

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
        """Write, or take in, the predictions of one batch.

        Parameters
        ----------
        trainer : Trainer
            The trainer.
        pl_module : LightningModule
            The model.
        prediction : tensor, array, or (tiles, infos)
            What the prediction step returned.
        batch_indices : sequence or None
            What Lightning says of the indices; not used, since it is unreliable.
        batch : object
            What the prediction step was given.
        batch_idx, dataloader_idx : int
            Which batch of which data loader.
        dirpath : Path or str
            The folder of all outputs.
        """

    def finalize(self) -> Any:
        """Wait for what is in flight, check that all of it is complete, and close; a second call does nothing."""


def datasets_of(trainer: Any) -> list[Any]:
    """Return the datasets of all data loaders of a trainer."""
    loaders = trainer.predict_dataloaders
    return [loader.dataset for loader in (loaders if isinstance(loaders, list | tuple) else [loaders])]
