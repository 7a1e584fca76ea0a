"""Put of an object: it appears whole under its own name, or not at all; a failing store is tried again."""

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
    """Store one object, and try again after an error.

    A file of a `LocalStore` is written in the calling thread under a temporary name that ends in ``.partial``, and then
    gets its final name. Any other store is given the bytes.

    A run that takes over removes or moves the temporary files of the run before. So a file that was begun before, and
    passes `check` afterwards, cannot replace a file of the next run. In a store that is no folder, nothing prevents
    that between `check` and the put.

    Parameters
    ----------
    store, key, patience
        Store and key of the object, and retry policy.
    parts : iterable of bytes-like
        Bytes of the object, in order; each attempt iterates anew.
    check : callable, optional
        Raises OutputInUseError where another run has the output; called in each attempt.

    Raises
    ------
    OSError
        If the object cannot be stored; the error names it.
    OutputInUseError
        If another run has the output; there is no further attempt.
    """
    patience = patience or Patience()

    def put() -> None:
        if type(store) is LocalStore:
            # It calls `check` when the file is whole.
            write_file(f"{store.root}/{key}", parts, check)
            return
        check()
        answer_of(store, key, store.set(key, buffer_of(parts)), patience.answer_seconds)

    patience.bear(put)


def get_object(store: Store, key: str, patience: Patience | None = None) -> memoryview:
    """Return the bytes of one object, or raise FileNotFoundError."""
    patience = patience or Patience()
    prototype = default_buffer_prototype()
    stored = patience.bear(lambda: answer_of(store, key, store.get(key, prototype), patience.answer_seconds))
    if stored is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{public_name(store)}/{key}")
    return memoryview(stored.to_bytes())


def write_file(path: str | Path, parts: Iterable[Encoded], check: Check = allowed) -> int:
    """Write a file under a temporary name, then give it its own, unless `check` raises."""
    # A hot path: a `Path` takes as long as a system call.
    partial = f"{path}.{os.urandom(16).hex()}.partial"
    try:
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            # A run that replaces the output may have moved the folders away.
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
