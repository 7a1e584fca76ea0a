"""Lock file of an output: at most one process holds it, and a dead process keeps no other from it for long.

On the same machine the holder is looked up by its process number. A holder on another machine touches the file again
and again to show that it runs.
"""

import errno
import os
import re
import threading
import uuid
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from time import monotonic, sleep

from tilewright.errors import OutputInUseError
from tilewright.locks.guard import FileGuard, Guard, lost
from tilewright.locks.holder import Holder
from tilewright.stores.patience import naming
from tilewright.stores.put import write_file
from tilewright.stores.removal import remove_empty_folder, remove_file, replace_file

NAME = "lock"
"""Name of a lock in its folder."""
_ATTEMPTS = 20
_LEFTOVER = re.compile(rf"{NAME}(\.([0-9a-f]{{32}}|unknown))+(\.partial)?|\d{{6}}\.ledger\.[0-9a-f]{{32}}\.partial")
_dead: dict[tuple[str, int, float], int] = {}
"""Dead holders on other machines, with the last touch of their lock."""


@dataclass(frozen=True)
class Times:
    """Seconds between two touches by a holder, without one until it counts as dead elsewhere, and between two looks."""

    beat: float = 5.0
    dead: float = 30.0
    look: float = 1.0


TIMES = Times()


class Lock(ABC):
    """Lock of an output, held from `acquire` to `release`; ``taken_from`` is the dead holder before."""

    def __init__(self, output: str, place: Path | str, times: Times) -> None:
        self._output = output
        self._place = place
        self._times = times
        self._beating = _beating(times.beat)
        self._holder: Holder | None = None
        self.taken_from: Holder | None = None

    @property
    def number(self) -> int:
        """The fencing number; 0 where the lock is not held."""
        return 0 if self._holder is None else self._holder.number

    def holder(self) -> Holder | None:
        """Return the holder at once, without a wait for one on another machine; None where there is none."""
        found = self._read_holder()
        return None if found is None or found.has_ended else found

    def check(self) -> None:
        """Raise OutputInUseError where the lock is gone: removed, or taken by another process."""
        self.guard().check()

    def acquire(self, number: int = 1, *, has_workers: bool = False) -> None:
        """Take the lock.

        Parameters
        ----------
        number : int
            Fencing number; it becomes larger where a dead holder had the lock.
        has_workers : bool
            Whether tasks in other processes will write.

        Raises
        ------
        OutputInUseError
            If a running process holds it. For one on another machine that takes `Times.dead` at most.
        DestinationError
            If something that is no lock has its name.
        """
        self.taken_from, self._holder = self._take(Holder.me(number, has_workers=has_workers))
        self._beating.add(self)

    def release(self) -> None:
        """Give the lock back; a second call does nothing. The lock of another holder stays."""
        self._beating.discard(self)
        holder, self._holder = self._holder, None
        if holder is not None:
            with suppress(OSError):
                self._give_back(holder)

    def beat(self) -> None:
        """Show that the holder runs; the lock of another holder stays as it is."""
        holder = self._holder
        if holder is not None:
            with suppress(OSError):
                self._touch(holder)

    @abstractmethod
    def wait_for_holder(self) -> Holder | None:
        """Return the running holder; for one on another machine that takes `Times.dead` at most."""

    @abstractmethod
    def guard(self) -> Guard:
        """Return the proof of the lock for tasks, or raise OutputInUseError where the lock is not held."""

    @abstractmethod
    def _read_holder(self) -> Holder | None: ...

    @abstractmethod
    def _take(self, holder: Holder) -> tuple[Holder | None, Holder]:
        """Take the lock; return the dead holder before, and this one with its final number."""

    @abstractmethod
    def _give_back(self, holder: Holder) -> None: ...

    @abstractmethod
    def _touch(self, holder: Holder) -> None: ...

    def _in_use(self, holder: Holder) -> OutputInUseError:
        return OutputInUseError(
            f"the output {self._output} is being written by process {holder.process} on {holder.host}; let it end, or "
            f"end it. Its lock is {self._place}"
        )


class WriterLock(Lock):
    """Lock that is a file in a folder, which is made where it is missing."""

    def __init__(self, folder: Path, output: str, times: Times = TIMES) -> None:
        self.path = folder / NAME
        super().__init__(output, self.path, times)
        self._guard: FileGuard | None = None
        self._made: list[Path] = []

    def wait_for_holder(self) -> Holder | None:
        """Return the running holder."""
        found = self._read_holder()
        return None if found is None or _is_dead(self.path, found, self._times) else found

    def guard(self) -> FileGuard:
        """Return the proof of the lock for tasks."""
        if self._holder is None:
            raise lost(self.path, self._output)
        if self._guard is None:
            self._guard = FileGuard(self.path, self._holder.to_bytes())
        return self._guard

    def release(self) -> None:
        """Give the lock back, and remove the empty folders that were made for it."""
        super().release()
        self._guard = None
        for folder in self._made:
            remove_empty_folder(folder)

    def _read_holder(self) -> Holder | None:
        return Holder.read(self.path)

    def _take(self, holder: Holder) -> tuple[Holder | None, Holder]:
        self._made = [folder for folder in self.path.parents if not folder.exists()]
        try:
            with naming(self.path):
                found = _take(self.path, holder, self._times)
        except BaseException:
            self.release()
            raise
        if isinstance(found, Holder):
            raise self._in_use(found)
        return found

    def _give_back(self, holder: Holder) -> None:
        _give_back(self.path, holder)

    def _touch(self, holder: Holder) -> None:
        if Holder.read(self.path) == holder:
            os.utime(self.path)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left of locks and ledgers in a folder, whose lock this process holds."""
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):  # noqa: PTH208
            if _LEFTOVER.fullmatch(name):
                remove_file(folder / name)


def _give_back(path: Path, holder: Holder) -> None:
    """Remove a lock while no other process may take it over."""
    right = path.with_name(f"{path.name}.{holder.token}")
    try:
        # A link: a full disk has no room for a new file.
        os.link(path, right)
    except (FileExistsError, FileNotFoundError):
        # The lock is gone, or a process that counts this one as dead takes over.
        return
    except OSError:
        if Holder.read(path) == holder:
            remove_file(path)
        return
    try:
        if Holder.read(right) == holder:
            remove_file(path)
    finally:
        remove_file(right)


def _take(path: Path, holder: Holder, times: Times) -> "Holder | tuple[Holder | None, Holder]":
    """Make a lock; return the dead holder before and the new one, or the running holder where there is one.

    The lock of a dead holder is replaced by one process alone: the one that holds a second lock, named after the dead
    one's token. So no process takes away what another one has just taken.
    """
    while not _create_whole(path, holder):
        found = Holder.read(path)
        if found is None:
            continue
        if not _is_dead(path, found, times):
            if Holder.read(path) == found:
                return found
            # The holder has ended during the look.
            continue
        # A fencing number grows also where nothing was recorded under the last one.
        holder = replace(holder, number=max(holder.number, found.number + 1))
        right = path.with_name(f"{path.name}.{found.token}")
        faster = _take(right, holder, times)
        if isinstance(faster, Holder):
            return faster
        # With the number in the file that becomes the lock.
        holder = faster[1]
        try:
            if Holder.read(path) == found:
                replace_file(right, path)
                return found, holder
        finally:
            remove_file(right)
    return None, holder


def _is_dead(path: Path, found: Holder, times: Times) -> bool:
    if found.is_here:
        return not found.is_running
    process = (found.machine, found.process, found.process_started)
    # Clocks of machines differ: only a change of the file during the look counts.
    seen, until = _touched(path), monotonic() + times.dead
    if found.machine and (seen or 0) <= _dead.get(process, -1) + times.beat * 1e9:
        return True
    while monotonic() < until:
        sleep(times.look)
        if _touched(path) != seen:
            return False
    # One wait for all locks of a process that has touched none since.
    _dead[process] = seen or 0
    return True


def _create_whole(path: Path, holder: Holder) -> bool:
    """Make a lock with its whole content at once, or return False where there is one."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    content = holder.to_bytes()
    _write_where_folders_go(aside, content)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        # Removed as a leftover by a process that has just ended or begun; the caller tries again.
        if aside.exists() or not path.parent.is_dir():
            raise
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        # A file system without links: other processes may see it half-written.
        try:
            with path.open("xb") as opened:
                opened.write(content)
        except FileExistsError:
            return False
    finally:
        remove_file(aside)
    return True


def _write_where_folders_go(path: Path, content: bytes) -> None:
    """Write a file, also where a process that gives its lock back removes the folders at the same moment."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            write_file(path, [content])
        except (FileExistsError, FileNotFoundError):
            if attempt == _ATTEMPTS:
                raise
        else:
            return


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


class _Beating:
    """Thread that touches all locks of this process."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._locks: set[Lock] = set()
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()

    def add(self, lock: Lock) -> None:
        with self._guard:
            self._locks.add(lock)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="tilewright-locks", daemon=True)
                self._thread.start()

    def discard(self, lock: Lock) -> None:
        with self._guard:
            self._locks.discard(lock)

    def _beat(self) -> None:
        while True:
            sleep(self._seconds)
            with self._guard:
                if not self._locks:
                    self._thread = None
                    return
                locks = list(self._locks)
            for lock in locks:
                lock.beat()


_beating = cache(_Beating)
