"""Every object is there, as if nothing had happened, and was stored no more often than faults explain."""

import os
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import tilewright as tw
from benchmarks.faults.logs import first_words, line_count, lines_of
from benchmarks.faults.outcome import InvariantError, Outcome
from benchmarks.faults.reference import Reference, digest, files_of, names_in, nbytes_of_records, records_in, written_in
from benchmarks.faults.schedule import OTHER_OUTPUT, REFUSED_RESUME, WORKERS, Schedule
from tilewright.executors.executor import TASKS_PER_THREAD
from tilewright.ledger.ledger import LedgerFolder
from tilewright.ledger.records import Status as Recorded


class StoredOutput:
    """What is stored of the output of one schedule: it is damaged here, and compared with an undisturbed run.

    Parameters
    ----------
    schedule : Schedule
        What happens to it.
    folder : Path
        Where it lies, with all that the harness keeps.
    reference : Reference
        What an undisturbed run leaves.
    outcome : Outcome
        Where problems are told.
    """

    def __init__(self, schedule: Schedule, folder: Path, reference: Reference, outcome: Outcome) -> None:
        self.outcome = outcome
        self._folder = folder
        self._reference = reference
        self._output = schedule.case.output(folder)
        self.ledger = self._output.with_name(f"{self._output.name}.ledger")
        self._rng = Random(f"damage-{schedule.number}")
        self._damaged: set[int] = set()
        self._seen: set[Path] = set()
        self._torn: Counter[int] = Counter()
        self._forgotten: Counter[int] = Counter()
        self.interruptions = 0
        self.other: dict[str, str] | None = None
        self.unit_of = {key: unit for unit in range(reference.plan.unit_count) for key in reference.keys(unit)}

    # What is done to it.

    def begin_anew(self) -> None:
        """Take in that an output of another model is there, so that all is written anew, and counted anew."""
        for name in ("sets", "store-errors"):
            (self._folder / name).unlink(missing_ok=True)
        self._damaged, self._torn, self._forgotten, self.interruptions = set(), Counter(), Counter(), 0
        self._seen = set(self._ledger_files())
        self.other = files_of(self._output)
        self.outcome.injected[OTHER_OUTPUT] += 1

    def check_refused_resume(self, result: dict[str, Any]) -> None:
        """A resume is refused where the output of the other model is there as it was, and nowhere else."""
        if files_of(self._output) != self.other:
            raise InvariantError(f"the output is not as it was, and is not resumed: {result['text']}")
        self.outcome.injected[REFUSED_RESUME] += 1

    def forget_records(self) -> None:
        """Take in that what is recorded now will be written again."""
        if self.is_ours:
            self._forgotten += Counter(unit for file in self._ledger_files() for unit in written_in(file))

    def damage(self, what: str) -> bool:
        """Damage what is stored, and tell whether there was something to damage."""
        if what == "tear ledger":
            done = self._tear_ledger()
        else:
            objects = [path for path in sorted(self._output.rglob("*")) if self._key(path) in self.unit_of]
            done = bool(objects)
            if objects:
                self._damage_object(what, self._rng.choice(objects))
        if done:
            self.outcome.injected[what] += 1
        return done

    def _key(self, path: Path) -> str:
        return str(path.relative_to(self._output))

    def _damage_object(self, what: str, path: Path) -> None:
        nbytes = path.stat().st_size
        if what == "leave partial file":
            path.with_name(f"{path.name}.{self._rng.getrandbits(128):032x}.partial").write_bytes(b"half")
            return
        self._damaged.add(self.unit_of[self._key(path)])
        if what == "delete object":
            path.unlink()
        elif what == "truncate object":
            os.truncate(path, self._rng.randrange(nbytes) if nbytes else 0)
        elif nbytes:
            place = self._rng.randrange(nbytes)
            with path.open("r+b") as file:
                file.seek(place)
                (byte,) = file.read(1)
                file.seek(place)
                file.write(bytes([byte ^ (1 << self._rng.randrange(8))]))

    def _tear_ledger(self) -> bool:
        files = self._ledger_files()
        # Its first line is another matter: it is there before the first unit is stored.
        nbytes = len(files[-1].read_bytes().split(b"\n", 2)[2]) if files else 0
        if not nbytes:
            return False
        before = Counter(written_in(files[-1]))
        torn = self._rng.randint(1, min(4 * nbytes_of_records(files[-1]), nbytes))
        os.truncate(files[-1], files[-1].stat().st_size - torn)
        self._torn += before - Counter(written_in(files[-1]))
        return True

    # What is checked.

    def _ledger_files(self) -> list[Path]:
        return sorted(self.ledger.glob("*.ledger"))

    def _is_stored(self, unit: int) -> bool:
        files = self._reference.files
        return all(digest(self._output / key) == files[key] for key in self._reference.keys(unit))

    def _recorded_units(self) -> set[int]:
        """The units that the ledger says are stored: the last record of each counts."""
        records = LedgerFolder(self.ledger).records()
        return {record.unit for record in records if record.status is Recorded.WRITTEN}

    @property
    def is_ours(self) -> bool:
        """Whether the ledger is about the output of this schedule, not about that of another model."""
        header, plan = LedgerFolder(self.ledger).header(), self._reference.plan
        return header is None or (header.plan.chunks, header.plan.shards) == (plan.chunks, plan.shards)

    def intact_units(self) -> set[int]:
        """Those of them that are."""
        if not self.is_ours:
            return set()
        return {unit for unit in self._recorded_units() if self._is_stored(unit)}

    def check_ledger(self, intact_before: set[int], *, may_repeat: bool = False) -> None:
        if not self.is_ours:
            # Nothing was begun.
            return
        new = [file for file in self._ledger_files() if file not in self._seen]
        self._seen.update(new)
        times = Counter(unit for file in new for unit in written_in(file))
        written = set(times)
        twice = sorted(unit for unit, count in times.items() if count > 1)
        if twice and not may_repeat:
            raise InvariantError(f"units {twice} were written by two clients, or twice by one")
        if again := written & intact_before:
            raise InvariantError(f"units {sorted(again)} were intact, and were written again")
        if any(None in records_in(file)[:-1] for file in new):
            raise InvariantError(f"a record of {new} is damaged, and not the last, which may be torn")
        self._damaged -= written
        intact = self.intact_units()
        for unit in sorted(self._recorded_units() - intact - self._damaged):
            self.outcome.units_lost += 1
            self.outcome.problems.append(f"the ledger says that unit {unit} is stored, and it is not")

    def check_recorded(self, lines_before: int, clients: int) -> None:
        """Check that of what was stored in a round no more is unknown to the ledger than was in flight."""
        keys = [line.split()[0] for line in lines_of(self._folder / "sets")[lines_before:]]
        known = {record.unit for file in self._ledger_files() for record in records_in(file) if record}
        unknown = {self.unit_of[key] for key in keys if key in self.unit_of} - known - set(self._torn)
        # What a client has submitted, and what the workers still did for one before.
        if len(unknown) > clients * TASKS_PER_THREAD * WORKERS + WORKERS:
            raise InvariantError(
                f"units {sorted(unknown)} were stored, at least in part, and the ledger has none of them"
            )

    def check_end(self) -> None:
        problems = self.outcome.problems
        files = files_of(self._output)
        expected = self._reference.files
        differing = [name for name in expected if files.get(name) != expected[name]]
        self.outcome.objects_differ += len(differing)
        if differing:
            problems.append(f"files differ from those of an undisturbed run: {differing}")
        if surplus := sorted(set(files) - set(expected)):
            problems.append(f"files lie about: {surplus}")
        if others := sorted(names_in(self._folder) - self._reference.names):
            problems.append(f"what an undisturbed run does not leave: {others}")
        verification = tw.verify(self._output, progress=False)
        if not verification.is_complete or verification.writer:
            self.outcome.units_lost += len(verification.conditions)
            problems.append(f"the output is complete, but not to verify:\n{verification}")
        self._check_counts()

    def _check_counts(self) -> None:
        """Compare how often objects were stored with what explains it."""
        stored = first_words(self._folder / "sets")
        errors: Counter[int] = Counter()
        for key, count in first_words(self._folder / "store-errors").items():
            # Each is tried three times before the attempt at its unit fails.
            errors[self.unit_of[key]] += count // 3
        recorded = Counter(unit for file in self._ledger_files() for unit in written_in(file)) + self._torn
        for key, unit in self.unit_of.items():
            most = recorded[unit] + self._forgotten[unit] + self.interruptions + errors[unit]
            if not 1 <= stored[key] <= most:
                self.outcome.problems.append(
                    f"object {key} was stored {stored[key]} times; its unit has {recorded[unit]} records, "
                    f"{self.interruptions} interruptions and {errors[unit]} failed attempts explain the rest"
                )
        if surplus := sorted(set(stored) - set(self.unit_of)):
            self.outcome.problems.append(f"objects were stored that are not of the output: {surplus}")

    def count(self) -> None:
        stored = first_words(self._folder / "sets")
        times: Counter[int] = Counter()
        for key, unit in self.unit_of.items():
            times[unit] = max(times[unit], stored[key])
        self.outcome.units_written = times.total()
        self.outcome.units_twice = sum(count > 1 for count in times.values())
        for name, kind in (("store-errors", "store error"), ("model-errors", "model error")):
            if count := line_count(self._folder / name):
                self.outcome.injected[kind] += count
        if (self._folder / "killed-by-model").exists():
            self.outcome.injected["model kills worker"] += 1
