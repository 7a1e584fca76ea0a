"""Local folder of an output or a ledger: an absolute, checked path."""

import os
from pathlib import Path
from typing import Any

from tilewright.errors import DestinationError
from tilewright.stores.places import public_name


def local_path(path: Any, what: str) -> Path:
    """Return the absolute path of a folder; raise DestinationError if it is no path, empty, a URL or the root."""
    if not isinstance(path, str | os.PathLike):
        raise DestinationError(
            f"the {what} must be a path, or a store of zarr such as zarr.storage.FsspecStore, got "
            f"{type(path).__name__}: {path!r:.80}"
        )
    text = os.fspath(path)
    if not text:
        raise DestinationError(f"the {what} is empty; give the path of a folder")
    if "://" in text:
        remedy = "pass a local path"
        if what != "ledger":
            remedy += ", or a zarr store that is opened for it, such as zarr.storage.FsspecStore.from_url(...)"
        raise DestinationError(f"the {what} {public_name(text)!r} is a URL; {remedy}")
    absolute = Path(text).expanduser().resolve()
    if absolute == Path(absolute.anchor):
        raise DestinationError(f"the {what} {text!r} is the root of the file system; give a folder in it")
    return absolute


def nearest_existing(path: Path) -> Path:
    """Return the path, or the closest folder around it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
