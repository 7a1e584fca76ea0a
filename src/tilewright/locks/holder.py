"""The holder of a lock is a process of a machine, and says so in a form that another process can check."""

import json
import os
import re
import socket
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from time import time

import psutil

from tilewright.errors import DestinationError

_TOKEN = re.compile(r"[0-9A-Za-z]{1,64}")
_BEGINNING = b'{"host": '
"""The first bytes of every lock, so that one that was torn is told from a file of others."""


@cache
def this_machine() -> str:
    """Return what tells this machine, since it was started, and this container, from all others."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        # Processes of another one cannot be seen from here.
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


@dataclass(frozen=True)
class Holder:
    """The holder of a lock.

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
    number : int
        The fencing number: each holder of an output has a larger one than the holder before it.
    has_workers : bool
        Whether tasks in other processes write for it, which may outlive it.
    """

    host: str
    machine: str
    process: int
    process_started: float
    since: float
    token: str
    number: int = 0
    has_workers: bool = False

    @classmethod
    def me(cls, number: int = 0, *, has_workers: bool = False) -> "Holder":
        """Return this process as the holder of a new lock."""
        started = psutil.Process().create_time()
        return cls(
            socket.gethostname(), this_machine(), os.getpid(), started, time(), uuid.uuid4().hex, number, has_workers
        )

    @classmethod
    def from_bytes(cls, raw: bytes, where: object) -> "Holder":
        """Return the holder that the content of a lock names; an unknown one where the lock was torn.

        Raises
        ------
        DestinationError
            If the content is no lock, but something of others.
        """
        try:
            holder = cls(**json.loads(raw))
        except (ValueError, TypeError, RecursionError):
            pass
        else:
            if holder._is_valid:
                return holder
        is_torn = raw[: len(_BEGINNING)] == _BEGINNING[: len(raw)] or not raw.strip(b"\0")
        if not is_torn:
            raise DestinationError(
                f"{where} has the name of a lock and is none of tilewright; it is left as it is: move it away, or "
                "choose another destination"
            )
        # It is being written at this moment, on a file system without links, or its writer died.
        return cls("an unknown machine", "", 0, 0.0, 0.0, "unknown")

    @classmethod
    def read(cls, path: Path) -> "Holder | None":
        """Return the holder that a file names, or None where there is no file.

        Raises
        ------
        DestinationError
            If the file is no lock, but something of others.
        """
        try:
            return cls.from_bytes(path.read_bytes(), path)
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            raise DestinationError(f"{path} is a folder, and a lock must go there; move it away") from None

    def to_bytes(self) -> bytes:
        """Return the content of its lock."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.machine == this_machine()

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

    @property
    def may_still_write(self) -> bool:
        """Whether a task of it may write even though it counts as dead."""
        return self.has_workers or not self.is_here or self.is_running

    @property
    def _is_valid(self) -> bool:
        texts = (self.host, self.machine, self.token)
        times = (self.process_started, self.since)
        return (
            all(isinstance(text, str) for text in texts)
            and _TOKEN.fullmatch(self.token) is not None
            and all(type(time) in (int, float) and 0 <= time < 2**40 for time in times)
            and all(type(number) is int and 0 <= number < 2**31 for number in (self.process, self.number))
            and self.process > 0
            and isinstance(self.has_workers, bool)
        )
