"""An image is opened, and its axes and type are checked, before any of it is read."""

import mmap
import os
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
from tilewright.plan import ImageAxes
from tilewright.sources.readers.dask import DaskReader
from tilewright.sources.readers.image_in_group import ImageArray, image_of
from tilewright.sources.readers.reader import ArrayReader, FunctionReader, MemmapReader, Reader, ReadFunction, unmasked
from tilewright.sources.readers.said_axes import known_axes_of_tiff, note_on_said_axes
from tilewright.sources.readers.tiff import SUFFIXES, TiffReader
from tilewright.sources.readers.zarr import ZarrReader
from tilewright.sources.source import Source
from tilewright.stores.places import opened_store, public_name, without_secrets
from tilewright.stores.zarr_api import ensure_open


@dataclass(frozen=True)
class _Found:
    """An image that was found where a user said.

    Parameters
    ----------
    name : str
        How to name it in messages.
    path : Path or None
        Where it lies, if it is a file or folder.
    reader : Reader
        What reads it.
    said_axes : str
        The axes that its metadata say; "?" for each that they do not.
    notes : tuple of str
        What was left out.
    """

    name: str
    path: Path | None
    reader: Reader
    said_axes: str = ""
    notes: tuple[str, ...] = ()


def open_source(source: Any, axes: str, read_source_func: ReadFunction | None = None, series: int = 0) -> Source:
    """Open an image without reading it.

    Parameters
    ----------
    source : path, zarr.Array, zarr.Group, zarr store, numpy array or memmap, dask array
        A path ends in ``.tif`` or ``.tiff``, or is a Zarr array, or a Zarr group whose metadata name an array, or with
        an array ``0``.
    axes : str
        Its axes, letters of ``STCZYX`` in its own order.
    read_source_func : callable, optional
        What reads a path: called with the path and the axes, returns an array of NumPy, Zarr or Dask.
    series : int, default=0
        Which image of a file that holds several.

    Returns
    -------
    Source
        What gives its windows.

    Raises
    ------
    SourceError
        If it cannot be opened, or is not all there. It names the source.
    GeometryError
        If the axes do not fit it.
    """
    if not isinstance(axes, str):
        raise GeometryError(f"axes must be a string such as 'ZYX', got {axes!r}")
    series = whole_number("series", series, 0)
    found = _found(source, axes, read_source_func, series)
    if series and not isinstance(found.reader, TiffReader | ZarrReader):
        raise SourceError(f"the source {found.name} holds one image: series must be 0, got {series}")
    try:
        opened = found.reader.open()
        shape, dtype = tuple(int(extent) for extent in opened.shape), np.dtype(opened.dtype)
    except SourceError:
        raise
    except Exception as error:
        raise _not_opened(found.name, error, read_source_func is not None) from error
    try:
        image_axes = ImageAxes(axes, shape)
        note = note_on_said_axes(axes, found.said_axes)
    except GeometryError as error:
        raise GeometryError(f"{found.name}: {error}") from None
    notes = [f"{found.name}: {note}"] if note else []
    if not is_number(dtype):
        raise SourceError(
            f"the source {found.name} has elements of type {dtype}; only numbers of at most 64 bits can be predicted on"
        )
    return Source(image_axes, dtype, found.name, found.path, found.reader, series=series, notes=(*found.notes, *notes))


def _not_opened(name: str, error: Exception, by_function: bool) -> SourceError:
    if by_function:
        return SourceError(f"read_source_func could not read the source {name}: {without_secrets(repr(error))}")
    return SourceError(
        f"could not open the source {name}: {without_secrets(error) or type(error).__name__}; a file is TIFF (.tif, "
        ".tiff) or Zarr: load anything else yourself, and pass the array"
    )


def _found(source: Any, axes: str, read_source_func: ReadFunction | None, series: int) -> _Found:
    if isinstance(source, str | os.PathLike):
        return _found_at(source, axes, read_source_func, series)
    # What was changed in a copy-on-write map is in the memory of this process only.
    is_file = isinstance(source, np.memmap) and isinstance(source.base, mmap.mmap) and source.mode != "c"
    if is_file and source.filename is not None:
        order = "C" if source.flags.c_contiguous else "F"
        reader = MemmapReader(
            str(source.filename), dtype=source.dtype.str, shape=source.shape, offset=source.offset, order=order
        )
        return _Found(str(source.filename), Path(source.filename), reader)
    store, _ = opened_store(source)
    if store is not None or isinstance(source, zarr.Array):
        return _found_in_zarr(source, series)
    if hasattr(source, "detach"):
        raise SourceError("a source is a path, or an array of Zarr, NumPy or Dask, got a tensor; pass tensor.numpy()")
    if not is_array(source):
        raise SourceError(
            f"a source is a path, or an array of Zarr, NumPy or Dask, got {type(source).__name__}: {source!r:.80}"
        )
    return _Found(f"{type(source).__name__} of shape {source.shape}", None, reader_of(source))


def _found_at(source: str | os.PathLike[str], axes: str, read: ReadFunction | None, series: int) -> _Found:
    path = Path(source).expanduser()
    if "://" in os.fspath(source):
        raise SourceError(
            f"the source {public_name(os.fspath(source))!r} is a URL; open it with zarr or dask.array and pass the "
            "array"
        )
    if not path.exists():
        raise SourceError(f"the source {path} does not exist")
    absolute = path.absolute()
    if read is not None:
        function_reader = FunctionReader(str(absolute), axes=axes, function=read, reader_of=reader_of)
        return _Found(str(path), absolute, function_reader)
    if path.suffix.lower() in SUFFIXES:
        return _found_in_tiff(path, series)
    # A store that is opened for it: no part of a name is taken for a protocol.
    is_zip = path.is_file() and path.suffix.lower() == ".zip"
    store: Store = ZipStore(absolute, mode="r") if is_zip else LocalStore(absolute, read_only=True)
    if path.is_file() and not is_zip:
        raise _not_opened(str(path), NotADirectoryError("it is a file, and its name ends in none of these"), False)
    return _of_image(_opened_image(store, str(path), series), str(path), absolute)


def _found_in_tiff(path: Path, series: int) -> _Found:
    reader = TiffReader(str(path.absolute()), series=series)
    try:
        described = reader.description()
    except SourceError:
        raise
    except Exception as error:
        raise _not_opened(str(path), error, by_function=False) from error
    notes: tuple[str, ...] = ()
    if described.series_count > 1:
        notes = (f"series {series} of the {described.series_count} of {path} was taken; series= takes another one",)
    return _Found(str(path), path.absolute(), reader, known_axes_of_tiff(described.axes), notes)


def _found_in_zarr(source: Any, series: int) -> _Found:
    """Return an image in a store, a group, or an array, that was opened."""
    if isinstance(source, zarr.Array):
        root = _path_of(source)
        name = str(root) if root else f"{type(source).__name__} of shape {source.shape}"
        return _of_image(ImageArray.of(source), name, root)
    store, path = opened_store(source)
    return _of_image(_opened_image(store, public_name(store, path), series, path), "", None)


def _opened_image(store: Any, name: str, series: int, path: str = "") -> ImageArray:
    try:
        ensure_open(store)
        node = zarr.open(StorePath(store, path), mode="r" if store.read_only else "r+")
        return image_of(node, name, series)
    except SourceError:
        raise
    except Exception as error:
        raise _not_opened(name, error, by_function=False) from error


def _of_image(image: ImageArray, name: str, path: Path | None) -> _Found:
    reader = ZarrReader.of(image.array)
    root = path or _path_of(image.array)
    return _Found(
        name or str(root or public_name(image.array.store, image.array.path)),
        root,
        reader,
        image.said_axes,
        image.notes,
    )


def reader_of(array: Any) -> Reader:
    """Return the reader of an array that is open.

    Raises
    ------
    SourceError
        If elements of it are masked, or its extents are not known.
    """
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
