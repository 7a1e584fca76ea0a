"""Work that is carried out in this process: an element is copied once between the model and the encoder.

`SerialExecutor` is the reference: one thing after the other, in the calling thread. Every other executor stores the
same bytes.
"""

import threading
from collections import deque
from collections.abc import Sequence

from tilewright.assemble import AnyArray
from tilewright.coordinator import (
    DeliverTiles,
    Event,
    GiveUpUnit,
    Instruction,
    ProduceUnit,
    ReleaseTile,
    TakeTile,
    TilesFailed,
    TilesPredicted,
    UnitFailed,
    UnitWritten,
    WriteUnit,
)
from tilewright.execution.executor import Errors
from tilewright.execution.held_tiles import HeldTiles
from tilewright.execution.work import Work


def is_prediction(step: Instruction) -> bool:
    """Tell whether a step asks the model for something."""
    return isinstance(step, DeliverTiles | ProduceUnit)


class LocalWork:
    """Carry out single instructions, in whatever thread of this process.

    Tiles are held by their numbers, which are their handles too.

    Parameters
    ----------
    work : Work
        What the instructions are about.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.errors = Errors()
        self.stopped = threading.Event()
        self.held = HeldTiles(work.plan)

    def take(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> list[Event]:
        """Hold the valid regions of tiles that were predicted elsewhere, and return that they are there."""
        for instruction, valid in zip(instructions, arrays, strict=True):
            self.held.hold(instruction.tile, valid)
        return [TilesPredicted((instruction.tile,), (instruction.tile,)) for instruction in instructions]

    def split(self, instruction: Instruction) -> Sequence[Instruction]:
        """Return the parts of an instruction that different threads may carry out."""
        if isinstance(instruction, DeliverTiles):
            units = dict(zip(instruction.tiles, instruction.units, strict=True))
            batches = self.work.batches(instruction.tiles)
            return [DeliverTiles(batch, tuple(units[tile] for tile in batch)) for batch in batches]
        return [instruction]

    def perform(self, step: Instruction) -> Event:
        """Carry out one step, and return its outcome."""
        try:
            return self._performed(step)
        except Exception as error:
            # The coordinator decides what a failure means.
            return self._failed(step, self.errors.reason_of(error))

    def _performed(self, step: Instruction) -> Event:
        match step:
            case DeliverTiles(tiles):
                for tile, valid in zip(tiles, self.work.predict(tiles), strict=True):
                    self.held.hold(tile, valid)
                return TilesPredicted(tiles, tiles)
            case ProduceUnit(unit):
                return UnitWritten(unit, self.work.produce(unit, self.stopped.is_set))
            case WriteUnit(unit, _, tiles):
                return UnitWritten(unit, self.work.write_tiles(unit, {tile: self.held[tile] for tile in tiles}))
        raise TypeError(f"{step} is not carried out by work")

    def _failed(self, step: Instruction, reason: str) -> Event:
        match step:
            case DeliverTiles(tiles):
                return TilesFailed(tiles, reason)
            case ProduceUnit(unit, attempt) | WriteUnit(unit, attempt):
                return UnitFailed(unit, attempt, reason)
        raise TypeError(f"{step} is not carried out by work")


class SerialExecutor:
    """Carry out one instruction whenever events are asked for, in the calling thread.

    Parameters
    ----------
    work : Work
        What the instructions are about.
    """

    def __init__(self, work: Work) -> None:
        self._local = LocalWork(work)
        self._waiting: deque[Instruction] = deque()
        self._happened: list[Event] = []

    def carry_out(self, instruction: Instruction) -> None:
        """Remember an instruction, or release a tile at once."""
        match instruction:
            case ReleaseTile(tile):
                self._local.held.release(tile)
            case GiveUpUnit():
                pass
            case _:
                self._waiting.extend(self._local.split(instruction))

    def stop_predicting(self) -> None:
        """Drop predictions that have not begun."""
        self._waiting = deque(step for step in self._waiting if not is_prediction(step))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued."""
        return not (self._waiting or self._happened)

    @property
    def wanted_nbytes(self) -> int:
        """Those of one unit."""
        return self._local.work.plan.largest_unit_nbytes

    @property
    def is_full(self) -> bool:
        """Whether tiles would be copied that need not be."""
        return self._local.held.is_full and not self.is_idle

    def events(self, *, wait: bool) -> list[Event]:
        """Return what was taken in; if there is nothing, carry out the oldest instruction, and return its outcome."""
        if self._happened:
            happened, self._happened = self._happened, []
            return happened
        return [self._local.perform(self._waiting.popleft())] if self._waiting else []

    def take(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> None:
        """Hold tiles until their units are written."""
        self._happened += self._local.take(instructions, arrays)

    def error_behind(self, reason: str) -> BaseException | None:
        """Return the error behind the reason of a failure."""
        return self._local.errors.behind(reason)

    def close(self) -> None:
        """Let go of all that is held."""
        self._waiting.clear()
        self._local = LocalWork(self._local.work)
