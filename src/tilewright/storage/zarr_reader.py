"""A Zarr array is read where its metadata are: an array that is not there would read as its fill value."""

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, ZipStore

from tilewright.assemble import AnyArray
from tilewright.errors import SourceElsewhereError
from tilewright.storage.metadata import array_metadata
from tilewright.storage.places import public_name
from tilewright.storage.readers import Slices, owned
from tilewright.storage.zarr_api import unwrapped


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
        return owned(self.open()[slices])

    def close(self) -> None:
        """Let go of what was opened."""
        self._opened = None

    @property
    def is_open(self) -> bool:
        """Whether something is opened."""
        return self._opened is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


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
        store.root = store.root.expanduser().resolve()
    elif isinstance(store, ZipStore):
        store.path = store.path.expanduser().resolve()
    elif type(store).__name__ == "FsspecStore" and not Path(store.path).is_absolute():
        file_system = getattr(store.fs, "sync_fs", store.fs)
        if type(file_system).__name__ == "LocalFileSystem":
            store.path = str(Path(store.path).resolve())


def can_travel(store: Any) -> bool:
    """Tell whether another process may open a store: a zip file that is being written is emptied by who opens it."""
    store = unwrapped(store)
    return not isinstance(store, ZipStore) or store.read_only
