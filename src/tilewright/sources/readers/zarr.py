"""A Zarr array is read only if its metadata are unchanged: a missing array would read as its fill value."""

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zarr
from xxhash import xxh3_64_intdigest
from zarr.abc.store import ByteRequest, Store
from zarr.storage import LocalStore, WrapperStore, ZipStore

from tilewright.assemble import AnyArray
from tilewright.errors import SourceElsewhereError
from tilewright.sources.readers.reader import Reader, Slices, owned
from tilewright.stores.metadata import METADATA_NAMES, array_metadata
from tilewright.stores.places import public_name
from tilewright.stores.zarr_api import Buffer, BufferPrototype, unwrapped

MOST_NOTED = 100_000
"""Missing objects that each process remembers, at most."""


class _Noting(WrapperStore[Store]):
    """A store that collects the keys of missing objects, which read as the fill value."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.missing: set[int] = set()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await self._store.get(key, prototype, byte_range)
        is_data = key.rpartition("/")[2] not in METADATA_NAMES
        if found is None and is_data and len(self.missing) < MOST_NOTED:
            self.missing.add(xxh3_64_intdigest(key.encode()))
        return found


@dataclass
class ZarrReader(Reader):
    """Reader of an array in a store; its metadata must be the same in every process."""

    store: Store
    path: str
    metadata: dict[str, Any]
    _opened: zarr.Array[Any] | None = field(default=None, kw_only=True)
    # The same array, read through the store that collects missing objects.
    _noted: zarr.Array[Any] | None = field(default=None, kw_only=True)
    _noting: _Noting | None = field(default=None, kw_only=True)
    _told: set[int] = field(default_factory=set, kw_only=True)

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> "ZarrReader":
        """Return the reader of an open array."""
        make_absolute(array.store)
        return cls(array.store, array.path, array_metadata(array))

    def open(self) -> zarr.Array[Any]:
        """Return the open array."""
        if self._opened is None:
            self._opened = reopened(self.store, self.path, self.metadata)
        return self._opened

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""
        if self._noted is None:
            self.open()
            self._noting = _Noting(self.store)
            self._noted = reopened(self._noting, self.path, self.metadata)
        return owned(self._noted[slices])

    def take_missing(self) -> frozenset[int]:
        """Return the objects found missing since the last call, as digests of their keys."""
        if self._noting is None or not self._noting.missing:
            return frozenset()
        missing, self._noting.missing = self._noting.missing, set()
        new = frozenset(missing - self._told)
        self._told |= new
        return new

    def close(self) -> None:
        """Drop the open array."""
        self._opened = self._noted = None

    @property
    def is_open(self) -> bool:
        """Whether this process has opened the array."""
        return self._opened is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_noted": None, "_noting": None, "_told": set()}


def reopened(store: Store, path: str, metadata: dict[str, Any]) -> zarr.Array[Any]:
    """Return an array, opened again in its store; raise SourceElsewhereError if it is missing or has other metadata."""
    name, host = public_name(store, path), socket.gethostname()
    try:
        # Not every store supports a read-only copy.
        array = zarr.open_array(store, path=path, mode="r" if store.read_only else "r+")
    except (FileNotFoundError, KeyError) as error:
        raise SourceElsewhereError(
            f"the Zarr array {name} is not there, seen from process {os.getpid()} on the host {host}; open it from "
            "where all workers see it"
        ) from error
    if array_metadata(array) != metadata:
        raise SourceElsewhereError(
            f"the metadata of the Zarr array {name}, seen from process {os.getpid()} on the host {host}, are not those "
            "of the array that was passed; open it again, by an absolute path"
        )
    return array


def make_absolute(store: Any) -> None:
    """Make the path of a store absolute: processes may have different working folders."""
    store = unwrapped(store)
    if isinstance(store, LocalStore):
        store.root = store.root.resolve()
    elif isinstance(store, ZipStore):
        store.path = store.path.resolve()
    elif type(store).__name__ == "FsspecStore" and not Path(store.path).is_absolute():
        file_system = getattr(store.fs, "sync_fs", store.fs)
        if type(file_system).__name__ == "LocalFileSystem":
            store.path = str(Path(store.path).resolve())


def can_travel(store: Any) -> bool:
    """Tell whether another process may open a store; a zip file in write mode is emptied when it is opened again."""
    store = unwrapped(store)
    return not isinstance(store, ZipStore) or store.read_only
