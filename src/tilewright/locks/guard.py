"""Proof of a lock for a task: a task that outlives its run writes nothing more."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tilewright.errors import OutputInUseError


class Guard(Protocol):
    """Proof of the lock that travels with each task."""

    def check(self) -> None:
        """Raise OutputInUseError where the run does not hold its lock any more."""


def lost(lock: object, output: str = "the output") -> OutputInUseError:
    """Return the error of a run whose lock is gone."""
    return OutputInUseError(
        f"the lock {lock} of {output} was removed, or taken by another run, since this run had not touched it for too "
        "long; nothing more is written. What is written is complete, the rest is missing"
    )


@dataclass
class FileGuard:
    """Proof that a lock file still has the content that its holder wrote."""

    path: Path
    content: bytes
    _proven: tuple[int, int, int] | None = field(default=None, compare=False, repr=False)

    def check(self) -> None:
        """Raise OutputInUseError where the lock is gone, or of another holder."""
        try:
            # Called for each object: one system call where the file is the one that was read last.
            status = os.stat(self.path)  # noqa: PTH116
            found_as = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            if found_as == self._proven:
                return
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = os.read(descriptor, len(self.content) + 1)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            raise lost(self.path) from None
        if found != self.content:
            raise lost(self.path)
        self._proven = found_as
