"""The files that an object reads: the file names that it holds, and the files that are mapped into its memory."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any


def files_of_tiff_store(store: Any) -> set[str]:
    """Return the files of a zarr store of tifffile."""
    files: set[str] = {str(file) for file in getattr(store, "_lookup", {}).values()}
    for series in getattr(store, "_data", ()):
        pages = series.pages if getattr(series, "is_multifile", False) else [series.keyframe]
        files.update(page.parent.filehandle.path for page in pages if page is not None)
    return files


def file_mapped_at(address: int) -> Path | None:
    """Return the file that is mapped into memory at an address; None if the system does not say."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        bounds, _, _, _, inode, *name = line.split(maxsplit=5)
        start, stop = (int(bound, 16) for bound in bounds.split("-"))
        if start <= address < stop:
            return Path(name[0].removesuffix(" (deleted)")) if inode != "0" and name else None
    return None


def files_named_by(thing: Any) -> Iterator[str]:
    """Yield the file names that an object of h5py, tifffile or similar libraries holds."""
    path = attribute(attribute(thing, "filehandle"), "path")
    if isinstance(path, str):
        # Of a file handle of tifffile, `name` lacks the folder.
        yield path
        return
    for holder in (thing, attribute(thing, "file"), attribute(thing, "parent")):
        for name in ("filename", "filepath"):
            value = attribute(holder, name)
            value = value() if name == "filepath" and callable(value) else value
            if isinstance(value, str | bytes | PurePath):
                yield os.fsdecode(value)
    if attribute(thing, "is_virtual") is True:
        # A virtual dataset of HDF5: its parts lie in other files.
        folder, parts = Path(thing.file.filename).parent, {part.file_name for part in thing.virtual_sources()}
        # "." is the file itself.
        yield from (str(folder / part) for part in sorted(parts - {"."}))


def attribute(thing: Any, name: str) -> Any:
    """Return an attribute without a call of `__getattr__`; None if there is none, or it raises."""
    if name not in getattr(thing, "__dict__", {}) and not hasattr(type(thing), name):
        return None
    try:
        return getattr(thing, name)
    except Exception:
        return None
