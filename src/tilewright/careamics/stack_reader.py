"""An image stack of CAREamics is a source: it has the axes of the user, and is compared by its content."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from xxhash import xxh3_64

from tilewright.assemble import AnyArray
from tilewright.errors import GeometryError
from tilewright.plan import ImageAxes
from tilewright.sources.opening import open_source
from tilewright.sources.readers.reader import Reader
from tilewright.sources.readers.tiff import SUFFIXES
from tilewright.sources.source import Source

COMPARED_NBYTES = 64 * 2**20
"""Bytes of a stack that are compared, at most."""
_IN_MEMORY = "array"
"""What CAREamics calls the source of an array."""


def source_of(stack: Any, index: int) -> Source:
    """Return the source behind an image stack of CAREamics.

    Parameters
    ----------
    stack : image stack
        With ``source``, ``data_shape`` as SC(Z)YX, ``original_axes``, ``original_data_shape`` and ``extract_patch``.
    index : int
        Index of the stack in its dataset.

    Raises
    ------
    GeometryError
        If its axes are not those of its data: time as depth, say.
    SourceError
        If its file cannot be opened.
    """
    said, shape = str(stack.source), tuple(int(extent) for extent in stack.original_data_shape)
    path = _local_path(said)
    if path is not None and (path.suffix.lower() in SUFFIXES or said.startswith("file:")):
        source = open_source(path, stack.original_axes)
        if source.axes.shape == shape:
            return source
    axes = ImageAxes(stack.original_axes, shape)
    expected = (axes.sample_count, axes.extent("C"), *(axes.extent(name) for name in axes.spatial))
    if tuple(stack.data_shape) != expected:
        raise GeometryError(
            f"image {index} of CAREamics has the axes {axes.names} of extents {shape}, and is predicted as "
            f"{tuple(stack.data_shape)} in the order SC(Z)YX, where {expected} was expected; only S and T are samples"
        )
    name = f"array {index}" if said == _IN_MEMORY else said
    return Source(axes, np.dtype(stack.data_dtype), name, path, StackReader(StackImage(stack, axes)))


def _local_path(said: str) -> Path | None:
    """Return the path of a source; None for an array, and where it is no file of this machine."""
    if said == _IN_MEMORY:
        return None
    if said.startswith("file:"):
        return Path(unquote(urlsplit(said).path))
    path = Path(said)
    return path if path.exists() else None


@dataclass(frozen=True)
class StackImage:
    """Image stack with the shape and the axes of the user; windows of one sample are read by CAREamics."""

    stack: Any
    axes: ImageAxes

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents, in the order of the axes of the user."""
        return self.axes.shape

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Data type of the elements before they are normalised."""
        known: np.dtype[Any] = np.dtype(self.stack.data_dtype)
        return known

    def __getitem__(self, slices: Sequence[slice]) -> AnyArray:
        """Return a window of one sample and frame, in the order of the axes of the user."""
        parts = zip(self.axes.names, slices, self.axes.shape, strict=True)
        bounds = {name: part.indices(extent)[:2] for name, part, extent in parts}
        sample = bounds.get("S", (0, 1))[0] * self.axes.extent("T") + bounds.get("T", (0, 1))[0]
        spatial = [bounds[name] for name in self.axes.spatial]
        sizes = [stop - start for start, stop in spatial]
        patch = self.stack.extract_patch(sample, None, [start for start, _ in spatial], sizes)
        patch = np.asarray(patch).astype(self.dtype, copy=False)
        patch = patch[slice(*bounds["C"])] if "C" in bounds else patch[0]
        kept = [name for name in "CZYX" if name in bounds]
        ordered: AnyArray = patch.transpose([kept.index(name) for name in self.axes.names if name in kept])
        samples = tuple(axis for axis, name in enumerate(self.axes.names) if name not in kept)
        return np.expand_dims(ordered, samples)


@dataclass
class StackReader(Reader):
    """Reader of an image stack of CAREamics."""

    image: StackImage

    def open(self) -> StackImage:
        """Return the image."""
        return self.image

    @property
    def view(self) -> str:
        """The class that reads the file of the stack."""
        return f", read by {type(self.image.stack).__qualname__} of CAREamics"

    @property
    def content(self) -> str:
        """Digest of planes that are spread evenly over all samples."""
        stack = self.image.stack
        samples, channels, *spatial = (int(extent) for extent in stack.data_shape)
        depth, plane = prod(spatial[:-2]), spatial[-2:]
        count = samples * depth
        most = max(1, COMPARED_NBYTES // max(1, 4 * channels * prod(plane)))
        digest = xxh3_64(f"{stack.data_dtype} {tuple(stack.data_shape)}".encode())
        for number in sorted({round(place) for place in np.linspace(0, count - 1, min(most, count))}):
            sample, level = divmod(number, depth)
            at = [level, 0, 0] if len(spatial) == 3 else [0, 0]
            patch = stack.extract_patch(sample, None, at, [1, *plane] if len(spatial) == 3 else plane)
            digest.update(np.ascontiguousarray(patch).data)
        return digest.hexdigest()
