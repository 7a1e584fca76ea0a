"""An object appears in its store whole, under its own name, or not at all; a store that fails now and then is borne."""

import errno
import os
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from tilewright.storage.encoding import Encoded, buffer_of

Answer = TypeVar("Answer")
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk that no later attempt, and no other object, would escape."""
_PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial")


@dataclass(frozen=True, slots=True)
class Patience:
    """How a store that fails, or does not answer, is borne.

    Parameters
    ----------
    attempts : int
        How often an object is put before that fails.
    pause_seconds : float
        How long to wait before the second attempt; before each further one four times as long.
    answer_seconds : float
        How long one waits for a store that is no local folder.
    """

    attempts: int = 3
    pause_seconds: float = 0.25
    answer_seconds: float = 120.0

    def bear(self, attempt: Callable[[], Answer]) -> Answer:
        """Return what an attempt returns; try again, after a pause, where it raises."""
        for pause in range(self.attempts - 1):
            try:
                return attempt()
            except Exception as error:
                if is_fatal(error):
                    raise
                sleep(self.pause_seconds * 4**pause)
        return attempt()


def put_object(store: Store, key: str, parts: Iterable[Encoded], patience: Patience | None = None) -> None:
    """Store one object, and try again where that fails.

    Files of a `LocalStore` are written in the calling thread, as that store writes them: under a temporary name that
    ends in ``.partial``, which then replaces the final one. All other stores are given the bytes.

    Parameters
    ----------
    store : zarr store
        Where to.
    key : str
        The name of the object.
    parts : iterable of bytes-like
        What the object is made of, in order; each attempt iterates over them anew.
    patience : Patience, optional
        How often, and how long.

    Raises
    ------
    OSError
        If the object cannot be stored; it names the file.
    """
    patience = patience or Patience()
    patience.bear(lambda: _put_once(store, key, parts, patience.answer_seconds))


def get_object(store: Store, key: str, patience: Patience | None = None) -> memoryview:
    """Return the bytes of one object.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    patience = patience or Patience()
    prototype = default_buffer_prototype()
    stored = patience.bear(lambda: _answer_of(store, key, store.get(key, prototype), patience.answer_seconds))
    if stored is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{store}/{key}")
    return memoryview(stored.to_bytes())


def delete_object(store: Store, key: str, patience: Patience | None = None) -> None:
    """Remove one object, if it is there."""
    patience = patience or Patience()
    patience.bear(lambda: _answer_of(store, key, store.delete(key), patience.answer_seconds))


def is_fatal(error: BaseException | None) -> bool:
    """Tell whether a disk takes nothing any more: it is full, or read-only."""
    return isinstance(error, OSError) and error.errno in FATAL


def _put_once(store: Store, key: str, parts: Iterable[Encoded], answer_seconds: float) -> None:
    if type(store) is LocalStore:
        write_file(f"{store.root}/{key}", parts)
        return
    _answer_of(store, key, store.set(key, buffer_of(parts)), answer_seconds)


def _answer_of(store: Store, key: str, request: Coroutine[Any, Any, Answer], answer_seconds: float) -> Answer:
    try:
        return sync(request, timeout=answer_seconds)
    except TimeoutError as error:
        raise TimeoutError(errno.ETIMEDOUT, f"no answer for {answer_seconds:.0f} seconds", f"{store}/{key}") from error
    except OSError as error:
        raise _named(error, f"{store}/{key}") from error


def remove_partial_files(folder: Path) -> None:
    """Remove what processes that were killed have left half-written below a folder."""
    for parent, _, names in os.walk(folder):
        for name in filter(_PARTIAL.fullmatch, names):
            Path(parent, name).unlink(missing_ok=True)


def write_file(path: str | Path, parts: Iterable[Encoded]) -> int:
    """Write a file under a temporary name, then give it its own."""
    # Thousands of times a second: no `Path`, of which each takes as long as a call of the system.
    partial = f"{path}.{os.urandom(16).hex()}.partial"
    try:
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            try:
                nbytes = sum(_write_all(descriptor, part) for part in parts)
            finally:
                os.close(descriptor)
            os.replace(partial, path)  # noqa: PTH105
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
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
