"""Each object in the place of an output is a part of the output, of another Zarr node, or of neither.

A part of a Zarr node is a metadata document that parses, or an object whose key fits the metadata of its array.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from tilewright.locks.object_lock import NAME as LOCK_NAME
from tilewright.plan import FULL_RESOLUTION
from tilewright.stores.metadata import METADATA_NAMES, MetadataError, Node, read_node
from tilewright.stores.patience import Check
from tilewright.stores.put import get_object
from tilewright.stores.removal import delete_object, is_partial, remove_files
from tilewright.stores.zarr_api import sync

OWN_ATTRIBUTE = "tilewright"
"""Attribute of a group that marks its arrays, which it names, as an output of tilewright."""
COLLECTION = "OME"
"""Name of the group in a collection of images that lists them."""
SHOWN = 10
"""Names in a message, at most."""
_LARGEST_DOCUMENT_NBYTES = 2**26


@dataclass(frozen=True)
class FolderListing:
    """The files below a folder; links are listed, but not followed."""

    folder: Path

    def keys(self) -> Iterator[str]:
        """Iterate over the paths of the files, relative to the folder, in the notation of POSIX."""
        for parent, folders, files in os.walk(self.folder):
            links = [name for name in folders if Path(parent, name).is_symlink()]
            inside = Path(parent).relative_to(self.folder).as_posix()
            prefix = "" if inside == "." else f"{inside}/"
            yield from (f"{prefix}{name}" for name in (*files, *links))

    @property
    def is_empty(self) -> bool:
        """Whether the folder does not exist, or holds neither files nor folders."""
        return not self.folder.is_dir() or not any(self.folder.iterdir())

    def read(self, key: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist; raise MetadataError where it is no document."""
        path = self.folder / key
        try:
            # A pipe must not block.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise MetadataError(f"{path} cannot be read: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_DOCUMENT_NBYTES:
                raise MetadataError(f"{path} is no regular file, or larger than 64 MiB")
            return os.read(descriptor, status.st_size + 1)
        finally:
            os.close(descriptor)

    def remove(self, keys: list[str], check: Check) -> None:
        """Remove files, and the folders that are empty then; `check` is called before each file."""
        remove_files(self.folder, keys, check)


@dataclass(frozen=True)
class StoreListing:
    """The objects below a prefix of a store: a path without a slash at its end, or empty."""

    store: Store
    prefix: str

    def keys(self) -> Iterator[str]:
        """Iterate over the keys, relative to the prefix."""
        return iter(sync(self._keys(None)))

    @property
    def is_empty(self) -> bool:
        """Whether the store has no objects there."""
        return not sync(self._keys(1))

    def read(self, key: str) -> bytes | None:
        """Return an object, or None if it does not exist."""
        try:
            return bytes(get_object(self.store, f"{self._start}{key}"))
        except FileNotFoundError:
            return None

    def remove(self, keys: list[str], check: Check) -> None:
        """Remove objects; `check` is called before each one."""
        for key in keys:
            delete_object(self.store, f"{self._start}{key}", check=check)

    @property
    def _start(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""

    async def _keys(self, most: int | None) -> list[str]:
        found, start = list[str](), self._start
        async for key in self.store.list_prefix(start):
            # Some stores also list longer names with this beginning. The lock is no part of the output.
            if key.startswith(start) and key != f"{start}{LOCK_NAME}":
                found.append(key.removeprefix(start))
                if len(found) == most:
                    break
        return found


Listing = FolderListing | StoreListing
"""The objects in one place."""


@dataclass(frozen=True)
class Inventory:
    """The Zarr nodes and the other objects in the place of an output.

    Of the array metadata recorded in the ledger of the output, by the path of the array in the place, the last ones
    stand for lost metadata.
    """

    listing: Listing
    recorded: Mapping[str, Sequence[Node]] = field(default_factory=dict)

    @cached_property
    def own_paths(self) -> frozenset[str]:
        """The paths of the groups and of the arrays of the output."""
        return frozenset(["", FULL_RESOLUTION, *filter(self._is_own_path, self.nodes)])

    def _is_own_path(self, path: str) -> bool:
        if path in self.recorded:
            return True
        named = self._marks.get("arrays")
        names = named if isinstance(named, list) else []
        if not self._sample_count:
            return path in names
        sample, _, name = path.partition("/")
        is_sample = sample.isdecimal() and int(sample) < self._sample_count
        return path == COLLECTION or (is_sample and (not name or name in names))

    @property
    def _marks(self) -> dict[str, Any]:
        root = self._read_nodes.get("")
        marks = {} if root is None else root.attributes.get(OWN_ATTRIBUTE)
        return marks if isinstance(marks, dict) else {}

    @cached_property
    def _sample_count(self) -> int:
        """The number of images, where each sample is one; zero where the output is one image."""
        said = self._marks.get("samples")
        if isinstance(said, int):
            return said
        samples = [path.partition("/")[0] for path in self.recorded if "/" in path]
        return 1 + max(map(int, samples), default=-1)

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """The groups and arrays by path; the path of the root is empty."""
        found = {path: nodes[-1] for path, nodes in self.recorded.items()}
        return found | {path: node for path, node in self._read_nodes.items() if node is not None}

    @cached_property
    def _read_nodes(self) -> dict[str, Node | None]:
        """The nodes by path, as their metadata say; None for invalid metadata."""
        paths = {_parent_of(key) for key in self.listing.keys() if _name_of(key) in METADATA_NAMES}  # noqa: SIM118
        found: dict[str, Node | None] = {}
        for path in paths:
            with suppress(MetadataError):
                found[path] = None
                found[path] = read_node(self.listing.read, path)
        return found

    @property
    def is_own(self) -> bool:
        """Whether the ledger, or the attributes of the group, mark it as an output of tilewright."""
        root, path = self.nodes.get(""), FULL_RESOLUTION
        array = self.nodes.get(path)
        if self._sample_count and (array is None or not array.is_array):
            path = f"0/{FULL_RESOLUTION}"
            array = self.nodes.get(path)
        if (array is not None and not array.is_array) or (root is not None and root.is_array):
            return False
        if array is not None and replace(array, attributes={}) in self.recorded.get(path, ()):
            return True
        return root is not None and OWN_ATTRIBUTE in root.attributes

    def in_the_way(self, *, also_zarr: bool = False) -> list[str]:
        """Return objects that must not be removed, and Zarr nodes of other programs unless `also_zarr`."""
        others = (key for key in self.listing.keys() if self._node_of(key) is None)  # noqa: SIM118
        found = list(islice(others, SHOWN + 1))
        if not also_zarr:
            own = self.own_paths if self.is_own else frozenset()
            found += [path or "the group itself" for path in sorted(self.nodes.keys() - own)]
        return found

    def removable(self, *, also_zarr: bool = False) -> list[str]:
        """Return the keys that may be removed: objects first; last the metadata of the root, which prove the others."""
        keys: list[tuple[bool, bool, str]] = []
        for key in self.listing.keys():  # noqa: SIM118
            path = self._node_of(key)
            if path is not None and (also_zarr or path in self.own_paths):
                is_metadata = _name_of(key) in METADATA_NAMES
                keys.append((is_metadata, is_metadata and path == "", key))
        return [key for *_, key in sorted(keys)]

    def _node_of(self, key: str) -> str | None:
        """Return the path of the node that an object belongs to; None if it belongs to none."""
        path, inside = _parent_of(key), _name_of(key)
        if inside in METADATA_NAMES:
            return None if self._read_nodes.get(path) is None else path
        was_being_written = is_partial(inside)
        while True:
            node = self.nodes.get(path)
            if node is not None:
                return path if was_being_written or node.chunk_pattern.fullmatch(inside) else None
            if not path:
                # A partial file of tilewright, before the group has metadata.
                return "" if was_being_written else None
            inside = f"{_name_of(path)}/{inside}"
            path = _parent_of(path)


def shown(names: list[str]) -> str:
    """Return the first names of a list for a message."""
    return f"{', '.join(names[:SHOWN])}{', and more' if len(names) > SHOWN else ''}"


def _name_of(key: str) -> str:
    return key.rpartition("/")[2]


def _parent_of(key: str) -> str:
    return key.rpartition("/")[0]
