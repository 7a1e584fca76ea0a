"""A source is never held as a whole: it gives windows, by the names of their axes, and reads no more than they need.

It travels to other processes as a description, and is opened there when it is first read.
"""

import mmap
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dask
import dask.array
import numpy as np
import tifffile
import zarr
from zarr.abc.store import Store

from tilewright.assemble import AnyArray
from tilewright.errors import GeometryError, SourceError
from tilewright.geometry import AxisTiling, Interval
from tilewright.plan import ImageAxes
from tilewright.plan.axes import SPATIAL
from tilewright.storage.places import place_of_store, public_name, without_secrets
from tilewright.storage.value_identity import value_identity

TIFF_SUFFIXES = {".tif", ".tiff", ".btf", ".tf8"}

_Slices = tuple[slice, ...]

ReadFunction = Callable[[Path, str], Any]
"""What reads a file that is neither TIFF nor Zarr: from its path and its axes to an array, of NumPy, Zarr or Dask."""


class _Reader(Protocol):
    """What gives the elements of a source."""

    def open(self) -> Any:
        """Return something with a shape and a dtype that can be sliced."""

    def read(self, slices: _Slices) -> AnyArray:
        """Return a window."""

    def close(self) -> None:
        """Let go of what was opened; reading opens it again."""

    @property
    def is_open(self) -> bool:
        """Whether something is opened."""


@dataclass
class _ArrayReader:
    """Something in this process, or that knows itself how to travel: NumPy, Zarr, Dask."""

    array: Any

    def open(self) -> Any:
        return self.array

    def read(self, slices: _Slices) -> AnyArray:
        window = self.array[slices]
        if isinstance(window, dask.array.Array):
            # In this thread: the tasks around it are the parallelism, and this one already runs on a worker.
            window = window.compute(scheduler="synchronous")
        return _owned(window)

    def close(self) -> None:
        """Leave it: it belongs to the caller."""

    @property
    def is_open(self) -> bool:
        return True


def _owned(window: Any) -> AnyArray:
    """Return an array that a model may change: no view of the source, and no read-only memory."""
    array = np.asarray(window)
    return array if array.flags.owndata and array.flags.writeable else array.copy()


@dataclass
class _FileReader:
    """A file that each process opens for itself."""

    path: str
    _opened: Any = None

    def open(self) -> Any:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def read(self, slices: _Slices) -> AnyArray:
        return _owned(self.open()[slices])

    def close(self) -> None:
        self._opened = None

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _open(self) -> Any:
        raise TypeError("a file reader must know how to open its file")


@dataclass
class _ZarrReader(_FileReader):
    def _open(self) -> Any:
        return _full_resolution(zarr.open(self.path, mode="r"), self.path)


@dataclass
class _TiffReader(_FileReader):
    def _open(self) -> Any:
        try:
            return tifffile.memmap(self.path, mode="r")
        except ValueError:
            # Compressed or in pieces: its strips and tiles are the chunks of a read-only Zarr array.
            store = tifffile.imread(self.path, aszarr=True, level=0)
            array = zarr.open(store, mode="r")
            weakref.finalize(array, store.close)
            return array


@dataclass
class _FunctionReader(_FileReader):
    """A file that a function of the user reads: whole, unless what it returns is lazy."""

    axes: str = ""
    function: ReadFunction | None = None

    def read(self, slices: _Slices) -> AnyArray:
        return _ArrayReader(self.open()).read(slices)

    @property
    def view(self) -> str:
        return f", read by {value_identity(self.function)}"

    def _open(self) -> Any:
        if self.function is None:
            raise TypeError("there is no function that reads the file")
        array = self.function(Path(self.path), self.axes)
        if not _is_array(array):
            raise SourceError(
                f"read_source_func must return an array of NumPy, Zarr or Dask, but for {self.path} it returned "
                f"{type(array).__name__}"
            )
        return array


@dataclass
class _MemmapReader(_FileReader):
    dtype: str = ""
    shape: tuple[int, ...] = ()
    offset: int = 0
    order: Any = "C"

    @property
    def view(self) -> str:
        return f", from byte {self.offset} in {self.order} order"

    def _open(self) -> Any:
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)


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
    """

    axes: ImageAxes
    dtype: np.dtype[Any]
    name: str
    path: Path | None
    _reader: _Reader
    recorded_path: str | None = None

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
    def is_only_here(self) -> bool:
        """Whether other processes cannot read it: it lies in the memory of this one, and is not sent."""
        opened = self.opened()
        place = place_of_store(opened.store) if isinstance(opened, zarr.Array) else None
        return place is not None and place.service.endswith("memory")

    def opened(self) -> Any:
        """Return what the windows are taken from: something with a shape and a dtype that can be sliced."""
        return self._reader.open()

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
        padding = [(0, 0), *(tiling.padding for name, tiling, _ in tiled if name in SPATIAL)]
        if not any(before or behind for before, behind in padding):
            return read
        return np.pad(read, padding, mode="reflect")


def open_source(source: Any, axes: str, read_source_func: ReadFunction | None = None) -> Source:
    """Open an image without reading it.

    Parameters
    ----------
    source : path, zarr.Array, zarr.Group, zarr store, numpy array or memmap, dask array
        A path ends in ``.tif`` or ``.tiff``, or is a Zarr array, or a Zarr group with an array ``0``.
    axes : str
        Its axes, letters of ``STCZYX`` in its own order.
    read_source_func : callable, optional
        What reads a path: called with the path and the axes, returns an array of NumPy, Zarr or Dask.

    Returns
    -------
    Source
        What gives its windows.

    Raises
    ------
    SourceError
        If it cannot be opened. It names the source.
    GeometryError
        If the axes do not fit it.
    """
    name, path, reader = _reader_of(source, axes, read_source_func)
    try:
        opened = reader.open()
        shape, dtype = tuple(int(extent) for extent in opened.shape), np.dtype(opened.dtype)
    except SourceError:
        raise
    except Exception as error:
        if read_source_func is not None:
            raise SourceError(
                f"read_source_func could not read the source {name}: {without_secrets(repr(error))}"
            ) from error
        raise SourceError(
            f"could not open the source {name}: {without_secrets(error)}; a file is TIFF (.tif, .tiff) or Zarr: load "
            "anything else yourself, and pass the array"
        ) from error
    try:
        image_axes = ImageAxes(axes, shape)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from None
    if dtype.kind not in "buif":
        raise SourceError(f"the source {name} has elements of type {dtype}; only numbers can be predicted on")
    return Source(image_axes, dtype, name, path, reader)


def _reader_of(source: Any, axes: str, read_source_func: ReadFunction | None) -> tuple[str, Path | None, _Reader]:
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if "://" in os.fspath(source):
            raise SourceError(
                f"the source {public_name(os.fspath(source))!r} is a URL; open it with zarr or dask.array and pass the "
                "array"
            )
        if not path.exists():
            raise SourceError(f"the source {path} does not exist")
        is_tiff = path.suffix.lower() in TIFF_SUFFIXES
        absolute = str(path.absolute())
        if read_source_func is not None:
            return str(path), path.absolute(), _FunctionReader(absolute, axes=axes, function=read_source_func)
        return str(path), path.absolute(), _TiffReader(absolute) if is_tiff else _ZarrReader(absolute)
    # What was changed in a copy-on-write map is in the memory of this process only.
    is_file = isinstance(source, np.memmap) and isinstance(source.base, mmap.mmap) and source.mode != "c"
    if is_file and source.filename is not None:
        order = "C" if source.flags.c_contiguous else "F"
        reader = _MemmapReader(
            str(source.filename), dtype=source.dtype.str, shape=source.shape, offset=source.offset, order=order
        )
        return str(source.filename), Path(source.filename), reader
    if isinstance(source, Store):
        try:
            source = zarr.open(source, mode="r")
        except (KeyError, OSError, ValueError) as error:
            raise SourceError(f"could not open the source {public_name(source)}: {without_secrets(error)}") from error
    if isinstance(source, zarr.Group):
        source = _full_resolution(source, public_name(source.store))
    if hasattr(source, "detach"):
        raise SourceError("a source is a path, or an array of Zarr, NumPy or Dask, got a tensor; pass tensor.numpy()")
    if not _is_array(source):
        raise SourceError(
            f"a source is a path, or an array of Zarr, NumPy or Dask, got {type(source).__name__}: {source!r:.80}"
        )
    root = _path_of(source)
    return str(root) if root else f"{type(source).__name__} of shape {source.shape}", root, _ArrayReader(source)


def _is_array(values: Any) -> bool:
    return hasattr(values, "shape") and hasattr(values, "dtype") and hasattr(values, "__getitem__")


def _full_resolution(node: Any, name: str) -> Any:
    """Return an array, or the array of the full resolution in a group."""
    if not isinstance(node, zarr.Group):
        return node
    array = node.get("0")
    if not isinstance(array, zarr.Array):
        raise SourceError(
            f"{name} is a Zarr group with no array '0'; it holds {sorted(node.keys())}: give the array itself"
        )
    return array


def _path_of(source: Any) -> Path | None:
    if isinstance(source, zarr.Array):
        root = getattr(source.store, "root", None)
        return (Path(root) / source.path).absolute() if root is not None else None
    return None
