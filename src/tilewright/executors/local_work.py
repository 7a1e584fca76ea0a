"""Work in this process: an element is copied once between the model and the encoder.

`SerialExecutor` is the reference: one thing after the other, in the calling thread. Every other executor stores the
same bytes.
"""

import threading
from collections.abc import Sequence

from tilewright.assemble import AnyArray
from tilewright.coordinator import (
    DeliverTiles,
    Event,
    Failure,
    Instruction,
    ProduceUnit,
    TakeTile,
    TilesFailed,
    TilesPredicted,
    UnitFailed,
    UnitWritten,
    WriteUnit,
)
from tilewright.executors.executor import Errors
from tilewright.executors.held_tiles import HeldTiles
from tilewright.executors.work import Work


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
            return list(map(DeliverTiles, self.work.batches(instruction.tiles)))
        return [instruction]

    def perform(self, step: Instruction) -> Event:
        """Carry out one step, and return its outcome."""
        try:
            return self._performed(step)
        except Exception as error:
            # The coordinator decides what a failure means.
            return self._failed(step, self.errors.failure_of(error))

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

    def _failed(self, step: Instruction, failure: Failure) -> Event:
        match step:
            case DeliverTiles(tiles):
                return TilesFailed(tiles, failure)
            case ProduceUnit(unit, attempt) | WriteUnit(unit, attempt):
                return UnitFailed(unit, attempt, failure)
        raise TypeError(f"{step} is not carried out by work")
