"""What carries out instructions, seen from the loop that gets them from the coordinator.

Every executor is that loop's other half: it takes instructions, and gives back events. It decides where and when work
is done, never what is done.
"""

from collections.abc import Sequence
from typing import Protocol

from tilewright.assemble import AnyArray
from tilewright.coordinator import Event, Instruction, TakeTile
from tilewright.stores.places import without_secrets

TASKS_PER_THREAD = 3
"""Tasks in flight at a time: enough that no thread waits for the next one, few enough to lose little."""


class Executor(Protocol):
    """Carry out instructions for one output array."""

    def carry_out(self, instruction: Instruction) -> None:
        """Take an instruction in; its outcome is among the events that come back later."""

    def events(self, *, wait: bool) -> list[Event]:
        """Return what happened since the last call; where `wait` is true, wait for something, a second at most."""

    def stop_predicting(self) -> None:
        """Drop predictions that have not begun; what is predicted already is still written."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued, and nothing is under way."""

    @property
    def wanted_nbytes(self) -> int:
        """Bytes of units that keep all of its threads busy."""

    @property
    def is_full(self) -> bool:
        """Whether whoever predicts elsewhere should wait: something is under way that makes room."""

    def take(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> None:
        """Take in the valid regions of tiles predicted elsewhere; that they are there comes back as events.

        The arrays may be held until their units are written, and must not change.
        """

    def error_behind(self, reason: str) -> BaseException | None:
        """Return the error behind the reason of a failure."""

    def close(self) -> None:
        """Let go of all that is held, and carry out nothing more; a second call does nothing.

        What has happened until then is among the events that come back.
        """


ERRORS_KEPT = 8


class Errors:
    """Errors by the reasons that the coordinator knows them by, so that the user gets the error itself."""

    def __init__(self) -> None:
        self._errors: dict[str, BaseException] = {}

    def reason_of(self, error: BaseException) -> str:
        """Remember an error, and return its reason."""
        reason = f"{type(error).__name__}: {without_secrets(error)}"
        self._errors[reason] = error
        if len(self._errors) > ERRORS_KEPT:
            # Each holds on to the arrays of the frames that it passed through. The first tells most.
            del self._errors[list(self._errors)[1]]
        return reason

    def behind(self, reason: str) -> BaseException | None:
        """Return the error that is, or is named in, a reason."""
        return next((error for known, error in self._errors.items() if reason.endswith(known)), None)
