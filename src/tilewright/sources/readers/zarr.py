"""A Zarr array is read where its metadata are: an array that is not there would read as its fill value."""

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
from tilewright.sources.readers.reader import Slices, owned
from tilewright.stores.metadata import METADATA_NAMES, array_metadata
from tilewright.stores.places import public_name
from tilewright.stores.zarr_api import Buffer, BufferPrototype, unwrapped

MOST_NOTED = 100_000
"""Objects that are missing, of which each process keeps the digests."""


class _Noting(WrapperStore[Store]):
    """A store that notes which objects were asked for, and are not there: they read as the fill value."""

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
class ZarrReader:
    """An array of a store, which each process opens for itself.

    Parameters
    ----------
    store : zarr store
        The store.
    path : str
        The path of the array in it.
    metadata : dict
        The metadata of the array, which must be the same wherever it is read.
    """

    store: Store
    path: str
    metadata: dict[str, Any]
    _opened: zarr.Array[Any] | None = field(default=None, kw_only=True)
    # The same array, read through a store that notes what is missing.
    _noted: zarr.Array[Any] | None = field(default=None, kw_only=True)
    _noting: _Noting | None = field(default=None, kw_only=True)
    _told: set[int] = field(default_factory=set, kw_only=True)

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> "ZarrReader":
        """Return the reader of an array that is open."""
        make_absolute(array.store)
        return cls(array.store, array.path, array_metadata(array))

    def open(self) -> zarr.Array[Any]:
        """Return what is sliced, opened where it is not open."""
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
        """Return the objects that were not there, by digests of their keys, since the last call."""
        if self._noting is None or not self._noting.missing:
            return frozenset()
        missing, self._noting.missing = self._noting.missing, set()
        new = frozenset(missing - self._told)
        self._told |= new
        return new

    def close(self) -> None:
        """Let go of what was opened."""
        self._opened = self._noted = None

    @property
    def is_open(self) -> bool:
        """Whether something is opened."""
        return self._opened is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_noted": None, "_noting": None, "_told": set()}


def reopened(store: Store, path: str, metadata: dict[str, Any]) -> zarr.Array[Any]:
    """Return an array as it is in its store now.

    Raises
    ------
    SourceElsewhereError
        If it is not there, or is another one.
    """
    name, host = public_name(store, path), socket.gethostname()
    try:
        # Not every store has a copy that is read-only.
        array = zarr.open_array(store, path=path, mode="r" if store.read_only else "r+")
    except (FileNotFoundError, KeyError) as error:
        raise SourceElsewhereError(
            f"the Zarr array {name} is not there, seen from process {os.getpid()} on the host {host}; open it from "
            "where all workers see it"
        ) from error
    if array_metadata(array) != metadata:
        raise SourceElsewhereError(
            f"the Zarr array {name} is another one, seen from process {os.getpid()} on the host {host}, than the one "
            "that was opened; open it again, by an absolute path"
        )
    return array


def make_absolute(store: Any) -> None:
    """Let a store of a relative path mean the same place in each process, whatever its working folder."""
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
    """Tell whether another process may open a store: a zip file that is being written is emptied by who opens it."""
    store = unwrapped(store)
    return not isinstance(store, ZipStore) or store.read_only
