"""Decision of a run: its output is fresh, or is resumed from what an earlier run has begun."""

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tilewright.errors import OutputInUseError, ResumeError
from tilewright.ledger.header import Header
from tilewright.locks.holder import Holder
from tilewright.outputs.fingerprint import Fingerprint, differences
from tilewright.outputs.output import Output
from tilewright.plan import WritePlan


class Asked(Protocol):
    """What a run is asked to write."""

    def plan(self, begun: WritePlan | None) -> WritePlan:
        """Return the plan; where an earlier run has begun, what only that run has chosen stays."""

    def fingerprint(self, plan: WritePlan) -> Fingerprint:
        """Return all that the stored bytes follow from."""

    def provenance(self, plan: WritePlan, fingerprint: Fingerprint) -> dict[str, Any]:
        """Return what makes the output, for the attributes of its group."""

    def continued(self, begun: WritePlan, plan: WritePlan) -> WritePlan:
        """Return the plan of the earlier run for the memory that this run has."""


@dataclass(frozen=True)
class Beginning:
    """An output that is to be created, or that an earlier run has begun and this one completes.

    Parameters
    ----------
    plan : WritePlan
        The plan; of an output that is resumed, that of the earlier run, for the memory of this one.
    fingerprint : dict
        All that the stored bytes follow from; equal in both runs.
    is_resumed : bool
        Whether an earlier run has begun the output.
    provenance : dict
        What makes the output; once `decided_again` for an output that is resumed, what the earlier run has said.
    """

    plan: WritePlan
    fingerprint: Fingerprint
    is_resumed: bool
    provenance: dict[str, Any] = field(default_factory=dict)


def open_run(output: Output, header: Header | None, asked: Asked) -> Beginning:
    """Return how a run begins; the header says what an earlier run has begun, where that is to be completed.

    Raises
    ------
    ResumeError
        If the earlier run has begun something else; it names all that differs.
    """
    if header is None:
        plan = asked.plan(None)
        fingerprint = asked.fingerprint(plan)
        return Beginning(plan, fingerprint, is_resumed=False, provenance=asked.provenance(plan, fingerprint))
    wanted = asked.plan(header.plan)
    fingerprint = asked.fingerprint(wanted)
    _check_same(output, header, fingerprint)
    plan = asked.continued(header.plan, wanted)
    return Beginning(plan, fingerprint, is_resumed=True, provenance=asked.provenance(plan, fingerprint))


def decided_again(output: Output, header: Header | None, beginning: Beginning) -> Beginning:
    """Return how a run begins that has taken the lock: another run may have begun, or removed, the output since.

    Raises
    ------
    ResumeError
        As in `open_run`.
    """
    if header is not None:
        _check_same(output, header, beginning.fingerprint)
        if replace(header.plan, window_nbytes=beginning.plan.window_nbytes) != beginning.plan:
            raise ResumeError(f"another run has begun the output {output} in this moment; run this one again")
        beginning = replace(beginning, provenance=header.provenance)
    return replace(beginning, is_resumed=header is not None)


def check_last_holder(output: Output, last: Holder | None) -> None:
    """Refuse to write something else where a task of a dead run may still write, which nothing would notice.

    Where each object is a file, such a task finds that its temporary file is gone; see `put_object`.
    """
    if last is None or not last.may_still_write or output.is_fenced or output.listing.is_empty:
        return
    raise OutputInUseError(
        f"the run of process {last.process} on {last.host} has not given the output {output} back, and its tasks may "
        "still write there; complete it with if_exists='resume' and the same arguments, or choose another destination"
    )


def _check_same(output: Output, header: Header, fingerprint: Fingerprint) -> None:
    if differing := differences(header.fingerprint, fingerprint):
        raise ResumeError(
            f"the output {output} was begun from something else, so that it cannot be completed: "
            f"{'; '.join(differing)}. Use what it was begun from, or if_exists='overwrite' to write it anew"
        )
