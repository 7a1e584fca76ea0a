"""The ledger says that a unit is stored only after it is, and what a crash tears off it is a record that never was.

It is a folder beside the store. Each run appends to one file of its own, which has the fencing number of the run: the
header twice, each a line of text, which says what is written from what; then records of one length. The last record of
a unit counts. Where a header says that it replaces, what earlier files say is about an output that is no more, or that
was moved aside.
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
from tilewright.ledger.records import RECORD_NBYTES, Record, Records, Status
from tilewright.stores.patience import naming
from tilewright.stores.put import write_file
from tilewright.stores.removal import remove_file

_SUFFIX = ".ledger"
_NAME = re.compile(r"\d{6}\.ledger")
_LARGEST_HEADER_NBYTES = 2**24


@dataclass(frozen=True)
class LedgerFile:
    """One file of a ledger, as it is found.

    Parameters
    ----------
    path : Path
        The file.
    """

    path: Path

    @property
    def number(self) -> int:
        """The fencing number of the run that wrote it."""
        return int(self.path.stem)

    @cached_property
    def _head(self) -> tuple[Header | None, int, bool]:
        """The header, where the records begin, and whether the file is one of tilewright, even if it is damaged."""
        with self._opened() as opened:
            first = opened.readline(_LARGEST_HEADER_NBYTES)
            header = Header.from_line(first)
            if header is not None:
                return header, 2 * len(first), True
            # One of the two lines is damaged, perhaps at its end: then both are read as one.
            head = first + opened.read(_LARGEST_HEADER_NBYTES)
        for found in re.finditer(re.escape(MAGIC), head):
            end = head.find(b"\n", found.start()) + 1
            header = Header.from_line(head[found.start() : end]) if end else None
            if header is not None:
                return header, end, True
        return None, 0, FAMILY in head

    @property
    def header(self) -> Header | None:
        """What it is about; None where that cannot be read."""
        return self._head[0]

    @property
    def is_ours(self) -> bool:
        """Whether it is a file of a ledger, even if its header is damaged."""
        return self._head[2]

    def records(self) -> Iterator[bytes]:
        """Iterate over the records that are whole, as they lie in it."""
        header, start, _ = self._head
        if header is None:
            # What these records are about is not known.
            return
        with self._opened() as opened:
            opened.seek(start)
            while raw := opened.read(RECORD_NBYTES):
                if Record.from_bytes(raw) is not None:
                    yield raw

    def _opened(self) -> BinaryIO:
        """Open the file, and never wait for it as one would for a pipe."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ResumeError(
                f"the file {self.path} of the ledger cannot be read: {error.strerror}; mend that, or move it away"
            ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ResumeError(f"{self.path} has the name of a file of a ledger, and is no file; move it away")
        return os.fdopen(descriptor, "rb", buffering=2**16 * RECORD_NBYTES)


@dataclass(frozen=True)
class LedgerFolder:
    """The ledger of one output.

    Parameters
    ----------
    path : Path
        The folder. It need not exist.
    """

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
            raise ResumeError(f"the ledger {self} cannot be read: {error.strerror}; mend that") from error
        return [LedgerFile(self.path / name) for name in names]

    def current(self) -> list[LedgerFile]:
        """Return the files that are about the output as it is now: since the last run that replaced another one."""
        files = self.files()
        starts = [index for index, file in enumerate(files) if file.header is not None and file.header.replaces]
        return files[starts[-1] :] if starts else files

    def header(self) -> Header | None:
        """Return what the ledger is about, or None where there is none.

        Raises
        ------
        ResumeError
            If there are files, and none can be read, or they are about different outputs.
        """
        files = self.current()
        header = self._header_of(files)
        if files and header is None:
            raise ResumeError(
                f"the ledger {self} is damaged: no file of it has a readable header; write the output anew with "
                "if_exists='overwrite', or move the ledger away"
            )
        return header

    def _header_of(self, files: list[LedgerFile]) -> Header | None:
        """Return what files are about, which must be the same output; None where no header can be read."""
        readable = [(file, file.header) for file in files if file.header is not None]
        if not readable:
            return None
        first, header = readable[0]
        for file, other in readable[1:]:
            if _what_it_is_about(other) != _what_it_is_about(header):
                raise ResumeError(
                    f"the files {first.path} and {file.path} of one ledger are about different outputs; move the one "
                    "away that does not belong there"
                )
        return header

    def records(self) -> Records:
        """Return the last record of each unit; records of units that are not in the plan are none."""
        files = self.current()
        header = self._header_of(files)
        records = Records(b"".join(record for file in files for record in file.records()))
        return records if header is None else records.below(header.plan.unit_count)

    def replaced(self) -> list[LedgerFile]:
        """Return the files that are about an output that was, or is being, replaced."""
        current = {file.path for file in self.current()}
        return [file for file in self.files() if file.path not in current]

    def next_number(self) -> int:
        """Return a fencing number that is larger than that of every run that has written here."""
        return max((file.number for file in self.files()), default=0) + 1

    def begin(self, header: Header, number: int, check: Callable[[], None]) -> "Ledger":
        """Return a ledger to which this run appends, in a new file.

        Parameters
        ----------
        header : Header
            What is written.
        number : int
            The fencing number of the run.
        check : callable
            Raises OutputInUseError where this run does not hold the lock any more.

        Raises
        ------
        OutputInUseError
            If a run with that number has begun.
        """
        file = self.path / f"{number:06d}{_SUFFIX}"
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if file.exists():
            raise OutputInUseError(f"another run has begun {file}; run this one again")
        beginning = header.to_bytes()
        with naming(self.path):
            write_file(file, [beginning], check)
        return Ledger(file, len(beginning))

    def remove(self, files: list[LedgerFile], check: Callable[[], None]) -> None:
        """Remove files of an output that is no more; what is no file of a ledger stays."""
        for file in files:
            if file.is_ours:
                check()
                remove_file(file.path)

    def inner(self) -> list[str]:
        """Return the names of the ledgers that lie in this folder: of the groups of a common store."""
        folders = {file.parent for file in self.path.rglob(f"*{_SUFFIX}") if file.is_file()} - {self.path}
        return sorted(str(folder.relative_to(self.path)) for folder in folders)


def _what_it_is_about(header: Header) -> Header:
    """Return what all headers of one output share: not where it was, nor how much memory a run had."""
    return replace(header, output="", replaces="", plan=replace(header.plan, window_nbytes=0))


class Ledger:
    """The file to which one run appends.

    Records are collected, and written together by `flush`.

    Parameters
    ----------
    file : Path
        The file, with its header.
    header_nbytes : int
        Where its records begin.
    """

    def __init__(self, file: Path, header_nbytes: int) -> None:
        self.file = file
        self._header_nbytes = header_nbytes
        self._waiting = bytearray()
        with naming(file):
            self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._nbytes = os.fstat(self._descriptor).st_size
        self._closed = False

    def add_written(self, receipt: UnitReceipt) -> None:
        """Remember that all objects of a unit are stored."""
        self._waiting += Record(
            receipt.unit, Status.WRITTEN, receipt.object_count, receipt.stored_nbytes, receipt.digest
        ).to_bytes()

    def add_given_up(self, unit: int) -> None:
        """Remember that a unit holds the fill value, since it could not be predicted or written."""
        self._waiting += Record(unit, Status.GIVEN_UP).to_bytes()

    @property
    def has_waiting(self) -> bool:
        """Whether something was collected that is not written yet."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Write what was collected.

        Raises
        ------
        DestinationError
            If that fails; what is in the file stays readable.
        """
        if not self._waiting:
            return
        try:
            while self._waiting:
                written = os.write(self._descriptor, self._waiting)
                self._nbytes += written
                del self._waiting[:written]
        except OSError as error:
            # Else the next record would begin in the middle of this one.
            self._drop_torn_record()
            raise DestinationError(
                error.errno, f"could not write the ledger: {error.strerror}", str(self.file)
            ) from error

    def close(self) -> None:
        """Write what was collected, and bring all of it to the disk; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def _drop_torn_record(self) -> None:
        whole = self._header_nbytes + (self._nbytes - self._header_nbytes) // RECORD_NBYTES * RECORD_NBYTES
        self._waiting.clear()
        os.ftruncate(self._descriptor, whole)
        self._nbytes = whole
