"""Files, folders and objects are removed, renamed and replaced here and nowhere else.

What is removed is proven to be ours before: a temporary file by its name, which holds 128 random bits; a lock or a file
of a ledger by its content; a part of an output by `inventory.Inventory`. What is not proven stays where it is.
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zarr.abc.store import Store

from tilewright.stores.patience import Check, Patience, allowed, answer_of, naming

try:
    import fcntl
except ImportError:  # Windows has none.
    fcntl = None  # type: ignore[assignment]

_PARTIAL = re.compile(r".+\.[0-9a-f]{32}(\.(old|scratch))?\.partial")


def is_partial(name: str) -> bool:
    """Tell whether a name is that of a file or folder of ours that was being written.

    Examples
    --------
    >>> is_partial("0.0123456789abcdef0123456789abcdef.partial"), is_partial("notes.partial")
    (True, False)
    """
    return _PARTIAL.fullmatch(name) is not None


def remove_file(path: str | Path) -> None:
    """Remove a file of ours, if it is there."""
    with suppress(FileNotFoundError):
        # Thousands of times a second: no `Path`.
        os.unlink(path)  # noqa: PTH108


def replace_file(partial: str | Path, path: str | Path) -> None:
    """Give a file, which is whole, its name, and replace the one that had it."""
    os.replace(partial, path)  # noqa: PTH105


def move(path: Path, new: Path) -> None:
    """Give a file or folder another name, which nothing has."""
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    path.rename(new)


def remove_empty_folder(folder: Path) -> None:
    """Remove a folder that holds nothing; one that holds something stays."""
    with suppress(OSError):
        folder.rmdir()


def remove_files(folder: Path, names: Iterable[str], check: Check = allowed) -> None:
    """Remove files below a folder, and then all folders that hold nothing any more, with the folder itself.

    Parameters
    ----------
    folder : Path
        The folder.
    names : iterable of str
        The files, relative to it.
    check : callable
        Is called before each one; raises where nothing may be removed any more.
    """
    for name in names:
        check()
        remove_file(folder / name)
    for parent, _, _ in os.walk(folder, topdown=False):
        remove_empty_folder(Path(parent))


def delete_object(store: Store, key: str, patience: Patience | None = None, check: Check = allowed) -> None:
    """Remove one object, if it is there.

    Parameters
    ----------
    store : zarr store
        The store.
    key : str
        Its name.
    patience : Patience, optional
        How often that is tried.
    check : callable
        Raises where nothing may be removed any more.
    """
    borne = patience or Patience()

    def delete() -> None:
        check()
        answer_of(store, key, store.delete(key), borne.answer_seconds)

    borne.bear(delete)


def remove_partial_files(folder: Path) -> None:
    """Remove what processes that were killed have left half-written below a folder, whose lock is held."""
    for parent, _, names in os.walk(folder):
        for name in filter(is_partial, names):
            remove_file(Path(parent, name))


def remove_partial_files_in(folder: Path) -> None:
    """Remove what processes that were killed have left half-written in a folder, but not in those in it."""
    for name in filter(is_partial, os.listdir(folder)):  # noqa: PTH208
        if not (folder / name).is_dir():
            remove_file(folder / name)


def remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed have left beside a file or folder, while they were writing it.

    What a process that lives is writing is locked, and stays.
    """
    beginning = f"{path.name}."
    for name in os.listdir(path.parent):  # noqa: PTH208
        if name.startswith(beginning) and is_partial(name):
            with _unlocked(path.parent / name) as is_abandoned:
                if is_abandoned:
                    remove_partial(path.parent / name)


def remove_partial(path: Path) -> None:
    """Remove a file or folder that was being written, by its name, if it is there."""
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
    """Make a file or folder that shows that a process writes it, and remove it at the end where it still has its name.

    Parameters
    ----------
    partial : Path
        A name for which `is_partial` is true.
    path : Path
        The name that it will have, for errors.
    is_folder : bool
        Whether it is a folder.
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
    """Lock an open file until it is closed, or its process ends; return whether that could be done."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Another process has it, or the file system has no locks.
        return False
    return True


@contextmanager
def _unlocked(path: Path) -> Iterator[bool]:
    """Lock a file or folder, and tell whether that could be done."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)
