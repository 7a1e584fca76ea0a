"""An array that is a level of a multiscale image has the axes and the physical metadata of that level."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from posixpath import normpath
from typing import Any

import zarr
from zarr.storage import LocalStore

from tilewright.ome.multiscales import Level, Multiscale, multiscales_of
from tilewright.stores.metadata import MetadataError, read_node
from tilewright.stores.put import get_object
from tilewright.stores.zarr_api import unwrapped

_MOST_FOLDERS = 4
"""Groups around an array in which its image is looked for: levels lie in few folders."""


def multiscale_around(array: zarr.Array[Any]) -> tuple[Multiscale, Level] | None:
    """Return the image of which an array is a level, and that level; None if no group around it names it."""
    read, parts = _reader_around(array)
    for depth in range(1, min(_MOST_FOLDERS, len(parts)) + 1):
        group, path = "/".join(parts[:-depth]), "/".join(parts[-depth:])
        # A folder between the two may be no group, or a damaged one.
        with suppress(MetadataError, OSError):
            node = read_node(read, group)
            for multiscale in multiscales_of(node.attributes) if node is not None and not node.is_array else ():
                for level in multiscale.levels:
                    if normpath(level.path) == path:
                        return multiscale, level
    return None


def _reader_around(array: zarr.Array[Any]) -> tuple[Callable[[str], bytes | None], tuple[str, ...]]:
    """Return what reads objects around an array, and the parts of its path there."""
    store: Any = unwrapped(array.store)
    if isinstance(store, LocalStore):
        # The store of an array that was opened by its path begins with that array.
        folder = (Path(store.root) / array.path).absolute()
        root = Path(folder.anchor)
        return lambda key: _read_file(root / key), folder.relative_to(root).parts
    return lambda key: _read_object(array.store, key), tuple(filter(None, array.path.split("/")))


def _read_file(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _read_object(store: Any, key: str) -> bytes | None:
    try:
        return bytes(get_object(store, key))
    except FileNotFoundError:
        return None
