"""A receipt reports one stored unit: its objects, its times, and the memory of its process."""

import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil

if sys.platform == "darwin":
    import resource

_HOST = socket.gethostname()


@dataclass(slots=True)
class StageSeconds:
    """Seconds of one thread: read the source, run the model, assemble tiles, encode, put objects into the store.

    Sums over several threads exceed the wall clock.
    """

    read: float = 0.0
    model: float = 0.0
    assemble: float = 0.0
    encode: float = 0.0
    put: float = 0.0

    def add(self, other: "StageSeconds") -> None:
        """Add the seconds of another thread or unit."""
        # Called thousands of times a second: a loop over the fields is slower.
        self.read += other.read
        self.model += other.model
        self.assemble += other.assemble
        self.encode += other.encode
        self.put += other.put


@dataclass(frozen=True, slots=True)
class UnitReceipt:
    """Report on one stored unit.

    Parameters
    ----------
    unit, object_count, stored_nbytes, digest, array : int
        As in `Record`.
    extremes : bytes
        As in `Record`, but only of the channels that the unit has.
    seconds : StageSeconds
        Seconds per stage.
    peak_memory_nbytes : int
        Largest resident memory of the writing process so far, in bytes.
    lost_count : int
        Predicted elements that the output data type cannot hold, since the last receipt of the process.
    missing : frozenset of int
        Key digests of missing stored objects of the source, since the last receipt of the process.
    process : str
        `process_name` of the writing process.
    """

    unit: int
    object_count: int
    stored_nbytes: int
    digest: int = 0
    seconds: StageSeconds = field(default_factory=StageSeconds)
    peak_memory_nbytes: int = 0
    lost_count: int = 0
    missing: frozenset[int] = frozenset()
    process: str = ""
    array: int = 0
    extremes: bytes = b""


def peak_memory_nbytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On Linux, getrusage also counts the memory of the parent process.
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def process_name() -> str:
    """Return a name of this process that is unique across hosts."""
    return f"{os.getpid()} on {_HOST}"
