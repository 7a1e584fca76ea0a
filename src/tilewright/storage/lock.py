"""At most one process writes an output, and one that is dead keeps nobody from it for long.

The lock is a file that says who holds it. On the same machine the process itself is looked for; the holder on another
machine shows that it lives by touching the file again and again.
"""

import errno
import json
import os
import socket
import threading
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import psutil

from tilewright.errors import OutputInUseError
from tilewright.storage.objects import naming, write_file

BEAT_SECONDS = 5.0
"""How often a holder touches its file."""
DEAD_SECONDS = 30.0
"""How long the file of a holder on another machine must stay untouched until it counts as dead."""
GUARD_SECONDS = 0.1
"""How long a task relies on its last look at the lock."""
_LOOK_SECONDS = 1.0
_NAME = "lock"
_ATTEMPTS = 20
_dead: dict[tuple[str, int, float], int] = {}
"""Holders on other machines that were found dead, and when they had touched their lock last."""


@cache
def _this_machine() -> str:
    """Return what tells this machine, since it was started, and this container, from all others."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        # Processes of another one cannot be seen from here.
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Parameters
    ----------
    host, machine : str
        The name of the machine, and what tells it, and a container on it, from all others.
    process : int
        The process on it.
    process_started, since : float
        When the process was started, and when it took the lock, in seconds since 1970.
    token : str
        What tells this lock from any other of the same process.
    """

    host: str
    machine: str
    process: int
    process_started: float
    since: float
    token: str

    @classmethod
    def me(cls) -> "Holder":
        """Return this process as the holder of a new lock."""
        started = psutil.Process().create_time()
        return cls(socket.gethostname(), _this_machine(), os.getpid(), started, time(), uuid.uuid4().hex)

    @classmethod
    def read(cls, path: Path) -> "Holder | None":
        """Return who holds the lock, or None where nobody does."""
        try:
            holder = cls(**json.loads(path.read_bytes()))
            is_whole = type(holder.process) is int and holder.process > 0 and str(holder.token).isalnum()
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            is_whole = False
        # Else it is being written at this moment, on a file system without links.
        return holder if is_whole else cls("an unknown machine", "", 0, 0.0, 0.0, "unknown")

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.machine == _this_machine()

    @property
    def is_running(self) -> bool:
        """Whether it is a process that runs on this machine."""
        try:
            process = psutil.Process(self.process)
            # Numbers of processes are used again; times of their start differ by rounding.
            is_same = bool(abs(process.create_time() - self.process_started) < 1.0)
            return is_same and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


@dataclass
class LockGuard:
    """What tells a task, in whatever process, whether the run that it belongs to still holds the lock.

    A task outlives its client where that is killed, and would write over what the next run has written.

    Parameters
    ----------
    path : Path
        The lock.
    token : str
        That of the run.
    """

    path: Path
    token: str
    _seen: float = float("-inf")

    def check(self) -> None:
        """Raise InterruptedError where the run has ended; looks ten times a second at most."""
        if monotonic() - self._seen < GUARD_SECONDS:
            return
        holder = Holder.read(self.path)
        if holder is None or holder.token != self.token:
            raise InterruptedError(f"nothing more is written: the run that held {self.path} has ended")
        self._seen = monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # The clocks of processes differ.
        return {"path": self.path, "token": self.token}


class WriterLock:
    """The right to write one output, held from `acquire` to `release`.

    Parameters
    ----------
    folder : Path
        The folder of the ledger, where the lock lies.
    output : str
        The output, for messages.
    """

    def __init__(self, folder: Path, output: str) -> None:
        self.path = folder / _NAME
        self._output = output
        self._holder: Holder | None = None
        self._is_lost = False
        self._made: list[Path] = []

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        OutputInUseError
            If a process that lives holds it. Of one on another machine this is known after at most `DEAD_SECONDS`.
        """
        self._made = [folder for folder in self.path.parents if not folder.exists()]
        holder = Holder.me()
        try:
            with naming(self.path):
                found = _take(self.path, holder)
        except BaseException:
            self.release()
            raise
        if found is not None:
            raise OutputInUseError(
                f"the output {self._output} is being written by process {found.process} on {found.host}; let it end, "
                f"or end it. Its lock is {self.path}"
            )
        self._holder = holder
        _beating.add(self)

    def holder(self) -> Holder | None:
        """Return who holds the lock, as far as can be told at once; None where nobody does."""
        found = Holder.read(self.path)
        return None if found is None or (found.is_here and not found.is_running) else found

    def guard(self) -> LockGuard | None:
        """Return what tells tasks whether the lock is still held; None where it is not."""
        return None if self._holder is None else LockGuard(self.path, self._holder.token)

    def check(self) -> None:
        """Raise OutputInUseError where the lock is gone: another process believed that this one was dead."""
        if self._is_lost:
            raise OutputInUseError(
                f"the lock {self.path} of the output {self._output} was taken away from this process, which had not "
                "touched it for too long; what is written is complete, the rest is missing"
            )

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        _beating.discard(self)
        if self._holder is not None and Holder.read(self.path) == self._holder:
            self.path.unlink(missing_ok=True)
        self._holder = None
        for folder in self._made:
            with suppress(OSError):
                # Empty where nothing was begun.
                folder.rmdir()

    def beat(self) -> None:
        """Show that the holder lives; a lock that is somebody else's is left alone."""
        holder = self._holder
        with suppress(OSError):
            if holder is not None and Holder.read(self.path) != holder:
                self._is_lost = self._holder is holder
            elif holder is not None:
                os.utime(self.path)


def _take(path: Path, holder: Holder) -> Holder | None:
    """Make a file that says who holds it, or return who does.

    The file of the dead may be replaced by one process alone: the one that holds another file, of that name and the
    dead one's. So nobody takes away what somebody else has just taken.
    """
    while not _create_whole(path, holder):
        found = Holder.read(path)
        if found is None:
            continue
        if not _is_dead(path, found):
            return found
        right = path.with_name(f"{path.name}.{found.token}")
        faster = _take(right, holder)
        if faster is not None:
            return faster
        try:
            if Holder.read(path) == found:
                right.replace(path)
                return None
        finally:
            right.unlink(missing_ok=True)
    return None


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
    content = json.dumps(asdict(holder)).encode()
    _write_where_folders_go(aside, content)
    try:
        os.link(aside, path)
    except FileExistsError:
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
        aside.unlink(missing_ok=True)
    return True


def _write_where_folders_go(path: Path, content: bytes) -> None:
    """Write a file, also where whoever has just given a lock back takes its folders away in the same moment."""
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
    """The locks that this process holds; one thread touches them all."""

    def __init__(self) -> None:
        self._locks: set[WriterLock] = set()
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()

    def add(self, lock: WriterLock) -> None:
        with self._guard:
            self._locks.add(lock)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="tilewright-locks", daemon=True)
                self._thread.start()

    def discard(self, lock: WriterLock) -> None:
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


_beating = _Beating()
