"""The header of a ledger says what is written, from what; one that says anything else is none."""

import json
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from tilewright.plan import WritePlan

FAMILY = b"tilewright-ledger"
"""How the files of all ledgers begin, of whatever version."""
MAGIC = FAMILY + b"-2"
NOTHING, OUTPUT, EVERYTHING = "", "output", "zarr"
"""What a run may replace."""


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
    replaces : {"", "output", "zarr"}
        What this run replaces: nothing, the output that earlier files of the folder are about, or any Zarr node.
    """

    fingerprint: dict[str, Any]
    plan: WritePlan
    output: str = ""
    array: dict[str, Any] = field(default_factory=dict)
    replaces: str = ""

    def to_bytes(self) -> bytes:
        """Return the beginning of a file: the same line of text twice, so that a damaged byte spoils one of them."""
        text = json.dumps({**vars(self), "plan": self.plan.to_dict()}, sort_keys=True).encode()
        return 2 * (b"%s %08x %s\n" % (MAGIC, crc32(text), text))

    @classmethod
    def from_line(cls, line: bytes) -> "Header | None":
        """Return the header that this line is, or None where it is none."""
        magic, _, rest = line.partition(b" ")
        checksum, _, text = rest.removesuffix(b"\n").partition(b" ")
        if magic != MAGIC or checksum != b"%08x" % crc32(text):
            return None
        try:
            fields = json.loads(text)
            header = cls(**fields | {"plan": WritePlan.from_dict(fields["plan"])})
            header._check()
        except Exception:
            # Made by hand: whatever it says, it is about no output.
            return None
        return header

    def _check(self) -> None:
        """Raise where a field is of another type, or the plan is about no image."""
        if not (isinstance(self.fingerprint, dict) and isinstance(self.array, dict) and isinstance(self.output, str)):
            raise TypeError("a field of the header has another type")
        if self.replaces not in (NOTHING, OUTPUT, EVERYTHING):
            raise ValueError(f"no run replaces {self.replaces!r}")
        plan = self.plan
        numbers = (plan.output_nbytes // plan.itemsize, plan.tile_count, plan.unit_count, plan.compact_tile_count)
        if min(numbers) < 1 or len(plan.tilings) != len(plan.axes):
            raise ValueError("the plan is about no image")
        for axis, (tiling, units) in enumerate(zip(plan.tilings, plan.units, strict=True)):
            # Of each axis the last tile and the last unit; tables of all of them would take far longer.
            tiling.read(tiling.count - 1)
            units.span(units.count - 1)
            _ = plan.stored_extents[axis] // plan.chunks[axis]
