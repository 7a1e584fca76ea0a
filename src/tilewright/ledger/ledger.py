"""A unit in the ledger is stored: its record is appended after its objects, and a torn record is ignored.

The ledger is a folder beside the store, with one file per run, named after the fencing number of the run. A file holds
the header twice, each time as one line of text, and then records of one length, which follows from the plan in the
header. The last record of a unit counts. A header with `replaces` ends the earlier files: they are about the output
that was replaced.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from tilewright.errors import DestinationError, OutputInUseError, ResumeError
from tilewright.ledger.header import FAMILY, MAGIC, Header
from tilewright.ledger.receipts import UnitReceipt
from tilewright.ledger.records import Record, Records, Status, record_nbytes
from tilewright.plan import WritePlan
from tilewright.stores.patience import is_fatal, naming
from tilewright.stores.put import write_file
from tilewright.stores.removal import remove_file

_SUFFIX = ".ledger"
_NAME = re.compile(r"\d{6}\.ledger")
_LARGEST_HEADER_NBYTES = 2**24
_BUFFER_NBYTES = 2**21


@dataclass(frozen=True)
class LedgerFile:
    """One existing file of a ledger."""

    path: Path

    @property
    def number(self) -> int:
        """The fencing number of its run."""
        return int(self.path.stem)

    @cached_property
    def _head(self) -> tuple[Header | None, int, bool]:
        """The header, the offset of the records, and whether tilewright wrote the file, even if it is damaged."""
        with self._opened() as opened:
            first = opened.readline(_LARGEST_HEADER_NBYTES)
            header = Header.from_line(first)
            if header is not None:
                return header, 2 * len(first), True
            # A damaged line end joins the two header lines.
            head = first + opened.read(_LARGEST_HEADER_NBYTES)
        for found in re.finditer(re.escape(MAGIC), head):
            end = head.find(b"\n", found.start()) + 1
            header = Header.from_line(head[found.start() : end]) if end else None
            if header is not None:
                return header, end, True
        return None, 0, FAMILY in head

    @property
    def header(self) -> Header | None:
        """Its header; None if both copies are damaged."""
        return self._head[0]

    @property
    def is_ours(self) -> bool:
        """Whether tilewright wrote the file, even if its header is damaged."""
        return self._head[2]

    def records(self) -> Iterator[bytes]:
        """Iterate over the intact records, as stored; a file without a header has none."""
        header, start, _ = self._head
        if header is None:
            return
        with self._opened() as opened:
            opened.seek(start)
            nbytes = record_nbytes(header.plan)
            # The last one may be torn.
            while len(raw := opened.read(nbytes)) == nbytes:
                if Record.from_bytes(raw) is not None:
                    yield raw

    def _opened(self) -> BinaryIO:
        """Open the file without blocking, even if it is a pipe."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ResumeError(
                f"the ledger file {self.path} cannot be read: {error.strerror}; make it readable, or move it away"
            ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ResumeError(f"{self.path} has the name of a ledger file, but is no regular file; move it away")
        return os.fdopen(descriptor, "rb", buffering=_BUFFER_NBYTES)


@dataclass(frozen=True)
class LedgerFolder:
    """The ledger of one output: a folder, which need not exist."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def files(self) -> list[LedgerFile]:
        """Return its files, in the order of the runs."""
        try:
            names = sorted(filter(_NAME.fullmatch, os.listdir(self.path)))  # noqa: PTH208
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            reason = "the ledger is no folder, or lies in none; choose another one"
            raise DestinationError(errno.ENOTDIR, reason, str(self)) from None
        except OSError as error:
            raise ResumeError(f"the ledger {self} cannot be read: {error.strerror}; make it readable") from error
        return [LedgerFile(self.path / name) for name in names]

    def current(self) -> list[LedgerFile]:
        """Return the files about the present output: those from the last replacing run on."""
        files = self.files()
        return files[_first_current(files) :]

    def replaced(self) -> list[LedgerFile]:
        """Return the files about an earlier output, which was or is being replaced."""
        files = self.files()
        return files[: _first_current(files)]

    def header(self) -> Header | None:
        """Return the header of the present output; None if the ledger has no files; ResumeError if it is damaged."""
        files = self.current()
        header = self._header_of(files)
        if files and header is None:
            raise ResumeError(
                f"the ledger {self} is damaged: no file of it has a readable header; write the output anew with "
                "if_exists='overwrite', or move the ledger away"
            )
        return header

    def _header_of(self, files: list[LedgerFile]) -> Header | None:
        """Return the common header of files; None if none is readable."""
        readable = [(file, file.header) for file in files if file.header is not None]
        for file, other in readable[1:]:
            first, header = readable[0]
            if _identity_of(other) != _identity_of(header):
                raise ResumeError(
                    f"the files {first.path} and {file.path} of one ledger are about different outputs; move the file "
                    "of the other output away"
                )
        return readable[0][1] if readable else None

    def records(self) -> Records:
        """Return the last record of each unit of the plan."""
        files = self.current()
        header = self._header_of(files)
        if header is None:
            return Records()
        raw = b"".join(record for file in files for record in file.records())
        return Records(raw, record_nbytes(header.plan)).below(header.plan.unit_count)

    def next_number(self) -> int:
        """Return a fencing number above those of all earlier runs."""
        return max((file.number for file in self.files()), default=0) + 1

    def begin(self, header: Header, number: int, check: Callable[[], None]) -> "Ledger":
        """Create the file of the run with this fencing number, and return it open for appending.

        OutputInUseError is raised if another run has begun with this number, or `check` finds the lock lost.
        """
        file = self.path / f"{number:06d}{_SUFFIX}"
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if file.exists():
            raise OutputInUseError(f"another run has begun {file}; run this one again")
        beginning = header.to_bytes()
        with naming(self.path):
            write_file(file, [beginning], check)
        return Ledger(file, len(beginning), header.plan)

    def remove(self, files: list[LedgerFile], check: Callable[[], None]) -> None:
        """Remove ledger files; files that tilewright did not write stay."""
        for file in files:
            if file.is_ours:
                check()
                remove_file(file.path)

    def inner(self) -> list[str]:
        """Return the names of the ledgers inside this folder: those of the groups of one store."""
        folders = {file.parent for file in self.path.rglob(f"*{_SUFFIX}") if file.is_file()} - {self.path}
        return sorted(str(folder.relative_to(self.path)) for folder in folders)


def _first_current(files: list[LedgerFile]) -> int:
    """Return the index of the file of the last replacing run; 0 without one."""
    replacing = (index for index, file in enumerate(files) if file.header is not None and file.header.replaces)
    return max(replacing, default=0)


def _identity_of(header: Header) -> Header:
    """Return the fields that all headers of one output share: without its place, its past and the memory of a run."""
    return replace(header, output="", replaces="", provenance={}, plan=replace(header.plan, window_nbytes=0))


class Ledger:
    """The ledger file of one run, open for appending after its header; `flush` writes the collected records."""

    def __init__(self, file: Path, header_nbytes: int, plan: WritePlan) -> None:
        self.file = file
        self._header_nbytes = header_nbytes
        self._record_nbytes = record_nbytes(plan)
        self._extremes_nbytes = plan.extremes_nbytes
        self._waiting = bytearray()
        with naming(file):
            self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._nbytes = os.fstat(self._descriptor).st_size
        self._closed = False

    def add_written(self, receipt: UnitReceipt) -> None:
        """Collect the record of a unit whose objects are all stored."""
        unit, count, nbytes = receipt.unit, receipt.object_count, receipt.stored_nbytes
        extremes = receipt.extremes.ljust(self._extremes_nbytes, b"\0")
        self._waiting += Record(unit, Status.WRITTEN, count, nbytes, receipt.digest, receipt.array, extremes).to_bytes()

    def add_given_up(self, unit: int, array: int = 0) -> None:
        """Collect the record of a failed unit, which holds the fill value."""
        self._waiting += Record(unit, Status.GIVEN_UP, array=array, extremes=bytes(self._extremes_nbytes)).to_bytes()

    @property
    def has_waiting(self) -> bool:
        """Whether records are collected that are not written yet."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Write the collected records, or raise DestinationError; earlier records stay readable."""
        try:
            while self._waiting:
                written = os.write(self._descriptor, self._waiting)
                self._nbytes += written
                del self._waiting[:written]
        except OSError as error:
            # A torn record is cut off: otherwise the next record would begin in the middle of it.
            whole = self._nbytes - (self._nbytes - self._header_nbytes) % self._record_nbytes
            self._waiting.clear()
            os.ftruncate(self._descriptor, whole)
            self._nbytes = whole
            reason = f"could not write the ledger: {error.strerror}"
            if is_fatal(error):
                reason += "; the disk takes nothing any more. Make space, then run again with if_exists='resume'"
            raise DestinationError(error.errno, reason, str(self.file)) from error

    def close(self) -> None:
        """Write the collected records and sync the file to the disk; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
