"""Place of a store: one name for every wrapper and library that opens it, without secrets.

The attributes of a store say where it lies; nothing is listed or opened. The endpoint of an object store is left out,
since one server has many names: bucket and key are one place on every server.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath, WrapperStore, ZipStore

from tilewright.stores.zarr_api import memory_number, unwrapped

FILE = "file"
"""Service of files and folders."""
_SAME_SERVICES = {"s3a": "s3", "gcs": "gs", "local": FILE, "https": "http"}
_SAME_SERVICES |= dict.fromkeys(("abfs", "abfss", "adl", "azure"), "az")
_HAVE_BUCKETS = ("s3", "gs", "az")
_BUCKET_HOSTS = (
    ("s3", re.compile(r"(?:(?P<bucket>.+)\.)?s3(?:[.-][a-z0-9.-]+)?\.amazonaws\.com")),
    ("gs", re.compile(r"(?:(?P<bucket>.+)\.)?storage\.(?:cloud\.)?google(?:apis)?\.com")),
    ("az", re.compile(r"(?P<account>[^.]+)\.(?:blob|dfs)\.core\.windows\.net")),
)
"""Hosts of object stores: the URL names a bucket and a key in it."""
_THIS_HOST = re.compile(rf"localhost|127\..*|0\.0\.0\.0|::1|{re.escape(os.uname().nodename)}(\..*)?", re.IGNORECASE)
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*([A-Za-z][A-Za-z0-9+.-]+):/{1,3}")
_USER = re.compile(r"(:/{1,3})(?:[^/@\s:]*:(?!\d+/)[^@\s]*|[^/@\s]*)@")
"""User and password; a password may contain an unquoted slash, and a port looks alike."""
_CONTAINER = re.compile(r"(?:[a-z]+::)*(?:az|adl|azure|abfss?):/{1,3}[a-z0-9-]+@", re.IGNORECASE)
"""URL of Azure, with the container before the account."""
IN_MEMORY = "lies in the memory of this process, which the workers cannot reach; use a file"
"""End of the message about a store in memory."""
Name = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Place of a file, folder, object or memory.

    Parameters
    ----------
    service : str
        ``"file"``, ``"s3"``, ``"memory"`` or another protocol.
    path : tuple of str
        Parts of the path: bucket or host first; for a file absolute, without links.

    Examples
    --------
    >>> data = Place("s3", ("bucket", "data"))
    >>> data.overlaps(Place("s3", ("bucket", "data", "raw.zarr"))), data.overlaps(Place("s3", ("bucket", "dat")))
    (True, False)
    """

    service: str
    path: tuple[str, ...]

    @property
    def is_memory(self) -> bool:
        """Whether the place is the memory of one process."""
        return self.service.endswith("memory")

    def overlaps(self, other: "Place") -> bool:
        """Tell whether one place lies in the other, or both are the same."""
        own, around = self.names()
        others, around_others = other.names()
        return not (own.isdisjoint(others | around_others) and around.isdisjoint(others))

    def names(self) -> tuple[frozenset[Name], frozenset[Name]]:
        """Return the names of this place, and of all places around it.

        The inode of an existing folder is a name too: a folder may be mounted twice, and a file system may ignore the
        case of letters.
        """
        around = (_names_of(self.service, self.path[:length]) for length in range(1, len(self.path)))
        return _names_of(self.service, self.path), frozenset().union(*around)

    def __str__(self) -> str:
        if self.service == FILE:
            return str(Path(*self.path))
        # The address of a memory is of no use in a message.
        named = self.path[1:] if self.is_memory and self.service != "fsspec memory" else self.path
        return f"{self.service}://{'/'.join(named)}"


def opened_store(place: Any) -> tuple[Store | None, str]:
    """Return the store of an opened place, and the path in it; None for a path or URL."""
    if isinstance(place, Store):
        return place, ""
    if isinstance(place, StorePath | zarr.Group):
        return place.store, place.path
    if type(place).__module__.partition(".")[0] == "obstore":
        return ObjectStore(place), ""
    if type(place).__name__ != "FSMap":
        return None, ""
    known = place_in_file_system(place.fs, place.root)
    if known is not None and known.service == FILE:
        # The file system of fsspec makes no folders.
        return LocalStore(Path(*known.path)), ""
    return FsspecStore.from_mapper(place), ""


def place_of_path(path: str | os.PathLike[str]) -> Place:
    """Return the place of a file or folder."""
    return Place(FILE, Path(path).expanduser().resolve().parts)


def place_of_store(store: Store | StorePath, path: str = "") -> Place | None:
    """Return the place of a store, or of the group or array at a path in it; None where it is unknown."""
    if isinstance(store, StorePath):
        return place_of_store(store.store, f"{store.path}/{path}")
    root = _root_of(store)
    if root is None:
        return None
    # A zip file is one place, since it is written as a whole.
    inside = () if isinstance(unwrapped(store), ZipStore) else _parts(path)
    # A group of a folder may be a link to another one.
    return place_of_path(Path(*root.path, *inside)) if root.service == FILE else Place(root.service, root.path + inside)


def gives_other_names(store: Any) -> bool:
    """Tell whether a store has a foreign wrapper, which may rename keys."""
    while isinstance(store, WrapperStore):
        if not type(store).__module__.startswith("zarr."):
            return True
        store = store._store
    return False


def may_be_elsewhere(place: Place) -> bool:
    """Tell whether a place may be the same as one of another service, such as a server on this host."""
    if place.service == "http":
        return _THIS_HOST.fullmatch(place.path[0].rpartition(":")[0] or place.path[0]) is not None
    return place.service not in (FILE, *_HAVE_BUCKETS) and not place.is_memory


def folder_of(store: Store) -> Path | None:
    """Return the folder of a store; None where it has none."""
    return None if isinstance(unwrapped(store), ZipStore) else path_of(store)


def path_of(store: Store) -> Path | None:
    """Return the folder or zip file of a store; None where it has neither."""
    root = _root_of(store)
    return Path(*root.path) if root is not None and root.service == FILE else None


def public_name(store: Any, path: str = "") -> str:
    """Return the name of a store, URL or path, and of a path in it, without users, keys and signatures.

    Examples
    --------
    >>> public_name("https://me:secret@example.com/raw.zarr?signature=5f3a", "0/zarr.json")
    'https://example.com/raw.zarr/0/zarr.json'
    """
    if isinstance(store, str | os.PathLike):
        name = str(os.fspath(store))
        if _URL.match(name):
            name = re.sub(r"(?s)[?#].*", "", name if _CONTAINER.match(name) else _USER.sub(r"\1", name))
    else:
        place = place_of_store(store)
        name = type(store).__name__ if place is None else str(place)
    inside = "/".join(_parts(path))
    return f"{name}{'/' if inside and not name.endswith('/') else ''}{inside}"


def without_secrets(text: object) -> str:
    """Return a text without the users and signatures of its URLs.

    Examples
    --------
    >>> without_secrets("GET https://me:word@host/a?signature=1 failed")
    'GET https://host/a failed'
    """
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*:/[^\s'\"<>]+", lambda found: public_name(found.group()), str(text))


def _root_of(store: Any) -> Place | None:
    store = unwrapped(store)
    if isinstance(store, LocalStore | ZipStore):
        return place_of_path(store.root if isinstance(store, LocalStore) else store.path)
    if isinstance(store, MemoryStore):
        return Place("memory", (f"{memory_number(store):x}",))
    if type(store) is FsspecStore:
        return place_in_file_system(store.fs, str(store.path))
    return _place_in_object_store(store.store) if type(store) is ObjectStore else None


def place_in_file_system(file_system: Any, path: str) -> Place | None:
    """Return the place of a path in a file system of fsspec, also a wrapped one."""
    while True:
        archive = getattr(getattr(file_system, "fo", None), "name", None)
        inner = getattr(file_system, "sync_fs", None) or getattr(file_system, "fs", None)
        if inner is None:
            break
        if type(file_system).__name__ == "DirFileSystem":
            path = f"{file_system.path}/{path}" if path else str(file_system.path)
        file_system = inner
    if isinstance(archive, str):
        return place_of_path(Path(archive, *_parts(path)))
    protocol = file_system.protocol
    name = protocol if isinstance(protocol, str) else protocol[0]
    service = _SAME_SERVICES.get(name, name)
    if service == FILE:
        return place_of_path(path.removeprefix("file://"))
    if "://" in path:
        return place_of_url(path)
    if service == "memory":
        # The memory of fsspec is one for the whole process.
        return Place("fsspec memory", _parts(path))
    if service in _HAVE_BUCKETS:
        return place_of_url(f"{service}://{path.lstrip('/')}")
    host = getattr(file_system, "host", None)
    return Place(service, (host, *_parts(path))) if isinstance(host, str) and host else None


def _place_in_object_store(store: Any) -> Place | None:
    """Return the place of a store of obstore."""
    kind = next((base.__name__ for base in type(store).__mro__ if base.__module__.startswith("obstore")), "")
    prefix = str(getattr(store, "prefix", None) or "")
    if kind == "LocalStore":
        return place_of_path(prefix or "/")
    if kind == "MemoryStore":
        return Place("obstore memory", (f"{id(store):x}",))
    if kind == "HTTPStore":
        return place_of_url(store.url)
    service = {"S3Store": "s3", "GCSStore": "gs", "AzureStore": "az"}.get(kind)
    config = getattr(store, "config", None) or {}
    buckets = [config[name] for name in config if re.fullmatch(r"(.*_)?(bucket|container)(_name)?", name)]
    if service is None or not buckets:
        return None
    return Place(service, (str(buckets[0]), *_parts(prefix)))


def place_of_url(url: str) -> Place | None:
    """Return the place of a URL; None where it is unknown.

    Examples
    --------
    >>> place_of_url("s3://bucket/a/b"), place_of_url("https://bucket.s3.amazonaws.com/a/b?signature=1")
    (Place(service='s3', path=('bucket', 'a', 'b')), Place(service='s3', path=('bucket', 'a', 'b')))
    """
    # The text before "::" says only how the rest is read.
    split = urlsplit(url.rpartition("::")[2])
    service = _SAME_SERVICES.get(split.scheme.lower(), split.scheme.lower())
    if service == FILE:
        # As in fsspec, "file://raw.zarr" lies in the working folder.
        path = unquote(split.path if split.netloc == "localhost" else f"{split.netloc}{split.path}")
        return place_of_path(path) if path.strip("/") else None
    if service == "memory":
        return Place("fsspec memory", _parts(f"{split.netloc}/{split.path}"))
    if service in _HAVE_BUCKETS:
        # Of "container@account" and "user@bucket" only Azure's has the bucket first.
        bucket = split.netloc.partition("@")[0] if service == "az" else split.netloc.rpartition("@")[2]
        return Place(service, (bucket, *_parts(split.path))) if bucket else None
    parts = _parts(unquote(split.path))
    with suppress(ValueError):
        port = "" if split.port in (None, 80, 443) else f":{split.port}"
        for bucket_service, pattern in _BUCKET_HOSTS if service == "http" else ():
            if found := pattern.fullmatch(split.hostname or ""):
                return Place(bucket_service, (*filter(None, (found.groupdict().get("bucket"),)), *parts))
        return Place(service, (f"{split.hostname}{port}", *parts)) if split.hostname else None
    return None


def _parts(path: str) -> tuple[str, ...]:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)


def _names_of(service: str, path: tuple[str, ...]) -> frozenset[Name]:
    name: Name = (service, *path)
    if service == FILE:
        with suppress(OSError):
            status = Path(*path).stat()
            return frozenset((name, ("inode", status.st_dev, status.st_ino)))
    return frozenset((name,))
