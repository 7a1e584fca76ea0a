"""What lies in the place of an output is told apart: its own parts, other Zarr nodes, and things that are no Zarr.

A part of a Zarr node is a metadata document that parses, or an object whose key the metadata of its array explain.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store

from tilewright.locks.object_lock import NAME as LOCK_NAME
from tilewright.stores.metadata import METADATA_NAMES, MetadataError, Node, read_node
from tilewright.stores.put import get_object
from tilewright.stores.removal import is_partial
from tilewright.stores.zarr_api import sync

OWN_ATTRIBUTE = "tilewright"
"""The attribute of a group that says that its array is an output of ours."""
SHOWN = 10
_LARGEST_DOCUMENT_NBYTES = 2**26


class Listing(Protocol):
    """The objects below one place."""

    def keys(self) -> Iterator[str]:
        """Iterate over the keys, relative to the place."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies there."""

    def read(self, key: str) -> bytes | None:
        """Return an object, or None where it is not there."""


@dataclass(frozen=True)
class FolderListing:
    """The files below a folder; links are listed, and not followed.

    Parameters
    ----------
    folder : Path
        The folder.
    """

    folder: Path

    def keys(self) -> Iterator[str]:
        """Iterate over the paths of the files, relative to the folder, with ``/`` between their parts."""
        for parent, folders, files in os.walk(self.folder):
            links = [name for name in folders if Path(parent, name).is_symlink()]
            inside = Path(parent).relative_to(self.folder).as_posix()
            prefix = "" if inside == "." else f"{inside}/"
            yield from (f"{prefix}{name}" for name in (*files, *links))

    @property
    def is_empty(self) -> bool:
        """Whether the folder is not there, or holds nothing, not even a folder."""
        return not self.folder.is_dir() or not any(self.folder.iterdir())

    def read(self, key: str) -> bytes | None:
        """Return the content of a file."""
        return read_plain_file(self.folder / key)


@dataclass(frozen=True)
class StoreListing:
    """The objects below a prefix of a store.

    Parameters
    ----------
    store : zarr store
        The store.
    prefix : str
        The prefix, without a slash at its end; empty for all of it.
    """

    store: Store
    prefix: str

    def keys(self) -> Iterator[str]:
        """Iterate over the keys, relative to the prefix."""
        return iter(sync(self._keys(None)))

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies there."""
        return not sync(self._keys(1))

    def read(self, key: str) -> bytes | None:
        """Return an object."""
        try:
            return bytes(get_object(self.store, self.full_key(key)))
        except FileNotFoundError:
            return None

    def full_key(self, key: str) -> str:
        """Return the key of an object in the store."""
        return f"{self.prefix}/{key}" if self.prefix else key

    async def _keys(self, most: int | None) -> list[str]:
        start = f"{self.prefix}/" if self.prefix else ""
        found: list[str] = []
        async for key in self.store.list_prefix(start):
            # Some stores list what begins with the same letters too. The lock of the output is no part of it.
            if key.startswith(start) and key != f"{start}{LOCK_NAME}":
                found.append(key.removeprefix(start))
                if len(found) == most:
                    break
        return found


def read_plain_file(path: Path) -> bytes | None:
    """Return the content of a file, or None where it is not there.

    Raises
    ------
    MetadataError
        If it is a folder, a pipe, which would be waited for, or has more than 64 MiB: no document.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MetadataError(f"{path} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_DOCUMENT_NBYTES:
            raise MetadataError(f"{path} is no file, or one of more than 64 MiB")
        return os.read(descriptor, status.st_size + 1)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Inventory:
    """The parts of what lies in one place.

    Parameters
    ----------
    listing : Listing
        What lies there.
    array : str
        The path of the array of the output in the place.
    recorded : sequence of Node
        What the array may be, as the ledger of the output says; the last one where its metadata are lost.
    """

    listing: Listing
    array: str
    recorded: Sequence[Node] = ()

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """The groups and arrays, by their paths; the root has an empty one."""
        found = {self.array: self.recorded[-1]} if self.recorded else {}
        return found | {path: node for path, node in self._read_nodes.items() if node is not None}

    @cached_property
    def _read_nodes(self) -> dict[str, Node | None]:
        """The nodes whose metadata lie there; None where these are none."""
        paths = {_parent_of(key) for key in self.listing.keys() if _name_of(key) in METADATA_NAMES}  # noqa: SIM118
        found: dict[str, Node | None] = {}
        for path in paths:
            with suppress(MetadataError):
                found[path] = None
                found[path] = read_node(self.listing.read, path)
        return found

    @property
    def is_own(self) -> bool:
        """Whether the ledger, or the attributes of the group, say that this is an output of ours."""
        root, array = self.nodes.get(""), self.nodes.get(self.array)
        if (array is not None and not array.is_array) or (root is not None and root.is_array):
            return False
        if array is not None and replace(array, attributes={}) in self.recorded:
            return True
        return root is not None and OWN_ATTRIBUTE in root.attributes

    def others(self) -> Iterator[str]:
        """Iterate over what is no part of a Zarr node."""
        return (key for key in self.listing.keys() if self._node_of(key) is None)  # noqa: SIM118

    def further_nodes(self) -> list[str]:
        """Return the paths of the nodes that are no part of the output; the root where the output is not ours."""
        own = ("", self.array) if self.is_own else ()
        return sorted(path for path in self.nodes if path not in own)

    def in_the_way(self, *, also_zarr: bool = False) -> list[str]:
        """Return some of what must not be removed.

        Parameters
        ----------
        also_zarr : bool
            Whether other Zarr nodes may go too.
        """
        found = list(islice(self.others(), SHOWN + 1))
        if not also_zarr:
            found += [path or "the group itself" for path in self.further_nodes()]
        return found

    def removable(self, *, also_zarr: bool = False) -> list[str]:
        """Return the keys that may be removed: objects first, the metadata of the root last, which prove the others."""
        keys: list[tuple[int, str]] = []
        for key in self.listing.keys():  # noqa: SIM118
            path = self._node_of(key)
            if path is None or not (also_zarr or path in ("", self.array)):
                continue
            is_metadata = _name_of(key) in METADATA_NAMES
            keys.append(((2 if path == "" else 1) if is_metadata else 0, key))
        return [key for _, key in sorted(keys)]

    def _node_of(self, key: str) -> str | None:
        """Return the path of the node of which an object is a part; None where it is no part of one."""
        path, inside = _parent_of(key), _name_of(key)
        if inside in METADATA_NAMES:
            return None if self._read_nodes.get(path) is None else path
        was_being_written = is_partial(inside)
        while True:
            node = self.nodes.get(path)
            if node is not None:
                return path if was_being_written or node.chunk_pattern.fullmatch(inside) else None
            if not path:
                # Its name tells that it is ours, where the group that it was to become is not there yet.
                return "" if was_being_written else None
            inside = f"{_name_of(path)}/{inside}"
            path = _parent_of(path)


def shown(names: list[str]) -> str:
    """Return names as a message lists them.

    Examples
    --------
    >>> shown(["notes.txt", "labels"])
    'notes.txt, labels'
    """
    more = ", and more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _name_of(key: str) -> str:
    return key.rpartition("/")[2]


def _parent_of(key: str) -> str:
    return key.rpartition("/")[0]
