"""Loop between a coordinator and an executor: events one way, instructions the other, nothing else.

The loop is the same for each producer and each executor. It ends when every unit is written or given up.
"""

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from tilewright.assemble import AnyArray
from tilewright.coordinator import (
    Coordinator,
    Event,
    Failure,
    GiveUpUnit,
    Instruction,
    RecordReceipt,
    RoomChanged,
    StartAdmitting,
    StopAdmitting,
    TakeTile,
    TilesCounted,
    TilesFailed,
    TilesOffered,
    UnitFailed,
)
from tilewright.errors import DestinationError, FinalError, NotSharedError, UnitGivenUpError
from tilewright.executors.executor import Executor
from tilewright.ledger.receipts import UnitReceipt
from tilewright.stopping import StopRequest
from tilewright.stores.patience import is_fatal

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """What keeps what a run has done."""

    def written(self, receipt: UnitReceipt) -> None:
        """Take in the receipt of a unit that is stored."""

    def given_up(self, unit: int) -> None:
        """Take in that a unit is given up."""

    def flush(self) -> None:
        """Write down what was taken in."""

    def check(self) -> None:
        """Raise OutputInUseError where another run has the output."""


class Run:
    """Drive one output array to completion.

    Parameters
    ----------
    coordinator : Coordinator
        Decisions.
    executor : Executor
        Work.
    recorder : Recorder
        Record of what is done.
    """

    def __init__(self, coordinator: Coordinator, executor: Executor, recorder: Recorder) -> None:
        self.coordinator = coordinator
        self.executor = executor
        self._recorder = recorder
        self._given_up_in_a_row = 0
        self._room_nbytes = 0

    def predict_and_write(self, stop: StopRequest | None = None, most_nbytes: Callable[[], int] | None = None) -> None:
        """Ask for all tiles, and return when every unit is written or given up.

        Parameters
        ----------
        stop : StopRequest, optional
            Request to stop the run.
        most_nbytes : callable, optional
            Returns what the tiles may take, where that may be more than the plan says: as much as keeps all threads
            busy, also those of a cluster that grows.

        Raises
        ------
        RunStoppedError
            If it was asked to stop. What was in flight is finished, as far as its time of grace allowed.
        Exception
            The error of the model, the source or the store, where no unit at all could be written.
        DestinationError
            If the disk is full.
        FinalError
            If no other attempt could be better: the run does not hold its lock any more, say.
        """
        self._handle(StartAdmitting())
        while not self.coordinator.is_idle:
            if stop is not None and stop.is_requested:
                self._stop(stop)
                return
            if most_nbytes is not None and self.executor.wanted_nbytes > self._room_nbytes:
                self._make_room(most_nbytes())
            self.advance(wait=True)

    def complete_levels(self) -> None:
        """Make tiles of units that an earlier run has written, where units of coarser levels need them."""
        self._handle(StartAdmitting(predicts=False))

    def hand_over(self, tiles: Sequence[int], arrays: Sequence[AnyArray]) -> None:
        """Hand over the valid regions of tiles, and wait while as much is in flight as may be.

        What comes twice is not taken again. The arrays are held until their units are written, and must not change.
        """
        self.advance()
        offered: dict[int, AnyArray] = {}
        for tile, array in zip(tiles, arrays, strict=True):
            ahead = sum(other.nbytes for other in offered.values())
            if offered and self.coordinator.is_over_budget(ahead + array.nbytes):
                self._offer(offered)
                offered = {}
            while self.coordinator.must_wait(array.nbytes) or self.executor.is_full:
                self.advance(wait=True)
            offered[tile] = array
        self._offer(offered)
        self.advance()

    def tiles_counted(self, unit: int) -> None:
        """Take in that all tiles of a unit were handed over, and return when it is being written."""
        self._handle(TilesCounted(unit))
        while self.coordinator.misses_tiles(unit):
            self.advance(wait=True)

    def advance(self, *, wait: bool = False) -> None:
        """Take in what has happened; where `wait` is true, wait for something, a second at most."""
        events = self.executor.events(wait=wait)
        errors: list[BaseException] = []
        for event in events:
            # An error must not keep the other events, units that are stored, from the ledger.
            try:
                self._handle(event)
            except Exception as error:
                errors.append(error)
        if events:
            self._recorder.flush()
        if errors:
            raise errors[0]

    def finish(self) -> None:
        """Return when no answer is outstanding."""
        while not self.coordinator.is_idle:
            self.advance(wait=True)

    def drain(self, grace_seconds: float) -> None:
        """Ask for nothing more, and wait for what is in flight, so long at most."""
        self._handle(StopAdmitting())
        self.executor.stop_predicting()
        until = monotonic() + grace_seconds
        while not self.executor.is_idle and monotonic() < until:
            self.advance(wait=True)

    def settle(self) -> None:
        """End now: let go of what is in flight, and record what was written."""
        self._handle(StopAdmitting())
        self.executor.close()
        self.advance()

    def _make_room(self, most_nbytes: int) -> None:
        """Let more tiles be in flight, as far as there is memory."""
        self._room_nbytes = self.executor.wanted_nbytes
        waiting_nbytes = self.coordinator.plan.waiting_nbytes
        self._handle(RoomChanged(min(self._room_nbytes, most_nbytes - waiting_nbytes)))

    def _stop(self, stop: StopRequest) -> None:
        """Finish what is in flight, and say how far the run came, if not to its end."""
        self.drain(stop.grace_seconds)
        if self.coordinator.is_finished:
            return
        written, units = self.coordinator.written_count, len(self.coordinator.owned)
        stop.progress = lambda: f"{written} of {units} units are written"
        raise stop.error()

    def _offer(self, offered: dict[int, AnyArray]) -> None:
        instructions = self.coordinator.handle(TilesOffered(tuple(offered)))
        wanted = [instruction for instruction in instructions if isinstance(instruction, TakeTile)]
        self.executor.take(wanted, [offered[instruction.tile] for instruction in wanted])

    def _handle(self, event: Event) -> None:
        if isinstance(event, UnitFailed | TilesFailed):
            self._check_cause(event)
        for instruction in self.coordinator.handle(event):
            self._carry_out(instruction)

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case RecordReceipt(_, receipt) if isinstance(receipt, UnitReceipt):
                self._given_up_in_a_row = 0
                self._recorder.written(receipt)
            case GiveUpUnit(unit, failure):
                self._recorder.given_up(unit)
                self._check_hope(unit, failure)
            case _:
                self.executor.carry_out(instruction)

    def _check_cause(self, failed: UnitFailed | TilesFailed) -> None:
        """Raise where no later attempt can be better: another run has the output, say, or the disk is full."""
        error = self.executor.error_behind(failed.failure)
        if isinstance(error, NotSharedError):
            # No worker sees a lock that is gone.
            self._recorder.check()
        if isinstance(error, FinalError):
            raise error
        if isinstance(error, OSError) and is_fatal(error):
            full = DestinationError(
                error.errno,
                f"the disk takes nothing any more: {error.strerror}; what is written is complete. Make space, then run "
                "again with if_exists='resume' to go on from there",
                error.filename,
            )
            if isinstance(failed, UnitFailed):
                full.add_note(f"{self.coordinator.plan.describe_unit(failed.unit)} was to be written")
            raise full from error

    def _check_hope(self, unit: int, failure: Failure) -> None:
        """Go on without a unit, unless no other unit fares better: then raise the error behind it."""
        if failure.is_consequence:
            return
        self._given_up_in_a_row += 1
        coordinator = self.coordinator
        error = self.executor.error_behind(failure)
        name = coordinator.plan.describe_unit(unit)
        message = f"{name} was given up after {coordinator.policy.attempts} attempts: {failure}"
        is_hopeless = coordinator.policy.is_hopeless(
            in_a_row=self._given_up_in_a_row,
            written=coordinator.written_count,
            others=len(coordinator.owned) - len(coordinator.given_up),
        )
        if not is_hopeless:
            _log.warning("%s", message, exc_info=error)
            return
        if error is None:
            raise UnitGivenUpError(message)
        # The user gets the error itself, with the traceback of the place where it was raised.
        error.add_note(message)
        raise error
