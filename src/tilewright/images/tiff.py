"""A TIFF file appears whole, under its own name, or not at all, and a dask array is never held whole to write one."""

import errno
import inspect
import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from math import prod
from operator import mul
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import tifffile

from tilewright.assemble import AnyArray
from tilewright.errors import DestinationExistsError
from tilewright.geometry import Region, extents_of
from tilewright.images.lazy_image import LazyImage, regions_of, takes_lazy_image
from tilewright.outputs.options import checked_path
from tilewright.plan.dtypes import dtype_name
from tilewright.sources.readers.reader import unmasked
from tilewright.sources.readers.tiff import SUFFIXES
from tilewright.stores.patience import naming
from tilewright.stores.removal import being_written, remove_abandoned, replace_file

TAGS_NBYTES = 512
"""What describes a page takes about as much, at most."""
TILE = (256, 256)
"""Tiles of a large page of a dask array."""
ENCODER_NBYTES = 16 * 2**20
"""About as much of a dask array do the threads of tifffile encode at a time; it would take half a GiB."""

_SET_HERE = {"append", "data", "dtype", "mode", "returnoffset", "shape"}
_NOT_ABOUT_LAYOUT = {
    "bigtiff",
    "bitspersample",
    "buffersize",
    "byteorder",
    "compression",
    "compressionargs",
    "jpegtables",
    "maxworkers",
    "predictor",
    "rowsperstrip",
    "subfiletype",
    "subsampling",
    "tile",
}
"""Options of `tifffile.imwrite` that do not change which elements make a page."""

Options = dict[str, Any]


@takes_lazy_image
def write_tiff(file_path: str | os.PathLike[str], img: AnyArray | dask.array.Array, **kwargs: Any) -> None:
    """Write an image to a TIFF file, which appears under its name when it is complete, and replaces what was there.

    `tifffile.imread` gives an array of the same values, shape and data type, axes of one element included, because
    the shape is stored in the description; a reader that does not know that sees a series of pages, YX. Other formats
    keep less. OME-TIFF and ``imagej=True`` lose axes of one element, ``metadata=None`` makes one axis of all that come
    before YX. A name that ends in ``.ome.tif`` or ``.ome.tiff`` means OME-TIFF only where ``metadata={"axes": ...}``
    says which axes these are. A bool image is stored with one bit per element. Pages are grayscale unless
    `photometric` says otherwise. A file of more than about 4 GiB is a BigTIFF.

    A dask array is computed in the calling thread, each chunk once, and put into the file before the next one. What
    is to be encoded, with `compression`, `tile` or as bool, goes first to an uncompressed file in the same folder,
    which takes as much space as the image and is removed at the end. Then pages of more than 32 MiB are encoded in
    tiles, of 256 x 256 unless `tile` says otherwise.

    Parameters
    ----------
    file_path : path
        Where to. Missing folders are made.
    img : array
        The image, C(Z)YX or SC(Z)YX, of NumPy or Dask.
    **kwargs
        Options of `tifffile.imwrite`, such as ``compression="zlib"``.

    Raises
    ------
    ValueError
        If the image or an option cannot be written.
    DestinationExistsError
        If a folder has that name.
    OSError
        If the file cannot be written; it names the file.
    """
    path = checked_path(file_path)
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"the name of a TIFF file ends in {', '.join(sorted(SUFFIXES))}, got {path}")
    check_option_names(kwargs)
    image = img if isinstance(img, dask.array.Array) else np.asarray(unmasked(img))
    options = _options(path, image, kwargs)
    if path.is_dir():
        raise DestinationExistsError(f"{path} exists and is a folder; choose another name for the TIFF file")
    lazy = LazyImage(image) if isinstance(image, dask.array.Array) else None
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with being_written(partial, path, is_folder=False):
        if lazy is None:
            with naming(path):
                tifffile.imwrite(partial, image, **options)
        elif _is_encoded(image.dtype, options):
            write_encoded(path, partial, lazy, options)
        else:
            _write_elements(path, partial, lazy, options)
        with naming(path):
            replace_file(partial, path)
            remove_abandoned(path)


def check_option_names(options: Iterable[str]) -> None:
    """Raise TypeError for an option that tifffile does not know."""
    writers: tuple[Callable[..., Any], ...] = (tifffile.imwrite, tifffile.TiffWriter, tifffile.TiffWriter.write)
    known = {name for writer in writers for name in inspect.signature(writer).parameters}
    if unknown := sorted(set(options) - known):
        raise TypeError(f"tifffile.imwrite has no option {', '.join(map(repr, unknown))}")


def _options(path: Path, image: AnyArray | dask.array.Array, kwargs: Mapping[str, Any]) -> Options:
    """Return the options for tifffile, after a look at what it would not do, or do silently in another way."""
    if not_taken := sorted(_SET_HERE & kwargs.keys()):
        raise ValueError(f"write_tiff makes one new file of one image and does not take {', '.join(not_taken)}")
    try:
        dtype_name(image.dtype)
    except ValueError as error:
        raise ValueError(f"the image for {path} cannot be a TIFF file: {error}") from error
    if image.ndim < 2 or 0 in image.shape:
        raise ValueError(f"the image for {path} must have at least two axes and no empty one, got {image.shape}")
    options: Options = dict(kwargs)
    # Three channels are no colours unless the user says so. A colormap decides this itself.
    if options.get("photometric") is None and options.get("colormap") is None:
        options["photometric"] = "minisblack"
    if options.get("ome") is None:
        # Only the final name, which tifffile does not see, may say OME. Without axes tifffile would guess them.
        is_named_so = ".ome" in Path(path.name.lower()).suffixes[-2:-1]
        options["ome"] = is_named_so and "axes" in (options.get("metadata") or {})
    if options.get("bigtiff") is None:
        options["bigtiff"] = needs_bigtiff(image.shape, image.dtype.itemsize, options)
    return options


def needs_bigtiff(shape: tuple[int, ...], itemsize: int, options: Options) -> bool:
    """Return whether a file may be too large for the offsets of a classic TIFF, which end at 4 GiB."""
    if options.get("imagej") or options.get("truncate"):
        # These hold more than 4 GiB in their own way.
        return False
    page_nbytes = itemsize * shape[-2] * shape[-1]
    tile: tuple[int, ...] = tuple(options.get("tile") or ())
    if len(tile) > 1 and min(tile) > 0:
        # What reaches beyond the end of the page is stored too. A tile that is none is for tifffile to refuse.
        page_nbytes = itemsize * prod(-(-shape[axis] // tile[axis]) * tile[axis] for axis in (-2, -1))
    if not _is_none(options.get("compression")):
        # Noise grows by so much with LZW.
        page_nbytes += page_nbytes // 2
    return prod(shape[:-2]) * (page_nbytes + TAGS_NBYTES) > 2**32 - 2**25


def _is_none(compression: Any) -> bool:
    return compression is not True and compression in {None, False, 1, "NONE", "None", "none"}


def _is_encoded(dtype: np.dtype[np.generic], options: Options) -> bool:
    """Return whether the file holds the elements otherwise than one after the other, as they are in memory."""
    packed = dtype.kind == "b" or options.get("bitspersample") not in {None, dtype.itemsize * 8}
    return packed or bool(options.get("tile")) or not _is_none(options.get("compression"))


def _write_elements(path: Path, partial: Path, lazy: LazyImage, options: Options) -> None:
    """Write a file without elements, then fill them in, each chunk of the image where it belongs."""
    offset = _write_without_elements(path, partial, lazy.shape, lazy.dtype, options)
    stored = lazy.dtype.newbyteorder(options.get("byteorder") or "=")
    with _opened(path, partial, offset, lazy.shape, stored) as elements:
        elements.fill(lazy)


def write_encoded(path: Path, partial: Path, lazy: LazyImage, options: Options, page_nbytes: int = 32 * 2**20) -> None:
    """Write an uncompressed file, then encode it piece by piece: a page of more bytes in tiles, not as a whole."""
    layout = {name: value for name, value in options.items() if name not in _NOT_ABOUT_LAYOUT}
    tile = tuple(options.get("tile") or ())
    layout["volumetric"] = options.get("volumetric", False) or len(tile) == 3
    # ImageJ has no such file, but needs none to hold as much.
    layout["bigtiff"] = not options.get("imagej")
    scratch = partial.with_name(f"{path.name}.{uuid.uuid4().hex}.scratch.partial")
    with being_written(scratch, path, is_folder=False):
        # tifffile cannot leave out the elements of a bool file.
        stored = np.dtype("uint8") if lazy.dtype.kind == "b" else lazy.dtype
        offset = _write_without_elements(path, scratch, lazy.shape, stored, layout)
        with tifffile.TiffFile(scratch) as file:
            page_shape = tuple(file.pages[0].shaped)
        tile = _tile_for(prod(page_shape) * lazy.dtype.itemsize, page_nbytes, options, tile)
        paged_shape = (prod(lazy.shape) // prod(page_shape), *page_shape)
        encoding: Options = {"buffersize": ENCODER_NBYTES, **options}
        if tile:
            encoding["tile"] = tile
        _rehearse(lazy, paged_shape, tile, encoding)
        with _opened(path, scratch, offset, lazy.shape, lazy.dtype) as elements:
            elements.fill(lazy)
        with _opened(path, scratch, offset, paged_shape, lazy.dtype) as elements:
            pieces = (_as_piece(elements.read(region), tile) for region in _piece_regions(paged_shape, tile))
            with naming(path):
                tifffile.imwrite(partial, pieces, shape=lazy.shape, dtype=lazy.dtype, **encoding)


def _tile_for(nbytes: int, most_nbytes: int, options: Options, tile: tuple[int, ...]) -> tuple[int, ...]:
    """Return the extents of the tiles to encode a page of so many bytes in, none where it is encoded as a whole."""
    if not tile and nbytes > most_nbytes:
        if options.get("rowsperstrip") is not None:
            raise ValueError(
                f"a page of {nbytes} bytes of a dask array cannot be encoded in strips of "
                f"rowsperstrip={options['rowsperstrip']}, for which it would be held whole; pass tile={TILE} instead"
            )
        tile = TILE
    if len(tile) == 2 and options.get("volumetric"):
        return (1, *tile)
    return tile


def _piece_regions(paged_shape: tuple[int, ...], tile: tuple[int, ...]) -> Iterator[Region]:
    """Yield what tifffile asks for, in its order: tiles, or pages."""
    if not tile:
        return regions_of(paged_shape, (1, *paged_shape[1:]))
    return regions_of(paged_shape, (1, 1, *(1, *tile)[-3:], paged_shape[-1]))


def _as_piece(values: AnyArray, tile: tuple[int, ...]) -> AnyArray:
    """Return a page with all its axes, or a tile with as many as it has and the one of its samples."""
    return values.reshape(values.shape[-len(tile) - 1 :] if tile else values.shape[1:])


class _EnoughError(Exception):
    """The rehearsal has seen what it can."""


def _rehearse(lazy: LazyImage, paged_shape: tuple[int, ...], tile: tuple[int, ...], encoding: Options) -> None:
    """Encode one piece, so that an option that is not possible is an error before anything is computed."""

    def first_piece() -> Iterator[AnyArray]:
        region = next(_piece_regions(paged_shape, tile))
        yield _as_piece(np.zeros(extents_of(region), lazy.dtype), tile)
        raise _EnoughError

    options = encoding | {"shape": lazy.shape, "dtype": lazy.dtype, "maxworkers": 1}
    with suppress(_EnoughError):
        tifffile.imwrite(io.BytesIO(), first_piece(), **options)


def _write_without_elements(
    path: Path, partial: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], options: Options
) -> int:
    """Write a file with a hole where the elements belong, and return where that is."""
    with naming(path):
        stored_at = tifffile.imwrite(partial, shape=shape, dtype=dtype, returnoffset=True, **options)
    if stored_at is None:
        raise ValueError(f"a dask array cannot be written to {path} with {options}; pass it as a NumPy array")
    offset: int = stored_at[0]
    return offset


@contextmanager
def _opened(
    path: Path, partial: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator["_Elements"]:
    with naming(path):
        descriptor = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield _Elements(path, descriptor, offset, shape, dtype)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Elements:
    """The elements of an image in a file, in C order.

    The file is not mapped: mapped pages count as memory of the process, and a full disk would kill it.
    """

    path: Path
    descriptor: int
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def fill(self, lazy: LazyImage) -> None:
        """Compute each chunk and write it."""
        for region in lazy.chunk_regions():
            self.write(region, lazy.read(region))

    def write(self, region: Region, values: AnyArray) -> None:
        self._transfer(os.pwritev, region, np.ascontiguousarray(values, self.dtype))

    def read(self, region: Region) -> AnyArray:
        values: AnyArray = np.empty(extents_of(region), self.dtype)
        self._transfer(os.preadv, region, values)
        return values

    def _transfer(self, call: Callable[[int, list[memoryview], int], int], region: Region, values: AnyArray) -> None:
        """Call the system for each piece of a region until all of its bytes are written, or read."""
        view = values.reshape(-1).view(np.uint8).data
        nbytes, starts = self._runs(region)
        with naming(self.path):
            for index, start in enumerate(starts):
                piece = view[index * nbytes : (index + 1) * nbytes]
                while piece:
                    count = call(self.descriptor, [piece], start + nbytes - len(piece))
                    if count == 0:
                        raise OSError(errno.EIO, "the scratch file ends early")
                    piece = piece[count:]

    def _runs(self, region: Region) -> tuple[int, Iterator[int]]:
        """Return how many bytes of a region lie in one piece, and where each of these pieces starts."""
        steps = [self.dtype.itemsize * prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        axis = len(self.shape) - 1
        while axis > 0 and region[axis] == (0, self.shape[axis]):
            axis -= 1
        first, stop = region[axis]
        start = self.offset + first * steps[axis]
        positions = product(*(range(*interval) for interval in region[:axis]))
        return (stop - first) * steps[axis], (start + sum(map(mul, position, steps)) for position in positions)
