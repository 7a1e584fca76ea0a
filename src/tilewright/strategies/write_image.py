"""Each predicted sample is written under the name of its own source; those of one source are written together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.conversion import as_array
from tilewright.datasets.images import SourceImage
from tilewright.datasets.iterable import IterablePredDataset
from tilewright.errors import ModelOutputError
from tilewright.geometry import TileInformation
from tilewright.strategies.collected_images import CollectedImages
from tilewright.strategies.write_strategy import loaders_of


class WriteImage(CollectedImages):
    """Write predictions of whole samples.

    Parameters
    ----------
    write_func, write_extension, write_func_kwargs, client, memory_nbytes, axes
        As in `CacheTiles`. The samples of an image are collected, and written together as SC(Z)YX; an image of one
        sample is written as C(Z)YX.

    Notes
    -----
    Which sample a prediction is of is taken from the batch, ``(samples, sample_ids)``. The samples of a dataset that is
    only registered as an `IterablePredDataset` are counted as they come, so it must be read by one data-loader worker.

    Examples
    --------
    A trainer predicts whole samples, and `write_zarr` writes all samples of a file to one Zarr array:

    >>> import tempfile
    >>> import numpy as np, pytorch_lightning as pl, tifffile, torch, zarr
    >>> import tilewright as tw
    >>> def smooth(images):
    ...     return torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1)
    >>> class Smoothing(pl.LightningModule):
    ...     def predict_step(self, batch, batch_idx):
    ...         samples, sample_ids = batch
    ...         return smooth(samples), sample_ids
    >>> samples = np.random.default_rng(0).random((2, 50, 60), dtype="float32")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tifffile.imwrite(f"{folder}/raw.tif", samples, photometric="minisblack")
    ...     writer = tw.PredictionWriterCallback(tw.WriteImage(tw.write_zarr, ".zarr"), dirpath=folder)
    ...     loader = torch.utils.data.DataLoader(tw.IterablePredDataset(f"{folder}/raw.tif", axes="SYX"), batch_size=2)
    ...     trainer = pl.Trainer(callbacks=[writer], logger=False, enable_progress_bar=False)
    ...     _ = trainer.predict(Smoothing(), loader, return_predictions=False)
    ...     planes = zarr.open_array(f"{folder}/raw.zarr/0", mode="r")[:]
    >>> planes.shape
    (2, 1, 50, 60)
    >>> np.testing.assert_allclose(planes, smooth(torch.from_numpy(samples)[:, None]), rtol=0, atol=1e-5)
    """

    _dataset_type = IterablePredDataset

    def _tiles_of(
        self, trainer: Any, prediction: Any, batch: Any, dataloader_idx: int
    ) -> tuple[AnyArray, list[TileInformation]]:
        samples: list[int] | None = None
        axis_counts: Sequence[int] = (4, 5)
        first = self._images[dataloader_idx][0]
        if isinstance(first, SourceImage):
            # Other numbers, of a foreign dataset or from the model, may be anything, such as the labels of classes.
            samples, axis_counts = _samples_in(batch), (len(first.sample_shape) + 1,)
        images = _images_in(prediction, axis_counts)
        if samples is None:
            samples = self._next_samples(trainer, dataloader_idx, len(images))
        return images, _wholes(images, samples)

    def _next_samples(self, trainer: Any, dataloader_idx: int, count: int) -> list[int]:
        """Return the numbers of samples that come without: they come in order, from one data-loader worker."""
        loader = loaders_of(trainer)[dataloader_idx]
        if getattr(loader, "num_workers", 0) > 1:
            raise TypeError(
                f"the batches say not which samples they hold, and {loader.num_workers} data-loader workers read them "
                "in no certain order; use an IterablePredDataset of tilewright, or num_workers=1"
            )
        first = self._next_sample.get(dataloader_idx, 0)
        self._next_sample[dataloader_idx] = first + count
        return list(range(first, first + count))

    def _forget(self) -> None:
        super()._forget()
        self._next_sample: dict[int, int] = {}


def _images_in(prediction: Any, axis_counts: Sequence[int]) -> AnyArray:
    """Return predictions, (B, C, (Z), Y, X), that come alone or before something else."""
    images = as_array(prediction[0] if isinstance(prediction, tuple | list) and prediction else prediction)
    if images.dtype.kind not in "buif":
        raise ModelOutputError(
            f"the model must return one tensor of numbers, or it before something else, got {type(prediction).__name__}"
        )
    if images.ndim not in axis_counts:
        raise ModelOutputError(
            f"the prediction must be (batch, channel, (Z), Y, X), with {' or '.join(map(str, axis_counts))} axes, got "
            f"the shape {images.shape}; the data loader must make batches, and the model keep their axes"
        )
    return images


def _samples_in(values: Any) -> list[int] | None:
    """Return the second of two values where it is a list, or a tensor, of whole numbers."""
    if not isinstance(values, tuple | list) or len(values) < 2:
        return None
    try:
        numbers = np.asarray(as_array(values[1]))
    except (TypeError, ValueError):
        return None
    return [int(number) for number in numbers] if numbers.ndim == 1 and numbers.dtype.kind in "iu" else None


def _wholes(images: AnyArray, samples: Sequence[int]) -> list[TileInformation]:
    """Return the tile information of predictions each of which is all of its sample."""
    if len(images) != len(samples):
        raise ModelOutputError(f"there are {len(images)} predictions, but {len(samples)} sample_ids")
    everything = tuple((0, extent) for extent in images.shape[2:])
    return [TileInformation(images.shape[1:], True, everything, everything, sample) for sample in samples]
