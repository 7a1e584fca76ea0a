"""At most one process holds a lock, and one that is dead keeps no other from it for long.

The lock is a file that names its holder. On the same machine the process itself is looked for; the holder on another
machine shows that it lives by touching the file again and again.
"""

import errno
import os
import re
import threading
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol

from tilewright.errors import OutputInUseError
from tilewright.locks.guard import FileGuard, lost
from tilewright.locks.holder import Holder
from tilewright.stores.patience import naming
from tilewright.stores.put import write_file
from tilewright.stores.removal import remove_empty_folder, remove_file, replace_file

BEAT_SECONDS = 5.0
"""How often a holder touches its file."""
DEAD_SECONDS = 30.0
"""How long the file of a holder on another machine must stay untouched until it counts as dead."""
_LOOK_SECONDS = 1.0
NAME = "lock"
"""The name of a lock in its folder."""
_ATTEMPTS = 20
_LEFTOVER = re.compile(rf"{NAME}(\.([0-9a-f]{{32}}|unknown))+(\.partial)?|\d{{6}}\.ledger\.[0-9a-f]{{32}}\.partial")
_dead: dict[tuple[str, int, float], int] = {}
"""Holders on other machines that were found dead, and when they had touched their lock last."""


class WriterLock:
    """A lock that is a file, held from `acquire` to `release`.

    Parameters
    ----------
    folder : Path
        The folder of a ledger, where the lock lies.
    output : str
        The output, for messages.
    """

    def __init__(self, folder: Path, output: str) -> None:
        self.path = folder / NAME
        self._output = output
        self._holder: Holder | None = None
        self._guard: FileGuard | None = None
        self._made: list[Path] = []
        self.taken_from: Holder | None = None

    def acquire(self, number: int = 1, *, has_workers: bool = False) -> None:
        """Take the lock.

        Parameters
        ----------
        number : int
            The fencing number; larger where the lock is taken from a holder that is dead.
        has_workers : bool
            Whether tasks in other processes will write.

        Raises
        ------
        OutputInUseError
            If a process that lives holds it. Of one on another machine this is known after at most `DEAD_SECONDS`.
        DestinationError
            If a file of others has its name.
        """
        self._made = [folder for folder in self.path.parents if not folder.exists()]
        holder = Holder.me(number, has_workers=has_workers)
        try:
            with naming(self.path):
                found = _take(self.path, holder)
        except BaseException:
            self.release()
            raise
        if isinstance(found, Holder):
            raise OutputInUseError(
                f"the output {self._output} is being written by process {found.process} on {found.host}; let it end, "
                f"or end it. Its lock is {self.path}"
            )
        self.taken_from, self._holder = found
        self._guard = FileGuard(self.path, self._holder.to_bytes())
        beating.add(self)

    def holder(self) -> Holder | None:
        """Return the holder, as far as can be told at once; None where there is none."""
        found = Holder.read(self.path)
        return None if found is None or (found.is_here and not found.is_running) else found

    def wait_for_holder(self) -> Holder | None:
        """Return the holder where it lives; of one on another machine this is known after at most `DEAD_SECONDS`."""
        found = Holder.read(self.path)
        return None if found is None or _is_dead(self.path, found) else found

    @property
    def number(self) -> int:
        """The fencing number; 0 where the lock is not held."""
        return 0 if self._holder is None else self._holder.number

    def guard(self) -> FileGuard:
        """Return what tells tasks whether the lock is still held.

        Raises
        ------
        OutputInUseError
            If it is not held.
        """
        if self._guard is None:
            raise lost(self.path, self._output)
        return self._guard

    def check(self) -> None:
        """Raise OutputInUseError where the lock is gone: it was removed, or another process has taken it."""
        self.guard().check()

    def release(self) -> None:
        """Give the lock back; a second call does nothing. A lock of another holder is left alone."""
        beating.discard(self)
        holder, self._holder, self._guard = self._holder, None, None
        if holder is not None:
            with suppress(OSError):
                _give_back(self.path, holder)
        for folder in self._made:
            # Empty where nothing was begun.
            remove_empty_folder(folder)

    def beat(self) -> None:
        """Show that the holder lives; a lock of another holder is left alone."""
        holder = self._holder
        with suppress(OSError):
            if holder is not None and Holder.read(self.path) == holder:
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
        # No new file, for which a full disk has no room.
        os.link(path, right)
    except (FileExistsError, FileNotFoundError):
        # Another process holds this one for dead, and takes over; or the lock is gone.
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


def _take(path: Path, holder: Holder) -> "Holder | tuple[Holder | None, Holder]":
    """Make a file that names its holder, and return the dead holder before, and this one; or return who lives.

    The file of the dead may be replaced by one process alone: the one that holds another file, of that name and the
    dead one's. So no process takes away what another one has just taken.
    """
    while not _create_whole(path, holder):
        found = Holder.read(path)
        if found is None:
            continue
        if not _is_dead(path, found):
            if Holder.read(path) == found:
                return found
            # It has ended while one looked.
            continue
        # A fencing number grows also where nothing was recorded under the last one.
        holder = replace(holder, number=max(holder.number, found.number + 1))
        right = path.with_name(f"{path.name}.{found.token}")
        faster = _take(right, holder)
        if isinstance(faster, Holder):
            return faster
        # As it lies in the file that becomes the lock.
        holder = faster[1]
        try:
            if Holder.read(path) == found:
                replace_file(right, path)
                return found, holder
        finally:
            remove_file(right)
    return None, holder


def _is_dead(path: Path, found: Holder) -> bool:
    if found.is_here:
        return not found.is_running
    who = (found.machine, found.process, found.process_started)
    # Clocks of machines differ: what counts is whether the file changes while one looks.
    seen, until = _touched(path), monotonic() + DEAD_SECONDS
    if found.machine and (seen or 0) <= _dead.get(who, -1) + BEAT_SECONDS * 1e9:
        return True
    while monotonic() < until:
        sleep(_LOOK_SECONDS)
        if _touched(path) != seen:
            return False
    # It may have held many locks, and has touched none of them since.
    _dead[who] = seen or 0
    return True


def _create_whole(path: Path, holder: Holder) -> bool:
    """Make a file with all that is in it at once, or return False where it is there."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    content = holder.to_bytes()
    _write_where_folders_go(aside, content)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        # Taken for a leftover, by a process that has just ended or begun; the caller looks again.
        if aside.exists() or not path.parent.is_dir():
            raise
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        # A file system without links: there it may be seen half-written.
        try:
            with path.open("xb") as opened:
                opened.write(content)
        except FileExistsError:
            return False
    finally:
        remove_file(aside)
    return True


def _write_where_folders_go(path: Path, content: bytes) -> None:
    """Write a file, also where a process that gives its lock back removes the folders in the same moment."""
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


class BeatingLock(Protocol):
    """A lock whose holder must show that it lives."""

    def beat(self) -> None:
        """Show that the holder lives."""


class _Beating:
    """The locks that this process holds; one thread touches them all."""

    def __init__(self) -> None:
        self._locks: set[BeatingLock] = set()
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()

    def add(self, lock: BeatingLock) -> None:
        with self._guard:
            self._locks.add(lock)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="tilewright-locks", daemon=True)
                self._thread.start()

    def discard(self, lock: BeatingLock) -> None:
        with self._guard:
            self._locks.discard(lock)

    def _beat(self) -> None:
        while True:
            sleep(BEAT_SECONDS)
            with self._guard:
                if not self._locks:
                    self._thread = None
                    return
                locks = list(self._locks)
            for lock in locks:
                lock.beat()


beating = _Beating()
