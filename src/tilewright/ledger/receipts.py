"""What a finished write reports: small, and enough to add up what a run did and where its time went."""

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
    """Seconds that one thread spent in each stage; sums over threads exceed the wall clock.

    Parameters
    ----------
    read, model, assemble, encode, put : float
        Reading the source; the model; placing pieces; the codecs; storing.
    """

    read: float = 0.0
    model: float = 0.0
    assemble: float = 0.0
    encode: float = 0.0
    put: float = 0.0

    def add(self, other: "StageSeconds") -> None:
        """Add those of another thread or unit."""
        # Thousands of times a second: no loop over the fields.
        self.read += other.read
        self.model += other.model
        self.assemble += other.assemble
        self.encode += other.encode
        self.put += other.put


@dataclass(frozen=True, slots=True)
class UnitReceipt:
    """One unit is stored.

    Parameters
    ----------
    unit : int
        Which one.
    object_count : int
        Its stored objects.
    stored_nbytes : int
        Their bytes, as encoded.
    digest : int
        Their `UnitDigest`.
    seconds : StageSeconds
        Where the time went.
    peak_memory_nbytes : int
        The largest resident memory so far of the process that wrote it.
    lost_count : int
        Predicted elements, since the last receipt of that process, that the data type of the output could not hold.
    missing : frozenset of int
        Stored objects of the source, since the last receipt of that process, that are not there: digests of their keys.
    process : str
        The process that wrote it, as `process_name` has it.
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


def peak_memory_nbytes() -> int:
    """Return the largest resident memory that this process ever had."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On Linux, what getrusage says starts from the memory of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def process_name() -> str:
    """Return what tells this process from others, also from those of other hosts."""
    return f"{os.getpid()} on {_HOST}"
