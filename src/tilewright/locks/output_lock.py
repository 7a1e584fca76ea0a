"""Lock of an output and of all around and inside it: at most one run writes there, whatever its ledger.

A run takes its own lock first, and then looks for locks around and inside its output: so of two runs one at least sees
the other.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from zarr.abc.store import Store

from tilewright.errors import DestinationError, OutputInUseError
from tilewright.locks.guard import Guard
from tilewright.locks.holder import Holder
from tilewright.locks.lock import NAME, Lock, WriterLock, remove_leftovers
from tilewright.locks.object_lock import NAME as OBJECT_NAME
from tilewright.locks.object_lock import ObjectLock
from tilewright.locks.reach import Reach
from tilewright.stores.removal import remove_empty_folder
from tilewright.stores.zarr_api import is_unopened_zip, sync

LEDGER_SUFFIX = ".ledger"
"""Suffix of the folder of ledger and lock: ``a.zarr.ledger`` for ``a.zarr``."""


def folder_beside(root: Path, group: str | Path) -> Path:
    """Return the folder beside a store that holds the lock of a group, and by default its ledger.

    Examples
    --------
    >>> folder_beside(Path("data/a.zarr"), "0").as_posix()
    'data/a.zarr.ledger/0'
    """
    return root.with_name(f"{root.name}{LEDGER_SUFFIX}") / group


class OutputLock:
    """Right to write one output, held from `acquire` to `release`.

    Without a lock folder the lock is an object of the store. A chosen ledger folder has a lock of its own, since two
    outputs cannot share it.
    """

    def __init__(
        self, store: Store, group: str, folder: Path | None, lock_folder: Path | None, ledger_folder: Path | None
    ) -> None:
        self._store = store
        self._group = group
        self._folder = folder
        self._name = name = str(folder or store)
        self._own = ObjectLock(store, group, name) if lock_folder is None else WriterLock(lock_folder, name)
        self._of_ledger = None if ledger_folder in (None, lock_folder) else ledger_folder
        self._held = ExitStack()

    def acquire(self, number: int = 1, *, has_workers: bool = False) -> None:
        """Take the lock; raises as `Lock.acquire`, also for an output around or inside this one, and for the ledger."""
        with ExitStack() as held:
            self._acquire(self._own, number, has_workers, held)
            if self._of_ledger is not None:
                self._acquire(WriterLock(self._of_ledger, self._name), number, has_workers, held)
            self._check_others()
            self._held = held.pop_all()

    @property
    def number(self) -> int:
        """Fencing number; 0 where the lock is not held."""
        return self._own.number

    @property
    def taken_from(self) -> Holder | None:
        """Dead holder that had the lock before."""
        return self._own.taken_from

    def holder(self) -> Holder | None:
        """Return the holder at once; see `Lock.holder`."""
        return self._own.holder()

    def guard(self) -> Guard:
        """Return the proof of the lock for tasks."""
        return self._own.guard()

    def reach(self) -> Reach:
        """Return the proof that a worker reads and writes the same store as this process."""
        lock = self._own
        folder, key = (None, lock.key) if isinstance(lock, ObjectLock) else (lock.path.parent, lock.path.name)
        return Reach(self.guard(), self._store, key, folder, self._name)

    def check(self) -> None:
        """Raise OutputInUseError where the lock is gone."""
        self._own.check()

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        self._held.close()

    def _acquire(self, lock: WriterLock | ObjectLock, number: int, has_workers: bool, held: ExitStack) -> None:
        try:
            lock.acquire(number, has_workers=has_workers)
        except DestinationError:
            raise
        except OSError as error:
            what = f"the ledger {lock.path.parent}" if isinstance(lock, WriterLock) else f"the store of {self._name}"
            reason = f"{what} cannot be written: {error.strerror or error}"
            remedy = "mend that, or choose another place for it, or for the output"
            raise DestinationError(error.errno, f"{reason}; {remedy}", error.filename) from error
        if isinstance(lock, WriterLock) and self._of_ledger is not None:
            # This folder holds nothing but the lock, also where a run that has died has made it.
            held.callback(remove_empty_folder, lock.path.parent)
        held.callback(lock.release)
        if isinstance(lock, WriterLock):
            remove_leftovers(lock.path.parent)

    def _check_others(self) -> None:
        """Raise OutputInUseError where a run writes an output around or inside this one."""
        others = self._other_objects() if self._folder is None else self._other_files(self._folder)
        for lock, where in others:
            holder = None
            # A file of another program may have the name of a lock.
            with suppress(DestinationError):
                holder = lock.wait_for_holder()
            if holder is not None:
                raise OutputInUseError(
                    f"the output {self._name} lies around or inside {where}, which is being written by process "
                    f"{holder.process} on {holder.host}; let it end, or choose another destination"
                )

    def _other_files(self, folder: Path) -> Iterator[tuple[Lock, str]]:
        own = self._own.path if isinstance(self._own, WriterLock) else None
        around = (
            folder_beside(root, output.relative_to(root)) / NAME
            for output in (folder, *folder.parents)
            for root in (output, *output.parents)
            if root.name
        )
        for path in (*around, *_locks_inside(folder)):
            if path != own and path.is_file():
                yield WriterLock(path.parent, str(path.parent)), str(path.parent)

    def _other_objects(self) -> Iterator[tuple[Lock, str]]:
        parts = self._group.split("/") if self._group else []
        around = ["/".join(parts[:count]) for count in range(len(parts))]
        for group in (*around, *self._groups_inside()):
            yield ObjectLock(self._store, group, group), f"the group {group!r} of {self._store}"

    def _groups_inside(self) -> Iterator[str]:
        if is_unopened_zip(self._store):
            return iter(())

        prefix = f"{self._group}/" if self._group else ""

        async def keys() -> list[str]:
            return [key async for key in self._store.list_prefix(prefix) if key.endswith(f"/{OBJECT_NAME}")]

        return (key.removesuffix(f"/{OBJECT_NAME}") for key in sync(keys()) if key != f"{prefix}{OBJECT_NAME}")


def _locks_inside(folder: Path) -> Iterator[Path]:
    """Iterate over the locks of outputs below a folder; an array contains none."""
    beside = (folder_beside(root, folder.relative_to(root)) for root in (folder, *folder.parents) if root.name)
    for place in (folder, *beside):
        for parent, folders, names in os.walk(place):
            if ".zarray" in names:
                folders.clear()
            elif "zarr.json" in names and "c" in folders:
                folders.remove("c")
            if NAME in names and LEDGER_SUFFIX in parent:
                yield Path(parent, NAME)
