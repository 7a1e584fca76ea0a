"""What a run did, added up from the receipts of its units."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from tilewright.conversion import ValueRange
from tilewright.ledger.receipts import StageSeconds, UnitReceipt, peak_memory_nbytes
from tilewright.objects.digest import digest_text, sum_of_digests
from tilewright.objects.reordered_array import ReorderedArray
from tilewright.objects.stored_array import StoredArray
from tilewright.plan import WritePlan
from tilewright.plan.describe import format_nbytes
from tilewright.runs.reporting.ending import Ending
from tilewright.runs.reporting.history import History
from tilewright.runs.reporting.page import run_fragment, run_page
from tilewright.runs.reporting.saving import save_text
from tilewright.sources.readers.zarr import MOST_NOTED
from tilewright.sources.source import Source
from tilewright.stores.places import public_name

_UNITS_SHOWN = 5


@dataclass(frozen=True)
class Report:
    """What a run wrote, and where its time went.

    Parameters
    ----------
    array : zarr.Array
        The finished output. Where each sample is an image of its own, what reads their arrays as one with an axis S.
    plan : WritePlan
        What was planned.
    unit_count, object_count : int
        What was written.
    kept_unit_count : int
        Units that an earlier run had written.
    given_up : dict of int to str
        Units that hold the fill value, since they could not be predicted or written, and why.
    output_nbytes, stored_nbytes : int
        Bytes of what was written, before and after the codecs.
    total_seconds : float
        The wall clock.
    stage_seconds : StageSeconds
        Seconds in each stage, added over all threads.
    peak_live_nbytes : int
        The most bytes of predicted tiles that were held or asked for.
    peak_memory_nbytes : int
        The largest resident memory of a process that took part.
    lost_count : int
        Predicted elements of this run that the data type of the output, where it was chosen, could not hold: they were
        clipped to its limits or to the range of values, became infinite, or were no numbers. A tile that was predicted
        twice counts twice.
    missing_count : int
        Stored objects of a Zarr source that were asked for and are not there, so that they were read as its fill value;
        at most `MOST_NOTED` are counted.
    notes : tuple of str
        What else the user should know: which of several images of a file was taken, say.
    digest : str
        Digest of all stored objects of all levels. Equal bytes have equal digests, however they were written. It is
        empty where units are missing or were given up.
    kept_nbytes : int
        Bytes of the units that an earlier run had written, before the codecs.
    history : History or None
        What was done where, when and by which process.
    ending : Ending
        How the run has ended; of a run that did not finish, all numbers are those so far.
    source : Source or None
        What was predicted, for pictures of it.
    value_range : ValueRange or None
        The values of the model that were mapped onto the data type of the output.
    """

    array: StoredArray
    plan: WritePlan
    unit_count: int
    object_count: int
    kept_unit_count: int
    given_up: dict[int, str]
    output_nbytes: int
    stored_nbytes: int
    total_seconds: float
    stage_seconds: StageSeconds
    peak_live_nbytes: int
    peak_memory_nbytes: int
    lost_count: int = 0
    missing_count: int = 0
    notes: tuple[str, ...] = ()
    digest: str = ""
    kept_nbytes: int = 0
    history: History | None = field(default=None, repr=False, compare=False)
    ending: Ending = field(default=Ending(), repr=False)
    source: Source | None = field(default=None, repr=False, compare=False)
    value_range: ValueRange | None = None

    @property
    def missing_unit_count(self) -> int:
        """Units that are neither stored nor given up: those that a stopped run has not come to."""
        return self.plan.unit_count - self.unit_count - self.kept_unit_count - len(self.given_up)

    @property
    def is_complete(self) -> bool:
        """Whether all units are stored."""
        return not self.missing_unit_count and not self.given_up

    @property
    def tile_count(self) -> int:
        """The tiles of the image."""
        return self.plan.tile_count

    @property
    def read_seconds(self) -> float:
        """Seconds spent reading the source."""
        return self.stage_seconds.read

    @property
    def model_seconds(self) -> float:
        """Seconds spent in the model, or waiting for it."""
        return self.stage_seconds.model

    @property
    def assemble_seconds(self) -> float:
        """Seconds spent placing pieces of tiles."""
        return self.stage_seconds.assemble

    @property
    def encode_seconds(self) -> float:
        """Seconds spent in codecs."""
        return self.stage_seconds.encode

    @property
    def put_seconds(self) -> float:
        """Seconds spent storing objects."""
        return self.stage_seconds.put

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers of the report, in types that JSON has; sizes in bytes, times in seconds.

        A region is ``[start, stop]`` per axis, in elements of its level; level 0 is full resolution.
        """
        plan = self.plan
        names = "unit_count object_count kept_unit_count missing_unit_count output_nbytes kept_nbytes stored_nbytes "
        names += "total_seconds peak_live_nbytes peak_memory_nbytes lost_count missing_count is_complete tile_count"
        return {
            "array": public_name(self.array.store, self.array.path),
            "axes": plan.axes,
            "stored_axes": plan.stored_axes or plan.axes,
            "shape": list(plan.shape),
            "dtype": plan.dtype,
            "state": self.ending.state,
            "error": self.ending.error,
            **{name: getattr(self, name) for name in names.split()},
            "planned_unit_count": plan.unit_count,
            "planned_object_count": plan.object_count,
            "planned_output_nbytes": plan.output_nbytes,
            "planned_peak_live_nbytes": plan.peak_live_nbytes,
            "stage_seconds": asdict(self.stage_seconds),
            "digest": self.digest,
            "given_up": [plan.place_of_unit(unit) | {"reason": reason} for unit, reason in self.given_up.items()],
            "notes": list(self.notes),
        }

    def to_html(self) -> str:
        """Return the report as one HTML file, with pictures that are read from what is stored."""
        return run_page(self)

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the report as one HTML file, which needs no other file and no network.

        Parameters
        ----------
        path : path
            The file; one that exists is replaced.
        """
        save_text(Path(path), self.to_html())

    def _repr_html_(self) -> str:
        return run_fragment(self)

    def __str__(self) -> str:
        seconds = self.stage_seconds
        stages = f"assemble {seconds.assemble:.1f}, encode {seconds.encode:.1f}, put {seconds.put:.1f}"
        if seconds.model:
            stages = f"read {seconds.read:.1f}, model {seconds.model:.1f}, {stages}"
        rate = format_nbytes(self.output_nbytes / max(self.total_seconds, 1e-9))
        kept = f", {self.kept_unit_count:,} units kept" if self.kept_unit_count else ""
        given_up = [f"{len(self.given_up):,} units given up"] if self.given_up else []
        missing = [f"{self.missing_unit_count:,} units missing"] if self.missing_unit_count else []
        state = ", ".join([*given_up, *missing]) or "all complete"
        tiles = f"{format_nbytes(self.peak_live_nbytes)} of tiles (planned {format_nbytes(self.plan.peak_live_nbytes)})"
        rows = [
            ("array", public_name(self.array.store, self.array.path)),
            ("image", f"{self.tile_count:,} tiles, {self.plan.unit_count:,} units"),
            ("written", f"{self.unit_count:,} units, {self.object_count:,} objects{kept}: {state}"),
            ("bytes", f"{format_nbytes(self.output_nbytes)}, stored in {format_nbytes(self.stored_nbytes)}"),
            ("time", f"{self.total_seconds:.1f} s, {rate}/s"),
            ("threads", f"{stages} s"),
            ("memory", f"at most {tiles}, {format_nbytes(self.peak_memory_nbytes)} per process"),
        ]
        if self.digest:
            rows.append(("digest", self.digest))
        notes = list(self.notes)
        if self.lost_count:
            notes.append(f"{self.lost_count:,} predicted elements {self._loss}")
        if self.missing_count:
            more = " or more" if self.missing_count >= MOST_NOTED else ""
            objects = f"{self.missing_count:,}{more} stored objects of the source"
            notes.append(f"{objects} are missing: its fill value was read")
        rows += [("note", note) for note in notes]
        return "\n".join(["Report", *(f"  {name:<12} {text}" for name, text in rows)])

    @property
    def _loss(self) -> str:
        """What became of the elements that are lost."""
        if (mapped := self.value_range) is not None:
            return f"lie outside of {mapped.lower} to {mapped.upper}, and became the nearer end; NaN the lower end"
        if self.plan.dtype.startswith("float"):
            return f"do not fit {self.plan.dtype}, and became infinite"
        return f"do not fit {self.plan.dtype}, and were clipped to its limits; NaN became 0"


@dataclass
class Tally:
    """Add up receipts while a run goes on."""

    started: float = field(default_factory=perf_counter)
    kept_unit_count: int = 0
    kept_nbytes: int = 0
    object_count: int = 0
    unit_count: int = 0
    stored_nbytes: int = 0
    seconds: StageSeconds = field(default_factory=StageSeconds)
    peak_memory_nbytes: int = 0
    lost_count: int = 0
    digest: int = 0
    missing: set[int] = field(default_factory=set)
    notes: tuple[str, ...] = ()
    source: Source | None = None

    def add(self, receipt: UnitReceipt) -> None:
        """Count a unit that was written."""
        self.unit_count += 1
        self.object_count += receipt.object_count
        self.stored_nbytes += receipt.stored_nbytes
        self.seconds.add(receipt.seconds)
        self.peak_memory_nbytes = max(self.peak_memory_nbytes, receipt.peak_memory_nbytes)
        self.lost_count += receipt.lost_count
        self.digest = sum_of_digests((self.digest, receipt.digest))
        if len(self.missing) < MOST_NOTED:
            self.missing |= receipt.missing

    def report(
        self,
        plan: WritePlan,
        array: StoredArray,
        peak_live_nbytes: int,
        given_up: dict[int, str],
        history: History,
        ending: Ending,
        value_range: ValueRange | None = None,
    ) -> Report:
        """Return the report of a run that has ended."""
        return Report(
            array=array.one if isinstance(array, ReorderedArray) else array,
            plan=plan,
            unit_count=self.unit_count,
            object_count=self.object_count,
            kept_unit_count=self.kept_unit_count,
            given_up=dict(given_up),
            output_nbytes=history.written_nbytes,
            stored_nbytes=self.stored_nbytes,
            total_seconds=perf_counter() - self.started,
            stage_seconds=self.seconds,
            peak_live_nbytes=peak_live_nbytes,
            peak_memory_nbytes=max(self.peak_memory_nbytes, peak_memory_nbytes()),
            lost_count=self.lost_count,
            missing_count=min(len(self.missing), MOST_NOTED),
            notes=self.notes,
            digest=digest_text(self.digest) if self.unit_count + self.kept_unit_count == plan.unit_count else "",
            kept_nbytes=self.kept_nbytes,
            history=history,
            ending=ending,
            source=self.source,
            value_range=value_range,
        )


def describe_given_up(name: str, plan: WritePlan, given_up: dict[int, str]) -> str:
    """Return which units of an output were given up, and why."""
    units = list(given_up.items())
    regions = [plan.describe_place(unit) for unit, _ in units[:_UNITS_SHOWN]]
    shown = "; ".join(f"{region} ({reason})" for region, (_, reason) in zip(regions, units, strict=False))
    more = f"; and {len(units) - _UNITS_SHOWN} more" if len(units) > _UNITS_SHOWN else ""
    return (
        f"{name}: {len(units)} of {plan.unit_count} units were given up and hold the fill value: {shown}{more}. All "
        "others are complete. Mend the cause, then run again with if_exists='resume' to try these once more"
    )
