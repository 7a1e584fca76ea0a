"""The header of a ledger file says which output the file is about; a header that cannot be checked is no header."""

import json
from dataclasses import dataclass, field
from math import prod
from typing import Any
from zlib import crc32

from tilewright.plan import WritePlan

FAMILY = b"tilewright-ledger"
"""First bytes of a ledger file of any version."""
MAGIC = FAMILY + b"-5"
"""First bytes of a ledger file of this version."""
NOTHING, OUTPUT, EVERYTHING = "", "output", "zarr"
"""What a run may replace: nothing, an output of tilewright, any Zarr node."""


@dataclass(frozen=True)
class Header:
    """What a run writes, and from what.

    Parameters
    ----------
    fingerprint : dict
        The named inputs that the stored bytes depend on; JSON values.
    plan, output, arrays
        The plan that numbers the units, the place of the output when the run began, and array metadata by name.
    replaces : {"", "output", "zarr"}
        What this run replaces: nothing, the output of the earlier files of the folder, or any Zarr node.
    provenance : dict
        What has made the output; JSON values, which nothing is decided by.
    """

    fingerprint: dict[str, Any]
    plan: WritePlan
    output: str = ""
    arrays: dict[str, Any] = field(default_factory=dict)
    replaces: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the beginning of a file: the same line of text twice, so that one damaged byte leaves one intact."""
        text = json.dumps({**vars(self), "plan": self.plan.to_dict()}, sort_keys=True).encode()
        return 2 * (b"%s %08x %s\n" % (MAGIC, crc32(text), text))

    @classmethod
    def from_line(cls, line: bytes) -> "Header | None":
        """Return the header in a line, or None if the line is not a valid header."""
        magic, _, rest = line.partition(b" ")
        checksum, _, text = rest.removesuffix(b"\n").partition(b" ")
        if magic != MAGIC or checksum != b"%08x" % crc32(text):
            return None
        try:
            fields = json.loads(text)
            header = cls(**fields | {"plan": WritePlan.from_dict(fields["plan"])})
            header._check()
        except Exception:
            # The checksum is right: the line was edited by hand.
            return None
        return header

    def _check(self) -> None:
        """Raise if a field has a wrong type, or the plan has no tiles."""
        named = (self.fingerprint, self.arrays, self.provenance)
        if not (all(isinstance(each, dict) for each in named) and isinstance(self.output, str)):
            raise TypeError("a field of the header has another type")
        if self.replaces not in (NOTHING, OUTPUT, EVERYTHING):
            raise ValueError(f"no run replaces {self.replaces!r}")
        plan = self.plan
        numbers = (plan.output_nbytes // plan.itemsize, plan.tile_count, plan.unit_count, plan.compact_tile_count)
        if min(numbers) < 1 or len(plan.tilings) != len(plan.axes):
            raise ValueError("the plan is about no image")
        # The last tile and the last unit: checking all of them would take far longer.
        for tiling in plan.tilings:
            tiling.read(tiling.count - 1)
        for array in plan.arrays:
            array.objects_of_unit(prod(array.unit_counts) - 1)
            _ = [stored // chunk for stored, chunk in zip(array.stored_extents, array.chunks, strict=True)]
