"""A place has one name, however its store is wrapped and whichever library opened it, and no secret is in the name."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath, WrapperStore, ZipStore

FILE = "file"
"""The service of everything that lies in the file system."""
_SAME_SERVICES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az", "local": FILE}
_HAVE_BUCKETS = ("s3", "gs", "az")


Name = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where something is stored.

    Parameters
    ----------
    service : str
        What stores it: ``"file"``, ``"s3"``, the memory of this process.
    path : tuple of str
        The parts of the path in it, the bucket or the host first; of a file absolute, without links.

    Examples
    --------
    >>> data = Place("s3", ("bucket", "data"))
    >>> data.overlaps(Place("s3", ("bucket", "data", "raw.zarr"))), data.overlaps(Place("s3", ("bucket", "dat")))
    (True, False)
    """

    service: str
    path: tuple[str, ...]

    def overlaps(self, other: "Place") -> bool:
        """Tell whether one lies in the other, or both are the same."""
        own, around = self.names()
        others, around_others = other.names()
        return not (own.isdisjoint(others | around_others) and around.isdisjoint(others))

    def names(self) -> tuple[frozenset[Name], frozenset[Name]]:
        """Return the names of this place, and those of all places that it lies in.

        A folder that exists has its number in the file system as a name too: it may be mounted at two places, and a
        file system may not tell capital letters from small ones.
        """
        around: set[Name] = set()
        for length in range(1, len(self.path)):
            around |= _names_of(self.service, self.path[:length])
        return _names_of(self.service, self.path), frozenset(around)

    def __str__(self) -> str:
        return str(Path(*self.path)) if self.service == FILE else f"{self.service}://{'/'.join(self.path)}"


def opened_store(place: Any) -> tuple[Store | None, str]:
    """Return the store, and the path in it, of a store, of a node or of what a library opens; None for a path."""
    if isinstance(place, Store):
        return place, ""
    if isinstance(place, StorePath):
        return place.store, place.path
    if isinstance(place, zarr.Group):
        return place.store, place.path
    if type(place).__module__.partition(".")[0] == "obstore":
        return ObjectStore(place), ""
    if type(place).__name__ == "FSMap":
        return FsspecStore.from_mapper(place), ""
    return None, ""


def place_of_path(path: str | os.PathLike[str]) -> Place:
    """Return the place of a file or folder."""
    return Place(FILE, Path(path).expanduser().resolve().parts)


def place_of_store(store: Store, path: str = "") -> Place | None:
    """Return the place of a store, or of a node in it; None where it cannot be known.

    Parameters
    ----------
    store : zarr store
        A store of zarr, or one that wraps another one.
    path : str
        The path of a group or array in it.
    """
    root = _root_of(store)
    if root is None:
        return None
    return Place(root.service, (*root.path, *filter(None, path.split("/"))))


def folder_of(store: Store) -> Path | None:
    """Return the folder in which a store lies; None where it lies in none."""
    root = None if isinstance(_unwrapped(store), ZipStore) else _root_of(store)
    return Path(*root.path) if root is not None and root.service == FILE else None


def path_of(store: Store) -> Path | None:
    """Return the folder, or the zip file, in which a store lies; None where it lies in neither."""
    root = _root_of(store)
    return Path(*root.path) if root is not None and root.service == FILE else None


def public_name(store: Store | str) -> str:
    """Return how to name a store, or what a URL is about, in messages and records: without users, keys and signatures.

    Examples
    --------
    >>> public_name("https://me:secret@example.com/raw.zarr?signature=5f3a")
    'https://example.com/raw.zarr'
    """
    if isinstance(store, str):
        return str(_place_of_url(store)) if "://" in store else store
    place = _root_of(store)
    return type(store).__name__ if place is None else str(place)


def _unwrapped(store: Any) -> Any:
    while isinstance(store, WrapperStore):
        store = store._store
    return store


def _root_of(store: Any) -> Place | None:
    store = _unwrapped(store)
    if isinstance(store, LocalStore | ZipStore):
        return place_of_path(store.root if isinstance(store, LocalStore) else store.path)
    if isinstance(store, MemoryStore):
        return Place("memory", (f"{id(store._store_dict):x}",))
    # Both libraries are optional, and are imported only where they were.
    if type(store).__name__ == "FsspecStore":
        return _place_in_file_system(store.fs, str(store.path))
    if type(store).__name__ == "ObjectStore":
        return _place_in_object_store(store.store)
    return None


def _place_in_file_system(file_system: Any, path: str) -> Place | None:
    """Return the place of a path in a file system of fsspec, through those that wrap another one."""
    while True:
        inner = getattr(file_system, "sync_fs", None) or getattr(file_system, "fs", None)
        if inner is None:
            break
        if type(file_system).__name__ == "DirFileSystem":
            path = f"{file_system.path}/{path}" if path else str(file_system.path)
        file_system = inner
    protocol = file_system.protocol
    name = protocol if isinstance(protocol, str) else protocol[0]
    service = _SAME_SERVICES.get(name, name)
    if service == FILE:
        return place_of_path(path)
    if service in ("http", "https"):
        return _place_of_url(path)
    if service in _HAVE_BUCKETS or service == "memory":
        # The memory of fsspec is one for the whole process.
        parts = path.split("://")[-1].split("/")
        return Place("fsspec memory" if service == "memory" else service, tuple(filter(None, parts)))
    return None


def _place_in_object_store(store: Any) -> Place | None:
    """Return the place of a store of obstore."""
    kind = type(store).__name__
    prefix = str(getattr(store, "prefix", None) or "")
    if kind == "LocalStore":
        return place_of_path(prefix or "/")
    if kind == "MemoryStore":
        return Place("obstore memory", (f"{id(store):x}",))
    if kind == "HTTPStore":
        return _place_of_url(store.url)
    service = {"S3Store": "s3", "GCSStore": "gs", "AzureStore": "az"}.get(kind)
    config = getattr(store, "config", None) or {}
    bucket = config.get("bucket") or config.get("container_name") or config.get("container")
    if service is None or not bucket:
        return None
    return Place(service, (str(bucket), *filter(None, prefix.split("/"))))


def _place_of_url(url: str) -> Place:
    split = urlsplit(url)
    host = split.hostname or ""
    if split.port:
        host = f"{host}:{split.port}"
    service = _SAME_SERVICES.get(split.scheme, split.scheme)
    return Place(service, tuple(filter(None, (host, *split.path.split("/")))))


def _names_of(service: str, path: tuple[str, ...]) -> frozenset[Name]:
    name: Name = (service, *path)
    if service == FILE:
        with suppress(OSError):
            status = Path(*path).stat()
            return frozenset((name, ("inode", status.st_dev, status.st_ino)))
    return frozenset((name,))
