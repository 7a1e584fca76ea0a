"""Logs of what happened to objects, which several processes write at once, also ones that are killed."""

import os
from collections import Counter
from pathlib import Path

LINE_NBYTES = 64
"""Bytes of a line of the logs, so that their size tells how many there are."""


def append_line(path: Path, text: str) -> None:
    """Add a line to a log, whole even where several processes do so at once, or are killed."""
    line = f"{text} {os.getpid()}".ljust(LINE_NBYTES - 1) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def line_count(path: Path) -> int:
    return path.stat().st_size // LINE_NBYTES if path.exists() else 0


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def first_words(path: Path) -> Counter[str]:
    """How often each line of a log begins with what."""
    return Counter(line.split()[0] for line in lines_of(path))
