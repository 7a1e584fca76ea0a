"""A TIFF file with missing planes is refused: tifffile would read them as zeros."""

import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import tifffile
import zarr

from tilewright.errors import SourceError
from tilewright.ome.tiff import world_of_imagej, world_of_ome_xml
from tilewright.ome.world import UNKNOWN_WORLD, World
from tilewright.sources.readers.reader import FileReader

SUFFIXES = {".tif", ".tiff", ".btf", ".tf8"}


@dataclass(frozen=True)
class TiffDescription:
    """What the metadata of a TIFF file say of one series of it.

    The axes are letters of tifffile; empty if the metadata do not name them.
    """

    axes: str
    series_count: int
    world: World


@dataclass
class TiffReader(FileReader):
    """Reader of one series of a TIFF file, strip by strip or tile by tile."""

    series: int = 0

    @property
    def view(self) -> str:
        """The series that is read."""
        return f", series {self.series}" if self.series else ""

    def description(self) -> TiffDescription:
        """Check the file, and return what its metadata say.

        A file that is damaged or cut short, or lacks planes of the series, is a SourceError.
        """
        with _complaints() as complaints, tifffile.TiffFile(self.path) as file:
            if not file.series:
                raise ValueError("it holds no image that tifffile can read")
            series = self._series_of(file)
            # This reads the chain of pages; tifffile logs an error if the chain is broken.
            len(file.pages)
            if complaints:
                raise SourceError(
                    f"the TIFF file {self.path} is damaged or cut short: {complaints[0]:.200}; if you want it as it "
                    "is, read it yourself, and pass the array"
                )
            _check_whole(self.path, series)
            count = len(file.series)
            return TiffDescription(_axes_said(file, series), count, _world(file, series, self.series, count))

    def _open(self) -> Any:
        file = tifffile.TiffFile(self.path)
        try:
            series = self._series_of(file)
            if series.dataoffset is not None and not series.is_multifile:
                file.close()
                return tifffile.memmap(self.path, series=self.series, mode="r")
            # Compressed or scattered data: strips or tiles become the chunks of a read-only Zarr array.
            store = series.aszarr(level=0)
            array = zarr.open_array(store, mode="r")
        except BaseException:
            file.close()
            raise
        weakref.finalize(array, _close, store, file)
        return array

    def _series_of(self, file: Any) -> Any:
        count = len(file.series)
        if not 0 <= self.series < count:
            raise SourceError(f"the TIFF file {self.path} holds {count} series, counted from 0: none is {self.series}")
        return file.series[self.series]


def _axes_said(file: Any, series: Any) -> str:
    """Return the axes in the metadata of a series; empty if tifffile guesses them."""
    is_unnamed = series.kind == "shaped" and not any("axes" in said for said in file.shaped_metadata or ())
    return "" if is_unnamed or series.kind in ("generic", "uniform") else str(series.axes)


def _world(file: Any, series: Any, number: int, count: int) -> World:
    """Return the physical metadata of a series."""
    if series.kind == "ome":
        return world_of_ome_xml(file.ome_metadata or "", number, count)
    if series.kind != "imagej":
        return UNKNOWN_WORLD
    tags = series.keyframe.tags
    y, x = (tags[name].value if name in tags else None for name in ("YResolution", "XResolution"))
    return world_of_imagej(file.imagej_metadata or {}, (y, x))


def _check_whole(path: str, series: Any) -> None:
    """Raise SourceError if a plane of a series is missing, or lies beyond the end of its file."""
    pages = series.pages
    missing = [number for number, page in enumerate(pages) if page is None]
    plane = prod(series.keyframe.shape)
    expected = prod(series.shape) // max(1, plane)
    if missing or (len(pages) != expected and series.dataoffset is None):
        count = len(missing) or expected - len(pages)
        raise SourceError(
            f"the TIFF file {path} says that it has {expected} planes, of which {count} are missing (the first is "
            f"plane {missing[0] if missing else len(pages)}): they, or files that hold them, were not written or "
            "copied; restore them, or read the file yourself and pass the array"
        )
    for number, page in enumerate(pages):
        file_nbytes = page.parent.filehandle.size
        if len(pages) == 1 and series.dataoffset is not None:
            end = series.dataoffset + prod(series.shape) * series.dtype.itemsize
        else:
            pieces = zip(page.dataoffsets, page.databytecounts, strict=True)
            end = max((offset + nbytes for offset, nbytes in pieces), default=0)
        if end > file_nbytes:
            raise SourceError(
                f"the TIFF file {page.parent.filehandle.path} is cut short: plane {number} ends at byte {end}, the "
                f"file at byte {file_nbytes}; copy it again"
            )
        if not all(page.databytecounts):
            raise SourceError(
                f"the TIFF file {path} does not hold all pieces of plane {number}: they would read as zeros; if you "
                "want zeros, read the file yourself, and pass the array"
            )


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect the errors that tifffile logs in this thread; it reads the rest of a damaged file without raising."""
    logger, found, thread = logging.getLogger("tifffile"), [], threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread and record.levelno >= logging.ERROR:
                found.append(record.getMessage())

    collector = Collector()
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)


def _close(store: Any, file: Any) -> None:
    store.close()
    file.close()
