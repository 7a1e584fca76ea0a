"""A source is never held as a whole: it gives windows, by the names of their axes, and reads no more than they need.

It travels to other processes as a description, and is opened there when it is first read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from distributed import Client

from tilewright.assemble import AnyArray
from tilewright.errors import FinalError, SourceError
from tilewright.geometry import AxisTiling, Interval
from tilewright.plan import ImageAxes
from tilewright.plan.axes import SPATIAL
from tilewright.sources.readers.dask import DaskReader
from tilewright.sources.readers.reader import Reader, ReadFunction
from tilewright.sources.readers.zarr import ZarrReader, can_travel
from tilewright.stores.places import IN_MEMORY, place_of_store, without_secrets


@dataclass
class Source:
    """The windows of one image.

    Parameters
    ----------
    axes : ImageAxes
        The axes in the order of the source, and their extents.
    dtype : numpy.dtype
        The data type of its elements.
    name : str
        How to name it in messages.
    path : Path or None
        Where it lies, if it is a file or folder.
    recorded_path : str or None
        Where it was when an output was begun from it.
    series : int
        Which image of a file, or of a group, that holds several.
    notes : tuple of str
        What the user should know of it, such as what was left out.
    """

    axes: ImageAxes
    dtype: np.dtype[Any]
    name: str
    path: Path | None
    _reader: Reader
    recorded_path: str | None = None
    series: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.recorded_path is None and self.path is not None:
            self.recorded_path = str(self.path.resolve())

    @property
    def view(self) -> str:
        """What is read of a file where that is not all of it: a part of a memory map, or what a function says."""
        return getattr(self._reader, "view", "")

    @property
    def read_function(self) -> ReadFunction | None:
        """What reads the file, where that is a function of the user."""
        return getattr(self._reader, "function", None)

    def opened_once(self) -> Any:
        """Return what the windows are taken from; a file that was not open is closed again."""
        was_open = self._reader.is_open
        try:
            return self.opened()
        finally:
            if not was_open:
                self.close()

    @property
    def is_only_here(self) -> str:
        """Why other processes cannot read it; empty where they may."""
        opened = self.opened()
        if not isinstance(opened, zarr.Array):
            return ""
        place = place_of_store(opened.store)
        if place is not None and place.is_memory:
            return IN_MEMORY
        if not can_travel(opened.store):
            return "is a zip file that is open to be written, which the workers cannot reach; open it to be read"
        return ""

    @contextmanager
    def held_by(self, client: Client, look: Callable[[], None]) -> Iterator[None]:
        """Let the workers of a cluster find what it holds of the source; as `DaskReader.held_by`."""
        if not isinstance(self._reader, DaskReader):
            yield
            return
        with self._reader.held_by(client, look):
            yield

    def opened(self) -> Any:
        """Return what the windows are taken from: something with a shape and a dtype that can be sliced."""
        return self._reader.open()

    def take_missing(self) -> frozenset[int]:
        """Return the stored objects of a Zarr array that were read as its fill value since the last call."""
        return self._reader.take_missing() if isinstance(self._reader, ZarrReader) else frozenset()

    def close(self) -> None:
        """Let go of the file, and of what was read of it; the next read opens it again."""
        self._reader.close()

    def read_window(self, window: Mapping[str, Interval]) -> AnyArray:
        """Return a window of one sample and frame.

        Parameters
        ----------
        window : mapping of str to (start, stop)
            What to read of each axis that is not to be read in full. S and T must have one element.

        Returns
        -------
        array
            C(Z)YX; C is there even where the source has no channels.

        Raises
        ------
        SourceError
            If it cannot be read. It names the source and the window.
        """
        slices = tuple(
            slice(*window.get(name, (0, extent))) for name, extent in zip(self.axes.names, self.axes.shape, strict=True)
        )
        try:
            read = self._reader.read(slices)
        except FinalError:
            raise
        except Exception as error:
            bounds = ", ".join(f"{n} {s.start}:{s.stop}" for n, s in zip(self.axes.names, slices, strict=True))
            raise SourceError(f"could not read {bounds} of {self.name}: {without_secrets(error)}") from error
        names = self.axes.names
        kept = read[tuple(0 if name in "ST" else slice(None) for name in names)]
        left = [name for name in names if name not in "ST"]
        ordered = kept.transpose([left.index(name) for name in "CZYX" if name in left])
        return ordered if "C" in left else ordered[np.newaxis]

    def read_tile(self, axes: str, tilings: Sequence[AxisTiling], position: Sequence[int]) -> AnyArray:
        """Return what a model sees of one tile.

        Parameters
        ----------
        axes : str
            The axes that are tiled. All channels of the source are read, whatever is said of C.
        tilings : sequence of AxisTiling
            The tiles, one tiling per axis.
        position : sequence of int
            The index of the tile on each axis.

        Returns
        -------
        array
            C(Z)YX, padded by reflection to the whole tile where an axis is shorter.
        """
        tiled = list(zip(axes, tilings, position, strict=True))
        read = self.read_window({name: tiling.read(index) for name, tiling, index in tiled if name != "C"})
        return padded(read, [(0, 0), *(tiling.padding for name, tiling, _ in tiled if name in SPATIAL)])


def padded(read: AnyArray, padding: Sequence[tuple[int, int]]) -> AnyArray:
    """Return a tile that is padded by reflection where an axis is shorter."""
    if not any(before or behind for before, behind in padding):
        return read
    return np.pad(read, padding, mode="reflect")
