"""What hands predictions on, one batch at a time, and knows how to end."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tilewright.arguments import whole_numbers
from tilewright.datasets.adapted import AdaptedDataset
from tilewright.identity.values import name_of


@runtime_checkable
class WriteStrategy(Protocol):
    """How the predictions of a Lightning trainer are written.

    A strategy may also be one of those that `Prepares`, or that `Aborts`.

    Examples
    --------
    A strategy of your own is any object with `write_batch`, and with `finalize` where it must end. It gets each batch
    as the trainer has it. This one keeps the brightest voxel of all tiles:

    >>> import tempfile
    >>> import numpy as np, pytorch_lightning as pl, torch
    >>> import tilewright as tw
    >>> class Brightest:
    ...     def __init__(self):
    ...         self.values = []
    ...     def write_batch(self, *, prediction, **others):
    ...         tiles, infos = prediction
    ...         self.values.append(float(tiles.max()))
    ...     def finalize(self):
    ...         self.brightest = max(self.values)
    >>> class Doubling(pl.LightningModule):
    ...     def predict_step(self, batch, batch_idx):
    ...         tiles, infos = batch
    ...         return 2 * tiles, infos
    >>> image = np.arange(50 * 60, dtype="float32").reshape(50, 60)
    >>> tiled = tw.IterableTiledPredDataset(image, axes="YX", tile_size=(32, 32), overlaps=(8, 8))
    >>> loader = torch.utils.data.DataLoader(tiled, batch_size=4, collate_fn=tw.collate_tiles)
    >>> strategy = Brightest()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = tw.PredictionWriterCallback(strategy, dirpath=folder)
    ...     trainer = pl.Trainer(callbacks=[writer], logger=False, enable_progress_bar=False)
    ...     _ = trainer.predict(Doubling(), loader, return_predictions=False)
    >>> strategy.brightest
    5998.0
    """

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


@runtime_checkable
class Prepares(Protocol):
    """Strategy that checks its outputs before anything is predicted."""

    def prepare(self, trainer: Any, dirpath: Path | str) -> None:
        """Check the outputs of a run; called when prediction starts."""


@runtime_checkable
class Aborts(Protocol):
    """Strategy that lets go of what it holds where the prediction ends with an error."""

    def abort(self) -> None:
        """Let go of what is in flight; what is written stays."""


def loaders_of(trainer: Any) -> list[Any]:
    """Return the data loaders of a trainer, in the order of their ``dataloader_idx``."""
    loaders = trainer.predict_dataloaders
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]


def datasets_in(trainer: Any) -> list[Any]:
    """Return the datasets of all data loaders of a trainer, of any type; None for a loader without one."""
    return [getattr(loader, "dataset", None) for loader in loaders_of(trainer)]


def check_one_process(trainer: Any) -> None:
    """Raise NotImplementedError for a trainer of several processes or devices."""
    # A stand-in for a trainer has attributes of any kind.
    counts = [getattr(trainer, name, 1) for name in ("world_size", "num_devices")]
    processes = max((count for count in counts if isinstance(count, int)), default=1)
    if processes > 1:
        raise NotImplementedError(
            f"the trainer runs in {processes} processes, each of which would write all images; use devices=1, and "
            "leave the work of several machines to a Dask cluster"
        )


def datasets_of(trainer: Any, dataset_type: type) -> list[Any]:
    """Return the datasets of a trainer of one process, or raise TypeError where one is not of that type."""
    check_one_process(trainer)
    datasets = datasets_in(trainer)
    if not all(isinstance(dataset, dataset_type | AdaptedDataset) for dataset in datasets):
        raise TypeError(f"Prediction dataset is not `{dataset_type.__name__}`.")
    return datasets


def check_extents(name: str, extents: Any) -> None:
    """Raise ValueError for what are no extents of chunks or shards, whatever the image."""
    if extents is not None and not (isinstance(extents, str) and extents == "auto"):
        whole_numbers(name, extents, 1)


def check_options_of(function: Callable[..., Any], options: Any, name: str) -> None:
    """Raise TypeError where a function does not take such options, before anything is predicted."""
    if not callable(function):
        raise TypeError(f"write_func must be a function of a path and an image, got {function!r:.80}")
    if not isinstance(options, Mapping):
        raise TypeError(f"{name} must be a dictionary of options of {name_of(function)}, got {options!r:.80}")
    try:
        inspect.signature(function).bind(file_path=None, img=None, **options)
    except TypeError as error:
        raise TypeError(f"{name_of(function)} does not take {name}={dict(options)!r:.80}: {error}") from None
    except ValueError:
        # A function of C has no signature.
        return
