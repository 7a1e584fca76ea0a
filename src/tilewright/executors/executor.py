"""Protocol of an executor: it takes instructions, and gives back events.

An executor decides where and when work is done, never what is done.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from tilewright.assemble import AnyArray
from tilewright.coordinator import (
    DeliverTiles,
    Event,
    Failure,
    Instruction,
    ProduceUnit,
    TakeTile,
    TilesFailed,
    UnitFailed,
    WriteUnit,
)
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
        """Whether a trainer should wait: work is under way that makes room."""

    def take(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> None:
        """Take in the valid regions of tiles predicted elsewhere; that they are there comes back as events.

        The arrays may be held until their units are written, and must not change.
        """

    def held(self, tiles: Sequence[int]) -> list[Any]:
        """Return tiles that were taken in, or futures of them."""

    def error_behind(self, failure: Failure) -> BaseException | None:
        """Return the error behind a failure, if it is still kept."""

    def close(self) -> None:
        """Let go of all that is held, and carry out nothing more; a second call does nothing.

        What has happened until then is among the events that come back.
        """


ERRORS_KEPT = 8
"""Errors kept at a time: each holds the arrays of the frames that it passed through."""


class Errors:
    """Errors of failed attempts by number, one for each text, so that the user gets the error itself."""

    def __init__(self) -> None:
        self._errors: dict[int, BaseException] = {}
        self._numbers: dict[str, int] = {}

    def failure_of(self, error: BaseException, *, is_final: bool = False) -> Failure:
        """Keep an error, and return the failure that stands for it."""
        reason = f"{type(error).__name__}: {without_secrets(error)}"
        number = self._numbers.setdefault(reason, len(self._numbers))
        self._errors[number] = error
        if len(self._errors) > ERRORS_KEPT:
            # The first one tells most.
            del self._errors[list(self._errors)[1]]
        return Failure(reason, number, is_final)

    def behind(self, failure: Failure) -> BaseException | None:
        """Return the error that a failure stands for; None where it is not kept any more."""
        return None if failure.error is None else self._errors.get(failure.error)


def failed(instruction: Instruction, failure: Failure) -> Event:
    """Return the event that an instruction has failed."""
    match instruction:
        case DeliverTiles(tiles):
            return TilesFailed(tiles, failure)
        case ProduceUnit(unit, attempt) | WriteUnit(unit, attempt):
            return UnitFailed(unit, attempt, failure)
    raise TypeError(f"{instruction} has no outcome")
