"""An object appears in its store whole, under its own name, or not at all."""

import errno
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import LocalStore

from tilewright.storage.encoding import Encoded, buffer_of


def put_object(store: Store, key: str, parts: Sequence[Encoded]) -> int:
    """Store one object, and return its length in bytes.

    Files of a `LocalStore` are written in the calling thread, as that store writes them: under a temporary name that
    ends in ``.partial``, which then replaces the final one. All other stores are given the bytes.

    Parameters
    ----------
    store : zarr store
        Where to.
    key : str
        The name of the object.
    parts : sequence of bytes-like
        What the object is made of, in order.

    Raises
    ------
    OSError
        If the object cannot be stored; it names the file.
    """
    if type(store) is LocalStore:
        return write_file(store.root / key, parts)
    buffer = buffer_of(parts)
    try:
        sync(store.set(key, buffer))
    except OSError as error:
        raise _named(error, f"{store}/{key}") from error
    return len(buffer)


def write_file(path: Path, parts: Sequence[Encoded]) -> int:
    """Write a file under a temporary name, then give it its own."""
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            nbytes = sum(_write_all(descriptor, part) for part in parts)
        except BaseException:
            os.close(descriptor)
            Path(partial).unlink(missing_ok=True)
            raise
        os.close(descriptor)
        Path(partial).replace(path)
    except OSError as error:
        raise _named(error, str(path)) from error
    return nbytes


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in an error of the system: its temporary name would say nothing to the user."""
    try:
        yield
    except OSError as error:
        raise _named(error, str(path)) from error


def _named(error: OSError, name: str) -> OSError:
    number = error.errno or errno.EIO
    reason = os.strerror(number) if error.errno else str(error)
    return OSError(number, f"could not write: {reason}", name)


def _write_all(descriptor: int, part: Encoded) -> int:
    view = memoryview(part).cast("B")
    written = 0
    while written < view.nbytes:
        written += os.write(descriptor, view[written:])
    return written
