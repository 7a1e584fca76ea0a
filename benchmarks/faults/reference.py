"""What an undisturbed run leaves, and what is found of that."""

import re
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from benchmarks.faults.outcome import InvariantError
from tilewright.ledger.ledger import LedgerFile
from tilewright.ledger.records import Record, record_nbytes
from tilewright.ledger.records import Status as Recorded
from tilewright.plan import WritePlan

OWN_FILES = re.compile(
    r"client-\d+-(log|stack|result|new)|faults\.json|sets|(store|model)-errors|killed-by-model|.+\.ledger/\d{6}\.ledger"
)


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run leaves."""

    plan: WritePlan
    files: dict[str, str]
    names: frozenset[str]

    def keys(self, unit: int) -> list[str]:
        """Return the keys of the objects of a unit, relative to the output."""
        plan = self.plan
        paths, first = plan.stored_paths(plan.array_of_unit(unit)), int(plan.is_collection)
        return [
            "/".join([paths[first * position[0]], "c", *map(str, position[first:])])
            for position in plan.objects_of_unit(unit)
        ]


def digest(path: Path) -> str:
    try:
        return xxh3_128_hexdigest(path.read_bytes())
    except FileNotFoundError:
        return "missing"


def files_of(output: Path) -> dict[str, str]:
    return {str(path.relative_to(output)): digest(path) for path in sorted(output.rglob("*")) if path.is_file()}


def names_in(folder: Path) -> frozenset[str]:
    """Return the names of all files and folders of a job, but for the files of ledgers and what the harness keeps."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return frozenset(name for name in names if not OWN_FILES.fullmatch(name))


def records_in(file: Path) -> list[Record | None]:
    raw = file.read_bytes()
    # The header stands there twice.
    *_, rest = raw.split(b"\n", 2)
    if raw.count(b"\n") < 2:
        return []
    nbytes = nbytes_of_records(file)
    return [Record.from_bytes(rest[i : i + nbytes]) for i in range(0, len(rest), nbytes)]


def nbytes_of_records(file: Path) -> int:
    """Return the bytes of each record in a file of a ledger."""
    header = LedgerFile(file).header
    if header is None:
        raise InvariantError(f"{file} has no header")
    return record_nbytes(header.plan)


def written_in(file: Path) -> list[int]:
    return [record.unit for record in records_in(file) if record is not None and record.status is Recorded.WRITTEN]
