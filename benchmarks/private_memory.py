"""The peak of private resident memory is what the kernel has seen, above what was there before the first write.

Of this process the kernel keeps the peak itself, so that nothing runs beside what is measured. Pages that are shared
count in it too, which is why all pages of the volume must be resident before. What a writer keeps from one time to the
next counts each time; memory that it has freed, and that only the allocator keeps, is given back and does not count.

Of processes that are started meanwhile all that is private counts, with their interpreters. They are looked at every
few milliseconds, since they may be gone at the end; their peak and that of this process are added.
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil

STATUS = Path("/proc/self/status")
INTERVAL_SECONDS = 0.02


def _nbytes(status: Path, field: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _give_back_freed_memory() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


class PrivateMemory:
    """Is made when all is prepared; `peak_nbytes` is that of the last time that something was watched."""

    def __init__(self, *, with_children: bool) -> None:
        self.peak_nbytes = 0
        self._with_children = with_children
        _give_back_freed_memory()
        self._prepared_nbytes = _nbytes(STATUS, "VmRSS")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Measure what runs in this context."""
        _give_back_freed_memory()
        # Sets the peak to what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        children_nbytes = [0]
        finished = Event()
        sampler = Thread(target=_sample_children, args=(children_nbytes, finished), daemon=True)
        if self._with_children:
            sampler.start()
        try:
            yield
        finally:
            own_nbytes = _nbytes(STATUS, "VmHWM") - self._prepared_nbytes
            finished.set()
            if self._with_children:
                sampler.join()
        self.peak_nbytes = max(0, own_nbytes) + max(children_nbytes)


def _sample_children(nbytes: list[int], finished: Event) -> None:
    """Append what all children together have, until it is said to be finished."""
    process = psutil.Process()
    while not finished.wait(INTERVAL_SECONDS):
        resident = 0
        for child in process.children(recursive=True):
            try:
                resident += _nbytes(Path(f"/proc/{child.pid}/status"), "RssAnon")
            except (OSError, ValueError):
                # It has ended in the meantime.
                continue
        nbytes.append(resident)
