"""A run of one trainer is checked, takes batches in, and is closed: the same for all strategies of tilewright."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from operator import is_
from pathlib import Path
from typing import Any

from tilewright.strategies.write_strategy import datasets_in, datasets_of

Key = tuple[int, int]
"""Numbers of a data loader, and of an image of it."""


class TrainerStrategy(ABC):
    """What the strategies of tilewright have in common."""

    _dataset_type: type
    """What the datasets of a run must be."""

    def _forget(self) -> None:
        """Forget the run."""
        self._run: tuple[list[Any], Path] | None = None
        self._images: list[Sequence[Any]] = []

    @abstractmethod
    def _images_of(self, dataset: Any) -> Sequence[Any]:
        """Return the images of a dataset, or raise TypeError where they are not known."""

    @abstractmethod
    def _open(self, trainer: Any, images: Mapping[Key, Any], folder: Path) -> None:
        """Check the outputs of all images, and make ready for their predictions."""

    @abstractmethod
    def _take_in(self, trainer: Any, prediction: Any, batch: Any, dataloader_idx: int) -> None:
        """Take in what was predicted of a batch."""

    @abstractmethod
    def abort(self) -> None:
        """Let go of what is held."""

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
        """Take a batch in, and write what is complete now; waits while as much is held as may be.

        Parameters
        ----------
        trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx, dirpath
            As in `WriteStrategy.write_batch`.

        Raises
        ------
        TypeError
            If a dataset is of another type, or it cannot be told where the predictions belong.
        ModelOutputError
            If the predictions do not fit their images.
        TileMismatchError
            If a tile is none of its dataset.
        ImageWriteError
            If an image could not be written. It names image and file.
        OSError
            If an output exists, or cannot be written.
        """
        try:
            self.prepare(trainer, dirpath)
            self._take_in(trainer, prediction, batch, dataloader_idx)
        except BaseException:
            self.abort()
            raise

    def prepare(self, trainer: Any, dirpath: Path | str) -> None:
        """Check the datasets of a trainer and all outputs of the run, before anything is predicted or created.

        Parameters
        ----------
        trainer : Trainer
            The trainer.
        dirpath : Path or str
            The folder of all outputs.

        Raises
        ------
        TypeError
            If a dataset is of another type.
        OSError
            If an output exists and must stay, two images would share one, or one is a source.
        RuntimeError
            If another run is open.
        """
        if self._run is not None:
            datasets, folder = self._run
            given = datasets_in(trainer)
            is_same = len(given) == len(datasets) and all(map(is_, given, datasets))
            if not is_same or Path(dirpath) != folder:
                raise RuntimeError(
                    f"a run into {folder} has begun and not ended, and this batch is of another one, into {dirpath}; "
                    "call finalize(), or abort(), first"
                )
            return
        datasets = datasets_of(trainer, self._dataset_type)
        self._images = [self._images_of(dataset) for dataset in datasets]
        numbered = [enumerate(images) for images in self._images]
        images = {(loader, index): image for loader, of_loader in enumerate(numbered) for index, image in of_loader}
        self._run = (datasets, Path(dirpath))
        try:
            self._open(trainer, images, Path(dirpath))
        except BaseException:
            self.abort()
            raise
