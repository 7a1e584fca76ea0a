"""An object appears in its store whole, under its own name, or not at all; a store that fails now and then is borne."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import LocalStore

from tilewright.errors import OutputInUseError
from tilewright.stores.patience import Check, Patience, allowed, answer_of, named
from tilewright.stores.places import public_name
from tilewright.stores.removal import remove_file, replace_file
from tilewright.stores.zarr_api import Encoded, buffer_of, default_buffer_prototype


def put_object(
    store: Store, key: str, parts: Iterable[Encoded], patience: Patience | None = None, check: Check = allowed
) -> None:
    """Store one object, and try again where that fails.

    Files of a `LocalStore` are written in the calling thread, as that store writes them: under a temporary name that
    ends in ``.partial``, which then replaces the final one. All other stores are given the bytes.

    A run that takes over removes the temporary files of the one before, or moves them away with their folder. So a file
    that was begun before that, and passes `check` after it was begun, cannot replace what the next run writes. A store
    that is no folder has no such fence between `check` and its own put.

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
    check : callable, optional
        Raises OutputInUseError where another run has the output; called in each attempt.

    Raises
    ------
    OSError
        If the object cannot be stored; it names the file.
    OutputInUseError
        If another run has the output. That is no failed attempt.
    """
    patience = patience or Patience()
    patience.bear(lambda: _put_once(store, key, parts, patience.answer_seconds, check))


def get_object(store: Store, key: str, patience: Patience | None = None) -> memoryview:
    """Return the bytes of one object.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    patience = patience or Patience()
    prototype = default_buffer_prototype()
    stored = patience.bear(lambda: answer_of(store, key, store.get(key, prototype), patience.answer_seconds))
    if stored is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{public_name(store)}/{key}")
    return memoryview(stored.to_bytes())


def _put_once(store: Store, key: str, parts: Iterable[Encoded], answer_seconds: float, check: Check) -> None:
    if type(store) is LocalStore:
        # That proves the lock when the file is whole; each proof is three calls of the system.
        write_file(f"{store.root}/{key}", parts, check)
        return
    check()
    answer_of(store, key, store.set(key, buffer_of(parts)), answer_seconds)


def write_file(path: str | Path, parts: Iterable[Encoded], check: Check = allowed) -> int:
    """Write a file under a temporary name, then give it its own, unless `check` raises."""
    # Thousands of times a second: no `Path`, of which each takes as long as a call of the system.
    partial = f"{path}.{os.urandom(16).hex()}.partial"
    try:
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            # The folders may have been moved away, with all that was in them, by a run that replaces the output.
            check()
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            try:
                nbytes = sum(_write_all(descriptor, part) for part in parts)
            finally:
                os.close(descriptor)
            check()
            replace_file(partial, path)
        except BaseException:
            remove_file(partial)
            raise
    except OutputInUseError:
        raise
    except OSError as error:
        raise named(error, str(path)) from error
    return nbytes


def _write_all(descriptor: int, part: Encoded) -> int:
    view = memoryview(part).cast("B")
    written = 0
    while written < view.nbytes:
        written += os.write(descriptor, view[written:])
    return written
