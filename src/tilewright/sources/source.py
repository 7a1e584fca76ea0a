"""A source is read in windows, by the names of its axes, never as a whole.

A source travels to other processes as a description, and is opened there by the first read.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from distributed import Client

from tilewright.assemble import AnyArray
from tilewright.errors import FinalError, SourceError
from tilewright.geometry import AxisTiling, Interval
from tilewright.ome.world import UNKNOWN_WORLD, World
from tilewright.plan import ImageAxes
from tilewright.plan.axes import SPATIAL
from tilewright.sources.readers.reader import FunctionReader, Reader
from tilewright.sources.readers.zarr import ZarrReader, can_travel
from tilewright.stores.places import IN_MEMORY, place_of_store, without_secrets


@dataclass
class Source:
    """One image to predict.

    Parameters
    ----------
    axes : ImageAxes
        Axes in the order of the source, and their extents.
    dtype, reader
        Data type of its elements, and reader of them.
    name : str
        Name in messages.
    path : Path or None
        Path of the file or folder; None for an array.
    recorded_path : str or None
        Path when an output was begun from it.
    series : int
        Index of the image in a file or group of several.
    notes : tuple of str
        Notes for the user, such as on images of the file that are not read.
    world : World
        Physical metadata.
    """

    axes: ImageAxes
    dtype: np.dtype[Any]
    name: str
    path: Path | None
    reader: Reader
    recorded_path: str | None = None
    series: int = 0
    notes: tuple[str, ...] = ()
    world: World = UNKNOWN_WORLD

    def __post_init__(self) -> None:
        if self.recorded_path is None and self.path is not None:
            self.recorded_path = f"{self.path.resolve()}{self.reader.inside}"

    @property
    def address(self) -> Path | None:
        """Path of the file, with the part of it that is read, as a user passes it; None for an array."""
        return None if self.path is None else Path(f"{self.path}{self.reader.inside}")

    @property
    def is_only_here(self) -> str:
        """The reason that other processes cannot read it; empty if they can."""
        opened = self.opened()
        # Each process calls the function of a user for itself.
        if not isinstance(opened, zarr.Array) or isinstance(self.reader, FunctionReader):
            return ""
        place = place_of_store(opened.store)
        if place is not None and place.is_memory:
            return IN_MEMORY
        if not can_travel(opened.store):
            return "is a zip file that is open to be written, which the workers cannot reach; open it to be read"
        return ""

    def array_alone(self) -> "Source":
        """Return the Zarr array that is read, without the group around it, which may hold others; others unchanged."""
        return replace(self, path=None) if isinstance(self.reader, ZarrReader) else self

    def held_by(self, client: Client, look: Callable[[], None]) -> AbstractContextManager[None]:
        """Let the workers of a cluster find the persisted parts of the source; as `DaskReader.held_by`."""
        return self.reader.held_by(client, look)

    def opened(self) -> Any:
        """Return the open image: an object with a shape and a dtype that can be sliced."""
        return self.reader.open()

    def take_missing(self) -> frozenset[int]:
        """Return the objects of a Zarr array that were read as the fill value since the last call."""
        return self.reader.take_missing()

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self.reader.close()

    def read_window(self, window: Mapping[str, Interval]) -> AnyArray:
        """Return a window of one sample and frame, C(Z)YX, also if the source has no channels; or raise SourceError.

        The window has the interval of each axis that is not read in full. S and T must have one element.
        """
        names = self.axes.names
        slices = tuple(slice(*window.get(name, (0, self.axes.extent(name)))) for name in names)
        try:
            read = self.reader.read(slices)
        except FinalError:
            raise
        except Exception as error:
            bounds = ", ".join(f"{n} {s.start}:{s.stop}" for n, s in zip(names, slices, strict=True))
            raise SourceError(f"could not read {bounds} of {self.name}: {without_secrets(error)}") from error
        kept = read[tuple(0 if name in "ST" else slice(None) for name in names)]
        left = [name for name in names if name not in "ST"]
        ordered = kept.transpose([left.index(name) for name in "CZYX" if name in left])
        return ordered if "C" in left else ordered[np.newaxis]

    def read_tile(self, axes: str, tilings: Sequence[AxisTiling], position: Sequence[int]) -> AnyArray:
        """Return the input of the model for one tile, C(Z)YX, padded where an axis is shorter.

        Each tiled axis has a tiling, and the index of the tile. A tiling of C is ignored: all channels are read.
        """
        tiled = list(zip(axes, tilings, position, strict=True))
        read = self.read_window({name: tiling.read(index) for name, tiling, index in tiled if name != "C"})
        return padded(read, [tiling for name, tiling, _ in tiled if name in SPATIAL])


def padded(read: AnyArray, tilings: Sequence[AxisTiling]) -> AnyArray:
    """Return what is read of a tile, C(Z)YX, padded by reflection on both sides, or with zeros behind."""
    padding = [(0, 0), *(tiling.padding for tiling in tilings)]
    if not any(before or behind for before, behind in padding):
        return read
    return np.pad(read, padding, mode="constant" if any(tiling.pads_behind for tiling in tilings) else "reflect")
