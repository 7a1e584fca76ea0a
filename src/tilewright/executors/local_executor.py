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
    TilesPredicted,
    UnitWritten,
    WriteUnit,
)
from tilewright.executors.executor import Errors, failed
from tilewright.executors.held_tiles import HeldTiles
from tilewright.executors.work import Work
from tilewright.objects.unit_writer import StoredUnit


def is_prediction(step: Instruction) -> bool:
    """Tell whether a step asks the model for something."""
    return isinstance(step, DeliverTiles | ProduceUnit)


class LocalExecutor:
    """What the executors of this process have in common; tiles are held by their numbers, which are their handles too.

    Parameters
    ----------
    work : Work
        What the instructions are about.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stopped = threading.Event()
        self._let_go()

    def _let_go(self) -> None:
        """Forget the tiles and the errors."""
        self._errors = Errors()
        self._tiles = HeldTiles(self._work.plan)

    def held(self, tiles: Sequence[int]) -> list[AnyArray]:
        """Return tiles that were taken in."""
        return [self._tiles[tile] for tile in tiles]

    def error_behind(self, failure: Failure) -> BaseException | None:
        """Return the error behind a failure, if it is still kept."""
        return self._errors.behind(failure)

    def _hold(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> list[Event]:
        """Hold the valid regions of tiles that were predicted elsewhere, and return that they are there."""
        for instruction, valid in zip(instructions, arrays, strict=True):
            self._tiles.hold(instruction.tile, valid)
        return [TilesPredicted((instruction.tile,), (instruction.tile,)) for instruction in instructions]

    def _steps(self, instruction: Instruction) -> Sequence[Instruction]:
        """Return the parts of an instruction that different threads may carry out."""
        if isinstance(instruction, DeliverTiles):
            return list(map(DeliverTiles, self._work.batches(instruction.tiles)))
        return [instruction]

    def _perform(self, step: Instruction) -> Event:
        """Carry out one step, and return its outcome."""
        try:
            match step:
                case DeliverTiles(tiles):
                    for tile, valid in zip(tiles, self._work.predict(tiles), strict=True):
                        self._tiles.hold(tile, valid)
                    return TilesPredicted(tiles, tiles)
                case ProduceUnit(unit):
                    return self._written(unit, self._work.produce(unit, self._stopped.is_set))
                case WriteUnit(unit, _, tiles):
                    return self._written(unit, self._work.write_tiles(unit, {t: self._tiles[t] for t in tiles}))
        except Exception as error:
            # The coordinator decides what a failure means.
            return failed(step, self._errors.failure_of(error))
        raise TypeError(f"{step} is not carried out by work")

    def _written(self, unit: int, stored: StoredUnit) -> UnitWritten:
        """Hold a stored unit as a tile of the next coarser level, if it is one, and return that it is stored."""
        tile = self._work.plan.tile_of_unit(unit)
        if tile is not None and stored.coarser is not None:
            self._tiles.hold(tile, stored.coarser)
        return UnitWritten(unit, stored.receipt, tile)
