"""Holder of a lock: a process of a machine, which another process can look up."""

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
"""First bytes of every lock: they tell a torn lock from the file of another program."""


@cache
def this_machine() -> str:
    """Return the identity of this boot of this machine, and of this container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        # A process of another container is invisible here.
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


@dataclass(frozen=True)
class Holder:
    """The holder of a lock.

    Parameters
    ----------
    host, machine : str
        Name of the machine, and its identity from `this_machine`.
    process : int
        Process number.
    process_started, since : float
        Start of the process, and of the lock, in seconds since 1970.
    token : str
        Identity of this lock among all locks of the process.
    number : int
        Fencing number, larger than that of the holder before.
    has_workers : bool
        Whether tasks in other processes write for it; they may outlive it.
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
        """Return the holder in a lock; an unknown one where it is torn; raise DestinationError where it is no lock."""
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
                f"{where} has the name of a lock, but is none of tilewright; it is left as it is: move it away, or "
                "choose another destination"
            )
        # A file system without links shows a lock half-written; a writer that died leaves it so.
        return cls("an unknown machine", "", 0, 0.0, 0.0, "unknown")

    @classmethod
    def read(cls, path: Path) -> "Holder | None":
        """Return the holder in a file, or None where there is no file; raises as `from_bytes`."""
        try:
            return cls.from_bytes(path.read_bytes(), path)
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            raise DestinationError(f"{path} is a folder, but a lock must go there; move the folder away") from None

    def to_bytes(self) -> bytes:
        """Return the content of the lock."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_here(self) -> bool:
        """Whether the process is of this machine."""
        return self.machine == this_machine()

    @property
    def is_running(self) -> bool:
        """Whether the process runs on this machine."""
        try:
            process = psutil.Process(self.process)
            # A process number is used again; start times differ by rounding.
            is_same = bool(abs(process.create_time() - self.process_started) < 1.0)
            return is_same and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, as far as this machine can tell."""
        return self.is_here and not self.is_running

    @property
    def may_still_write(self) -> bool:
        """Whether its tasks may still write although it counts as dead."""
        return self.has_workers or not self.has_ended

    @property
    def _is_valid(self) -> bool:
        return (
            all(isinstance(text, str) for text in (self.host, self.machine, self.token))
            and _TOKEN.fullmatch(self.token) is not None
            and all(type(time) in (int, float) and 0 <= time < 2**40 for time in (self.process_started, self.since))
            and all(type(number) is int and 0 <= number < 2**31 for number in (self.process, self.number))
            and self.process > 0
            and isinstance(self.has_workers, bool)
        )
