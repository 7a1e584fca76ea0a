"""The ledger says that a unit is stored only after it is, and what a crash tears off it is a record that never was.

It is a folder beside the store. Each run appends to one file of its own: a line of text, the header, which says what
is written from what; then records of one length, each with a checksum of its own. The last record of a unit counts.
"""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from tilewright.errors import DestinationError, ResumeError
from tilewright.plan import WritePlan
from tilewright.storage.objects import naming, write_file
from tilewright.storage.receipts import UnitReceipt

_MAGIC = "tilewright-ledger-1"
_SUFFIX = ".ledger"
_FIELDS = struct.Struct("<QQQII")
_CHECKSUM = struct.Struct("<I")
RECORD_NBYTES = _FIELDS.size + _CHECKSUM.size
"""Bytes of the ledger per unit."""


class Status(IntEnum):
    """What became of a unit."""

    WRITTEN = 1
    GIVEN_UP = 2


_STATUSES = frozenset(Status)


@dataclass(frozen=True, slots=True)
class Record:
    """What the ledger says of one unit.

    Parameters
    ----------
    unit : int
        Which one.
    status : Status
        What became of it.
    object_count : int
        Its stored objects.
    stored_nbytes : int
        Their bytes, as encoded.
    digest : int
        Their `UnitDigest`.
    """

    unit: int
    status: Status
    object_count: int = 0
    stored_nbytes: int = 0
    digest: int = 0

    def to_bytes(self) -> bytes:
        """Return the record as it lies in the file.

        Examples
        --------
        >>> record = Record(7, Status.WRITTEN, 1, 4096, 2**63)
        >>> Record.from_bytes(record.to_bytes()) == record
        True
        """
        fields = _FIELDS.pack(self.unit, self.stored_nbytes, self.digest, self.object_count, self.status)
        return fields + _CHECKSUM.pack(crc32(fields))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Record | None":
        """Return the record that these bytes are, or None where they are none."""
        if len(raw) < RECORD_NBYTES:
            return None
        unit, stored_nbytes, digest, object_count, status = _FIELDS.unpack_from(raw)
        (checksum,) = _CHECKSUM.unpack_from(raw, _FIELDS.size)
        if checksum != crc32(raw[: _FIELDS.size]) or status not in _STATUSES:
            return None
        return cls(unit, Status(status), object_count, stored_nbytes, digest)


class Records:
    """The last record of each unit, in the order of units; there may be millions, so that they stay as they are stored.

    Parameters
    ----------
    raw : bytes
        Whole records one after the other, in the order in which they were made.

    Examples
    --------
    >>> made = [Record(3, Status.GIVEN_UP), Record(1, Status.WRITTEN, 1, 8, 2), Record(3, Status.WRITTEN, 1, 8, 4)]
    >>> records = Records(b"".join(record.to_bytes() for record in made))
    >>> list(records) == [made[1], made[2]], records.absent(5)
    (True, [0, 2, 4])
    """

    def __init__(self, raw: bytes) -> None:
        rows = np.frombuffer(raw, np.dtype(("V", RECORD_NBYTES)))
        units = np.frombuffer(raw, np.uint8).reshape(-1, RECORD_NBYTES)[:, :8].copy().view("<u8").reshape(-1)
        self._units, last = np.unique(units[::-1], return_index=True)
        self._rows = rows[::-1][last]

    def __len__(self) -> int:
        return len(self._units)

    def __iter__(self) -> Iterator[Record]:
        return (record for row in self._rows if (record := Record.from_bytes(row.tobytes())) is not None)

    def absent(self, unit_count: int) -> list[int]:
        """Return the units that have no record."""
        is_absent = np.ones(unit_count, bool)
        is_absent[self._units[self._units < unit_count]] = False
        return [int(unit) for unit in np.flatnonzero(is_absent)]


@dataclass(frozen=True)
class Header:
    """What is written, from what.

    Parameters
    ----------
    fingerprint : dict
        All that the stored bytes follow from, as far as it can be named; values as JSON has them.
    plan : WritePlan
        The plan, by which units are counted.
    output : str
        Where the output was when the run began.
    array : dict
        The metadata of the array, as they are stored.
    """

    fingerprint: dict[str, Any]
    plan: WritePlan
    output: str = ""
    array: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> bytes:
        """Return the first line of a file."""
        text = json.dumps({**vars(self), "plan": self.plan.to_dict()}, sort_keys=True)
        return f"{_MAGIC} {crc32(text.encode()):08x} {text}\n".encode()

    @classmethod
    def from_line(cls, line: bytes) -> "Header | None":
        """Return the header that this line is, or None where it is none."""
        magic, _, rest = line.partition(b" ")
        checksum, _, text = rest.removesuffix(b"\n").partition(b" ")
        if magic != _MAGIC.encode() or checksum != b"%08x" % crc32(text):
            return None
        fields = json.loads(text)
        return cls(**fields | {"plan": WritePlan.from_dict(fields["plan"])})


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

    def header(self) -> Header | None:
        """Return what the ledger is about, or None where there is none.

        Raises
        ------
        ResumeError
            If there are files, and none can be read.
        """
        files = self._files()
        for file in files:
            with file.open("rb") as opened:
                header = Header.from_line(opened.readline())
            if header is not None:
                return header
        if files:
            raise ResumeError(
                f"the ledger {self} is damaged: no file of it has a readable header; write the output anew"
            )
        return None

    def records(self) -> "Records":
        """Return the last record of each unit."""
        return Records(b"".join(record for file in self._files() for record in _records_of(file)))

    def begin(self, header: Header) -> "Ledger":
        """Return a ledger to which this run appends, in a new file."""
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            last = max((int(file.stem) for file in self._files()), default=0)
            file = self.path / f"{last + 1:06d}{_SUFFIX}"
            write_file(file, [header.to_line()])
        return Ledger(file)

    def clear(self) -> None:
        """Remove what earlier runs have said, of an output that is no more."""
        for file in self._files():
            file.unlink(missing_ok=True)

    def inner(self) -> list[str]:
        """Return the names of the ledgers that lie in this folder: of the groups of a common store."""
        folders = {file.parent for file in self.path.rglob(f"*{_SUFFIX}") if file.is_file()} - {self.path}
        return sorted(str(folder.relative_to(self.path)) for folder in folders)

    def _files(self) -> list[Path]:
        return sorted(file for file in self.path.glob(f"*{_SUFFIX}") if file.stem.isdigit())


class Ledger:
    """The file to which one run appends.

    Records are collected, and written together by `flush`.

    Parameters
    ----------
    file : Path
        The file, with its header.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
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
        with self.file.open("rb") as opened:
            header_nbytes = len(opened.readline())
        whole = header_nbytes + (self._nbytes - header_nbytes) // RECORD_NBYTES * RECORD_NBYTES
        self._waiting.clear()
        os.ftruncate(self._descriptor, whole)
        self._nbytes = whole


def _records_of(file: Path) -> Iterator[bytes]:
    """Iterate over the records of a file that are whole, as they lie in it."""
    with file.open("rb", buffering=2**16 * RECORD_NBYTES) as opened:
        if Header.from_line(opened.readline()) is None:
            # Nobody knows what these records are about.
            return
        while raw := opened.read(RECORD_NBYTES):
            if Record.from_bytes(raw) is not None:
                yield raw
