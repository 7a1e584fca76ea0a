"""An output is verified by its ledger and its stored bytes alone, without model and source."""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.errors import ResumeError
from tilewright.ledger.header import Header
from tilewright.ledger.ledger import LedgerFolder
from tilewright.locks.output_lock import LEDGER_SUFFIX
from tilewright.objects.digest import digest_text, sum_of_digests
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.unit_checker import UnitChecker
from tilewright.outputs.arrays import existing_array, existing_group, metadata_faults
from tilewright.outputs.output import Output
from tilewright.outputs.surplus import surplus_objects
from tilewright.plan import FULL_RESOLUTION, WritePlan
from tilewright.plan.describe import format_nbytes
from tilewright.runs.checking import check_units
from tilewright.runs.progress import ProgressLine
from tilewright.stores.places import public_name
from tilewright.stores.removal import is_partial
from tilewright.transport.clients import given_or_current

if TYPE_CHECKING:
    from distributed import Client
    from zarr.abc.store import Store

_SHOWN = 10


@dataclass(frozen=True)
class Verification:
    """The state of the stored objects of an output, compared with its ledger.

    Parameters
    ----------
    name : str
        The array, or the group where each sample has arrays of its own.
    plan : WritePlan
        Its plan.
    stored_nbytes : int
        Bytes of the stored units in the ledger.
    conditions : dict of int to str
        Condition of each unit that is not intact, by its number in the plan: ``"missing"``, ``"short"``, ``"damaged"``
        or ``"given up"``.
    writer : str
        Process that is writing the output now; empty if there is none.
    metadata : list of str
        Differences between the metadata of the array and those in the ledger.
    surplus : list of str
        Keys that are not objects of the plan, relative to the array; to the group where each sample has arrays of its
        own.
    digest : str
        Digest of all stored objects, as in `Report`; empty where units are not intact.
    """

    name: str
    plan: WritePlan
    stored_nbytes: int
    conditions: dict[int, str]
    writer: str = ""
    metadata: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    digest: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether all units are intact, the metadata are unchanged, and there are no surplus keys."""
        return not (self.conditions or self.metadata or self.surplus)

    def units(self, condition: str) -> list[int]:
        """Return the numbers of the units in this condition."""
        return [unit for unit, found in self.conditions.items() if found == condition]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in types that JSON has.

        A region is ``[start, stop]`` per axis, in elements of its level; level 0 is full resolution.
        """
        return {
            "array": self.name,
            "axes": self.plan.axes,
            "is_complete": self.is_complete,
            "unit_count": self.plan.unit_count,
            "object_count": self.plan.object_count,
            "intact_unit_count": self.plan.unit_count - len(self.conditions),
            "stored_nbytes": self.stored_nbytes,
            "digest": self.digest,
            "units": [
                self.plan.place_of_unit(unit) | {"condition": condition} for unit, condition in self.conditions.items()
            ],
            "metadata": list(self.metadata),
            "surplus": list(self.surplus),
            "writer": self.writer,
        }

    def __str__(self) -> str:
        plan = self.plan
        intact = plan.unit_count - len(self.conditions)
        lines = [
            "Verification",
            f"  array        {self.name}",
            f"  units        {plan.unit_count:,} of {plan.object_count:,} objects, {format_nbytes(self.stored_nbytes)}",
            f"  intact       {intact:,}{': the output is complete' if self.is_complete else ''}",
        ]
        if self.digest:
            lines.append(f"  digest       {self.digest}")
        counts = Counter(self.conditions.values())
        for condition in ("missing", "short", "damaged", "given up"):
            if counts[condition]:
                lines.append(f"  {condition:<12} {counts[condition]:,}")
        for unit, condition in list(self.conditions.items())[:_SHOWN]:
            lines.append(f"    {condition}: {plan.describe_place(unit)}")
        if len(self.conditions) > _SHOWN:
            lines.append(f"    and {len(self.conditions) - _SHOWN:,} more")
        lines += [f"  metadata     {text}" for text in self.metadata]
        if self.surplus:
            lines.append(f"  surplus      {len(self.surplus):,}, which repair removes where they are objects")
        lines += [f"    surplus: {key}" for key in self.surplus[:_SHOWN]]
        if self.writer:
            lines.append(f"  being written by {self.writer}")
        return "\n".join(lines)


@dataclass(frozen=True)
class BegunOutput:
    """An output, its ledger, and the header of the ledger."""

    output: Output
    ledger: LedgerFolder
    header: Header


def verify(
    destination: "str | os.PathLike[str] | Store",
    *,
    ledger: "str | os.PathLike[str] | None" = None,
    client: "Client | None" = None,
    progress: bool = True,
) -> Verification:
    """Compare every stored object of an output with its ledger.

    The attributes of the group are not compared. So an output is complete, too, whose run was killed before it wrote
    the windows of the channels; a run that resumes or repairs writes them.

    Parameters
    ----------
    destination : path or zarr store
        The destination of `predict_to_zarr`, or the group of one image of `WriteTilesZarr`.
    ledger, progress
        As in `predict_to_zarr`.
    client : distributed.Client, optional
        Cluster that reads the objects; by default that of the current client, else threads of this process.

    Returns
    -------
    Verification
        The result; it can be printed.

    Raises
    ------
    ResumeError
        If there is no ledger.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from tilewright import predict_to_zarr
    >>> image = np.arange(64 * 64, dtype="float32").reshape(64, 64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/prediction.zarr"
    ...     _ = predict_to_zarr(np.negative, image, path, axes="YX", tile_size=(32, 32), overlap=(8, 8), progress=False)
    ...     verify(path, progress=False).is_complete
    True
    """
    workers = given_or_current(client)
    begun = begun_output(destination, ledger)
    plan = begun.header.plan
    records = begun.ledger.records()
    metadata: list[str] = []
    surplus: list[str] = []
    try:
        existing_group(begun.output)
    except FileNotFoundError:
        metadata = ["those of the group around the array are missing"]
    encoders: dict[int, ObjectEncoder] = {}
    for number, planned in enumerate(plan.arrays):
        for path, differing in metadata_faults(begun.output, plan, number, begun.header.arrays[planned.name]):
            of_sample = f" {path}" if plan.is_collection else ""
            metadata += [f"{text}, of the array{of_sample}" if of_sample else text for text in differing]
            metadata += [] if differing else [f"those of the array{of_sample} are missing"]
        with suppress(FileNotFoundError):
            encoders[number] = ObjectEncoder(existing_array(begun.output, plan, number))
            surplus += surplus_objects(begun.output, plan, number, encoders[number])
    with ProgressLine(plan.unit_count, "verifying", shown=progress) as line:
        conditions = check_units(UnitChecker(plan, encoders), records, workers, line.update)
    holder = begun.output.lock().holder()
    if holder is not None:
        # Partial files of the writer are no surplus.
        surplus = [key for key in surplus if not is_partial(key.rpartition("/")[2])]
    metadata += [f"those of an output that is being replaced lie in {aside}" for aside in begun.output.asides()]
    return Verification(
        str(begun.output) if plan.is_collection else f"{begun.output}/{FULL_RESOLUTION}",
        plan,
        sum(record.stored_nbytes for record in records),
        {unit: condition.value for unit, condition in conditions.items()},
        "" if holder is None else f"process {holder.process} on {holder.host}",
        metadata,
        surplus,
        "" if conditions else digest_text(sum_of_digests(record.digest for record in records)),
    )


def begun_output(
    destination: "str | os.PathLike[str] | Store", ledger: "str | os.PathLike[str] | None" = None
) -> BegunOutput:
    """Return the output at a place with its ledger, or raise ResumeError where there is none."""
    for output in _candidates(destination, ledger):
        if output.ledger is not None and (header := output.ledger.header()) is not None:
            return BegunOutput(output, output.ledger, header)
    if not isinstance(destination, str | os.PathLike):
        which = "beside it" if ledger is None else ledger
        raise ResumeError(
            f"the store {public_name(destination)} has no ledger {which}; pass the ledger that the run was given"
        )
    path = Path(destination).expanduser().resolve()
    inner = LedgerFolder(path.with_name(f"{path.name}{LEDGER_SUFFIX}")).inner() if ledger is None else []
    if inner:
        raise ResumeError(f"{path} holds several outputs; name one of them: {', '.join(str(path / n) for n in inner)}")
    which = f"{path} has no ledger {ledger or f'{path}{LEDGER_SUFFIX}'}"
    raise ResumeError(f"the output {which}; without it the units that should be stored are unknown")


def _candidates(
    destination: "str | os.PathLike[str] | Store", ledger: "str | os.PathLike[str] | None"
) -> "list[Output]":
    """Return the outputs at a path, which may be that of the group or of the array, in any store around it."""
    if ledger is not None or not isinstance(destination, str | os.PathLike):
        return [Output.at(destination, ledger=ledger, may_be_read_only=True)]
    path = Path(destination).expanduser().resolve()
    groups = [path, path.parent] if path.name == FULL_RESOLUTION else [path]
    return [
        Output.at(root, "" if root == group else str(group.relative_to(root)))
        for group in groups
        for root in (group, *group.parents[:-1])
    ]
