"""A source is opened, and its axes and data type are checked, before any element is read."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, StorePath, ZipStore

from tilewright.arguments import whole_number
from tilewright.conversion import is_array, is_number
from tilewright.errors import GeometryError, SourceError
from tilewright.ome.world import UNKNOWN_WORLD, World
from tilewright.plan import ImageAxes
from tilewright.sources.readers.dask import DaskReader
from tilewright.sources.readers.hdf5 import Hdf5Reader, split_address
from tilewright.sources.readers.image_in_group import ImageArray, image_of, series_notes
from tilewright.sources.readers.n5 import N5Reader, is_n5
from tilewright.sources.readers.reader import ArrayReader, FunctionReader, MemmapReader, Reader, ReadFunction, unmasked
from tilewright.sources.readers.said_axes import chosen_axes, known_axes_of_tiff, note_on_said_axes
from tilewright.sources.readers.tiff import SUFFIXES, TiffReader
from tilewright.sources.readers.zarr import ZarrReader
from tilewright.sources.source import Source
from tilewright.stores.places import opened_store, public_name, without_secrets
from tilewright.stores.zarr_api import ensure_open


@dataclass(frozen=True)
class _Found:
    """An image before its axes are checked, with the axes in its metadata; other fields as in `Source`."""

    name: str
    path: Path | None
    reader: Reader
    said_axes: str = ""
    notes: tuple[str, ...] = ()
    world: World = UNKNOWN_WORLD
    is_typed: bool = False


def open_source(source: Any, axes: str | None, read_source_func: ReadFunction | None = None, series: int = 0) -> Source:
    """Open an image without reading it.

    Parameters
    ----------
    source : path, zarr.Array, zarr.Group, zarr store, numpy array or memmap, dask array
        A path ends in ``.tif`` or ``.tiff``, or is a Zarr array, or a Zarr group whose metadata name an array, or with
        an array ``0``, or a dataset of HDF5 (``raw.h5:/dataset``) or N5 (``raw.n5/dataset``).
    axes : str or None
        Axes of the source in its own order, letters of ``STCZYX``; None for those of its metadata.
    read_source_func : callable, optional
        Function that reads a path: called with the path and the axes, returns an array of NumPy, Zarr or Dask.
    series : int, default=0
        Index of the image in a file or group of several.

    Raises
    ------
    SourceError
        If it cannot be opened, or is incomplete; the message names the source.
    GeometryError
        If the axes do not fit it, or contradict its metadata.
    """
    if not isinstance(axes, str | None):
        raise GeometryError(f"axes must be a string such as 'ZYX', got {axes!r}")
    if axes is None and read_source_func is not None:
        raise GeometryError("axes must be given, such as 'ZYX', since read_source_func is called with them")
    if read_source_func is not None and not callable(read_source_func):
        raise TypeError(f"read_source_func must be a function of a path and axes, got {read_source_func!r:.80}")
    series = whole_number("series", series, 0)
    found = _found(source, axes, read_source_func, series)
    if series and not isinstance(found.reader, TiffReader | ZarrReader):
        raise SourceError(f"the source {found.name} holds one image: series must be 0, got {series}")
    with _opening(found.name, by_function=read_source_func is not None):
        opened = found.reader.open()
        shape, dtype = tuple(int(extent) for extent in opened.shape), np.dtype(opened.dtype)
    try:
        image_axes = ImageAxes(chosen_axes(axes, found.said_axes), shape)
        note = note_on_said_axes(image_axes.names, found.said_axes, is_typed=found.is_typed)
    except GeometryError as error:
        raise GeometryError(f"{found.name}: {error}") from None
    notes = [f"{found.name}: {note}"] if note else []
    if not is_number(dtype):
        reason = f"has elements of type {dtype}; only numbers of at most 64 bits can be predicted on"
        raise SourceError(f"the source {found.name} {reason}")
    return Source(
        image_axes,
        dtype,
        found.name,
        found.path,
        found.reader,
        series=series,
        notes=(*found.notes, *notes),
        world=found.world,
    )


def open_single_source(source: Any, axes: Any, read_source_func: ReadFunction | None = None, series: int = 0) -> Source:
    """Open an image as `open_source` does; a function that would have no path to read is a TypeError."""
    if read_source_func is not None and not isinstance(source, str | os.PathLike):
        raise TypeError(f"read_source_func reads a path, and the source is a {type(source).__name__}: pass the path")
    return open_source(source, axes, read_source_func, series)


@contextmanager
def _opening(name: str, *, by_function: bool = False) -> Iterator[None]:
    """Raise any error as a SourceError that names the source."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        if by_function:
            reason = f"read_source_func could not read the source {name}: {without_secrets(repr(error))}"
            raise SourceError(reason) from error
        raise SourceError(
            f"could not open the source {name}: {without_secrets(error) or type(error).__name__}; a file is TIFF "
            "(.tif, .tiff), HDF5 (.h5:/dataset), N5 or Zarr: load anything else by read_source_func, or pass an array"
        ) from error


def _found(source: Any, axes: str | None, read_source_func: ReadFunction | None, series: int) -> _Found:
    if isinstance(source, str | os.PathLike):
        return _found_at(source, axes, read_source_func, series)
    # Changes in a copy-on-write map are not in the file.
    is_file = isinstance(source, np.memmap) and isinstance(source.base, mmap.mmap) and source.mode != "c"
    if is_file and source.filename is not None:
        order = "C" if source.flags.c_contiguous else "F"
        path = str(source.filename)
        return _Found(path, Path(path), MemmapReader(path, source.dtype.str, source.shape, source.offset, order))
    store, path = opened_store(source)
    if isinstance(source, zarr.Array):
        root = _path_of(source)
        name = str(root or f"{type(source).__name__} of shape {source.shape}")
        with _opening(name):
            image = ImageArray.of(source)
        return _of_image(image, name, root)
    if store is not None:
        image = _opened_image(store, public_name(store, path), series, path)
        root = _path_of(image.array)
        return _of_image(image, str(root or public_name(image.array.store, image.array.path)), root)
    if hasattr(source, "detach"):
        raise SourceError("a source is a path, or an array of Zarr, NumPy or Dask, got a tensor; pass tensor.numpy()")
    if not is_array(source):
        raise SourceError(
            f"a source is a path, or an array of Zarr, NumPy or Dask, got {type(source).__name__}: {source!r:.80}"
        )
    return _Found(f"{type(source).__name__} of shape {source.shape}", None, reader_of(source))


def _found_at(source: str | os.PathLike[str], axes: str | None, read: ReadFunction | None, series: int) -> _Found:
    path = Path(source).expanduser()
    name, dataset = str(path), None
    if read is None:
        path, dataset = split_address(path)
    if "://" in os.fspath(source):
        raise SourceError(
            f"the source {public_name(os.fspath(source))!r} is a URL; open it with zarr or dask.array and pass the "
            "array"
        )
    if not path.exists():
        raise SourceError(f"the source {path} does not exist")
    absolute = path.absolute()
    if read is not None:
        return _Found(name, absolute, FunctionReader(str(absolute), axes or "", read, reader_of))
    if path.suffix.lower() in SUFFIXES:
        reader = TiffReader(str(absolute), series=series)
        with _opening(name):
            said = reader.description()
        notes = series_notes(series, said.series_count, path)
        return _Found(name, absolute, reader, known_axes_of_tiff(said.axes), notes, said.world)
    if dataset is not None:
        hdf5 = Hdf5Reader(str(absolute), dataset)
        with _opening(name):
            return _Found(name, absolute, hdf5, hdf5.said_axes)
    if is_n5(path):
        with _opening(name):
            return _Found(name, absolute, N5Reader.of(str(absolute)))
    is_zip = path.is_file() and path.suffix.lower() == ".zip"
    with _opening(name):
        if path.is_file() and not is_zip:
            raise NotADirectoryError("it is a file of another format")
    # An opened store: zarr could take the beginning of a path for a protocol.
    store: Store = ZipStore(absolute, mode="r") if is_zip else LocalStore(absolute, read_only=True)
    return _of_image(_opened_image(store, name, series), name, absolute)


def _opened_image(store: Store, name: str, series: int, path: str = "") -> ImageArray:
    with _opening(name):
        ensure_open(store)
        return image_of(zarr.open(StorePath(store, path), mode="r" if store.read_only else "r+"), name, series)


def _of_image(image: ImageArray, name: str, path: Path | None) -> _Found:
    reader, said = ZarrReader.of(image.array), image.said_axes
    return _Found(name, path or _path_of(image.array), reader, said, image.notes, image.world, image.is_typed)


def reader_of(array: Any) -> Reader:
    """Return the reader of an open array; raise SourceError if elements are masked, or extents are unknown."""
    if isinstance(array, zarr.Array):
        return ZarrReader.of(array)
    if isinstance(array, dask.array.Array):
        return DaskReader(array)
    try:
        return ArrayReader(unmasked(array))
    except ValueError as error:
        raise SourceError(f"the source is a masked array: {error}") from None


def _path_of(array: zarr.Array[Any]) -> Path | None:
    root = getattr(array.store, "root", None)
    return (Path(root) / array.path).absolute() if root is not None else None
