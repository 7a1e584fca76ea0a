"""Removals, renames and replacements of files, folders and objects that tilewright itself has written.

Proof of that is the name of a temporary file, with its 128 random bits; the content of a lock or of a file of a ledger;
`inventory.Inventory` for a part of an output. Everything else stays.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import LocalStore

from tilewright.stores.patience import Check, Patience, allowed, answer_of, naming

_PARTIAL = re.compile(r".+\.[0-9a-f]{32}(\.(old|scratch))?\.partial")


def is_partial(name: str) -> bool:
    """Tell whether a name is that of a half-written file or folder of tilewright.

    Examples
    --------
    >>> is_partial("0.0123456789abcdef0123456789abcdef.partial"), is_partial("notes.partial")
    (True, False)
    """
    return _PARTIAL.fullmatch(name) is not None


def remove_file(path: str | Path) -> None:
    """Remove a file, if it exists."""
    with suppress(FileNotFoundError):
        # A hot path: no `Path`.
        os.unlink(path)  # noqa: PTH108


def replace_file(partial: str | Path, path: str | Path) -> None:
    """Give a whole file its final name, and replace the file of that name."""
    os.replace(partial, path)  # noqa: PTH105


def move(path: Path, new: Path) -> None:
    """Rename a file or folder, or raise FileExistsError where the new name is taken."""
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    path.rename(new)


def remove_empty_folder(folder: Path) -> None:
    """Remove a folder if it is empty."""
    with suppress(OSError):
        folder.rmdir()


def remove_files(folder: Path, names: Iterable[str], check: Check = allowed) -> None:
    """Remove files, by names relative to a folder, and then all empty folders, with the folder itself.

    Before each file, `check` raises where another run has the output.
    """
    for name in names:
        check()
        remove_file(folder / name)
    for parent, _, _ in os.walk(folder, topdown=False):
        remove_empty_folder(Path(parent))


def delete_object(store: Store, key: str, patience: Patience | None = None, check: Check = allowed) -> None:
    """Remove one object, if it exists; `check` raises where another run has the output."""
    patience = patience or Patience()

    def delete() -> None:
        check()
        if type(store) is LocalStore:
            # The store itself would remove a folder that is there with all that it holds.
            remove_file(f"{store.root}/{key}")
        else:
            answer_of(store, key, store.delete(key), patience.answer_seconds)

    patience.bear(delete)


def remove_partial_files(folder: Path, *, also_below: bool = True) -> None:
    """Remove the half-written files of killed processes in a folder, whose lock is held, and in its subfolders."""
    for parent, folders, names in os.walk(folder):
        for name in filter(is_partial, names):
            remove_file(Path(parent, name))
        if not also_below:
            folders.clear()


def remove_abandoned(path: Path) -> None:
    """Remove the half-written copies of a file or folder that killed processes have left beside it.

    The copy of a running process is locked, and stays.
    """
    beginning = f"{path.name}."
    for name in os.listdir(path.parent):  # noqa: PTH208
        if name.startswith(beginning) and is_partial(name):
            with _unlocked(path.parent / name) as is_abandoned:
                if is_abandoned:
                    remove_partial(path.parent / name)


def remove_partial(path: Path) -> None:
    """Remove a half-written file or folder, if it exists."""
    if not is_partial(path.name):
        raise ValueError(f"{path} is not removed: its name is not that of a partial file")
    if not path.is_dir() or path.is_symlink():
        remove_file(path)
        return
    for parent, folders, files in os.walk(path, topdown=False):
        for name in files:
            remove_file(Path(parent, name))
        for name in folders:
            if Path(parent, name).is_symlink():
                remove_file(Path(parent, name))
        remove_empty_folder(Path(parent))


@contextmanager
def being_written(partial: Path, path: Path, *, is_folder: bool) -> Iterator[None]:
    """Make a locked half-written file or folder, and remove it at the end where it still has this name.

    The name must be one of `is_partial`; errors name the final path.
    """
    with naming(path):
        if is_folder:
            partial.mkdir()
        flags = os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
        descriptor = os.open(partial, flags | os.O_CLOEXEC, 0o666)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)
        remove_partial(partial)


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; return False where that is not possible."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Another process holds it, or the file system has no locks.
        return False
    return True


@contextmanager
def _unlocked(path: Path) -> Iterator[bool]:
    """Lock a file or folder, and yield whether that was possible."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)
