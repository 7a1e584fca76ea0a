"""Images of a dataset: one count of samples through all images."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from tilewright.assemble import AnyArray
from tilewright.errors import TileMismatchError
from tilewright.sources.naming import ARRAY_SOURCE_NAME
from tilewright.sources.source import Source


@dataclass(frozen=True)
class SourceImage:
    """Image of a dataset, with the ``sample_id`` of its first sample."""

    source: Source
    first_sample: int

    @property
    def name(self) -> str:
        """Name in messages."""
        return self.source.name

    @property
    def path(self) -> Path | None:
        """Path of the file, with the dataset in it that is read; None for an array."""
        return self.source.address

    @property
    def sample_count(self) -> int:
        """Number of samples; frames are samples too."""
        return self.source.axes.sample_count

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape C(Z)YX of one sample."""
        axes = self.source.axes
        return (axes.channels, *(axes.extent(name) for name in axes.spatial))

    def read_sample(self, sample: int) -> AnyArray:
        """Return a whole sample, C(Z)YX."""
        return self.source.read_window({name: (at, at + 1) for name, at in self.sample_indices(sample).items()})

    def sample_indices(self, sample: int) -> dict[str, int]:
        """Return the index of a sample along S and along T."""
        s, t = divmod(sample, self.source.axes.extent("T"))
        return {"S": s, "T": t}


@dataclass(frozen=True)
class FileOfOneSample:
    """File of a foreign dataset, of which only the path is known."""

    path: Path
    first_sample: int
    sample_count: int = 1

    @property
    def name(self) -> str:
        """Name in messages."""
        return str(self.path)


DatasetImage = SourceImage | FileOfOneSample


def images_of(dataset: Any) -> Sequence[DatasetImage]:
    """Return the images of a dataset.

    Parameters
    ----------
    dataset : dataset
        One with ``images``, or a foreign one with ``data_files``: paths of files of one sample each, in order.

    Raises
    ------
    TypeError
        If it has neither.
    """
    images: Any = getattr(dataset, "images", ())
    # A foreign dataset may have other `images`, without samples.
    if isinstance(images, list | tuple) and images and all(hasattr(image, "first_sample") for image in images):
        return images
    files = getattr(dataset, "data_files", None)
    if files is None:
        raise TypeError(
            f"the dataset {type(dataset).__name__} has neither `images` nor `data_files`, so its samples have no "
            "names; give it `data_files`, a list of the paths of files of one sample each"
        )
    return [FileOfOneSample(Path(file), number) for number, file in enumerate(files)]


def image_of_sample(images: Sequence[DatasetImage], sample_id: int) -> int:
    """Return the index of the image of a sample, or raise TileMismatchError where there is no such sample."""
    index = bisect_right(images, sample_id, key=attrgetter("first_sample")) - 1
    if index >= 0 and sample_id < images[index].first_sample + images[index].sample_count:
        return index
    raise TileMismatchError(f"there is no sample {sample_id} in the dataset of {len(images)} images")


def get_sample_file_path(dataset: Any, sample_id: int) -> Path:
    """Return the path of the file of a sample.

    Parameters
    ----------
    dataset : IterablePredDataset or IterableTiledPredDataset
        The dataset.
    sample_id : int
        Index of the sample in the whole dataset.

    Returns
    -------
    Path
        Path of the file, or ``prediction_<index of the image>`` for an array.

    Raises
    ------
    TileMismatchError
        If the dataset has no such sample.
    """
    images = images_of(dataset)
    index = image_of_sample(images, sample_id)
    return images[index].path or Path(f"{ARRAY_SOURCE_NAME}_{index}")
