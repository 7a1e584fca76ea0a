"""A record holds the state of one unit, in as many bytes as all records of a plan, with a checksum."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

import numpy as np

from tilewright.plan import WritePlan

_FIELDS = struct.Struct("<QQQIHH")
_CHECKSUM = struct.Struct("<I")
_LEAST_NBYTES = _FIELDS.size + _CHECKSUM.size


def record_nbytes(plan: WritePlan) -> int:
    """Return the bytes of the record of a unit of a plan.

    Examples
    --------
    >>> from tilewright.plan import plan_write
    >>> record_nbytes(plan_write((64, 64), "YX", (32, 32), (8, 8), dtype="uint16"))
    40
    """
    return _LEAST_NBYTES + plan.extremes_nbytes


class Status(IntEnum):
    """State of a unit in the ledger."""

    WRITTEN = 1
    GIVEN_UP = 2


_STATUSES = frozenset(Status)


@dataclass(frozen=True, slots=True)
class Record:
    """The ledger entry of one unit.

    Parameters
    ----------
    unit, array : int
        Number of the unit in the plan, and that of its array.
    status : Status
        Whether the unit is stored or given up.
    object_count, stored_nbytes, digest : int
        Number of the stored objects, their encoded bytes, and their `UnitDigest`.
    extremes : bytes
        Extremes of the channels of the unit, as `UnitExtremes` has them; zeros behind them, and in a unit without.
    """

    unit: int
    status: Status
    object_count: int = 0
    stored_nbytes: int = 0
    digest: int = 0
    array: int = 0
    extremes: bytes = b""

    def to_bytes(self) -> bytes:
        """Return the record as stored in the file.

        Examples
        --------
        >>> record = Record(7, Status.WRITTEN, 1, 4096, 2**63)
        >>> Record.from_bytes(record.to_bytes()) == record
        True
        """
        fields = _FIELDS.pack(self.unit, self.stored_nbytes, self.digest, self.object_count, self.status, self.array)
        checked = fields + self.extremes
        return checked + _CHECKSUM.pack(crc32(checked))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Record | None":
        """Return the record that these bytes are, or None if they are damaged."""
        end = len(raw) - _CHECKSUM.size
        if end < _FIELDS.size:
            return None
        unit, stored_nbytes, digest, object_count, status, array = _FIELDS.unpack_from(raw)
        (checksum,) = _CHECKSUM.unpack_from(raw, end)
        if checksum != crc32(raw[:end]) or status not in _STATUSES:
            return None
        return cls(unit, Status(status), object_count, stored_nbytes, digest, array, raw[_FIELDS.size : end])


class Records:
    """The last record of each unit, in the order of units, kept as stored bytes: there may be millions.

    Parameters
    ----------
    raw : bytes
        Whole records one after the other, the oldest first.
    nbytes : int
        Bytes of a record.

    Examples
    --------
    >>> made = [Record(3, Status.GIVEN_UP), Record(1, Status.WRITTEN, 1, 8, 2), Record(3, Status.WRITTEN, 1, 8, 4)]
    >>> records = Records(b"".join(record.to_bytes() for record in made), len(made[0].to_bytes()))
    >>> list(records) == [made[1], made[2]], records.absent(5)
    (True, [0, 2, 4])
    """

    def __init__(self, raw: bytes = b"", nbytes: int = _LEAST_NBYTES) -> None:
        rows = np.frombuffer(raw, np.dtype([("unit", "<u8"), ("rest", f"V{nbytes - 8}")]))[::-1]
        self._units, last = np.unique(rows["unit"], return_index=True)
        self._rows = rows[last]

    def __len__(self) -> int:
        return len(self._units)

    def below(self, unit_count: int) -> "Records":
        """Return the records of the units of a plan, without records of units that the plan does not have."""
        kept = Records()
        is_kept = self._units < unit_count
        kept._units, kept._rows = self._units[is_kept], self._rows[is_kept]
        return kept

    @property
    def written_count(self) -> int:
        """The number of stored units."""
        return sum(record.status is Status.WRITTEN for record in self)

    def __iter__(self) -> Iterator[Record]:
        return (record for row in self._rows if (record := Record.from_bytes(row.tobytes())) is not None)

    def absent(self, unit_count: int) -> list[int]:
        """Return the units without a record."""
        is_absent = np.ones(unit_count, bool)
        is_absent[self._units[self._units < unit_count]] = False
        return np.flatnonzero(is_absent).tolist()
