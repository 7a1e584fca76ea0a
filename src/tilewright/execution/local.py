"""Work that is carried out in this process: arrays are handed over by reference, and copied by nobody.

`SerialExecutor` is the reference: one thing after the other, in the calling thread. Every other executor stores the
same bytes.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from itertools import count

from tilewright.assemble import AnyArray
from tilewright.coordinator import (
    DeliverTiles,
    Event,
    Instruction,
    ProduceUnit,
    ReleaseTile,
    TilesFailed,
    TilesPredicted,
    UnitFailed,
    UnitWritten,
    WriteUnit,
)
from tilewright.execution.executor import Errors
from tilewright.execution.work import Work


class LocalWork:
    """Carry out single instructions, in whatever thread of this process.

    Parameters
    ----------
    work : Work
        What the instructions are about.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.errors = Errors()
        self._held: dict[Hashable, AnyArray] = {}
        self._numbers = count()

    def hold(self, tiles: Sequence[int], arrays: Sequence[AnyArray]) -> tuple[Hashable, ...]:
        """Keep arrays under new handles."""
        handles = tuple(next(self._numbers) for _ in tiles)
        self._held.update(zip(handles, arrays, strict=True))
        return handles

    def release(self, handle: Hashable) -> None:
        """Let go of an array."""
        self._held.pop(handle, None)

    def split(self, instruction: Instruction) -> list[Instruction]:
        """Return the parts of an instruction that different threads may carry out."""
        if isinstance(instruction, DeliverTiles):
            return [DeliverTiles(batch) for batch in self.work.batches(instruction.tiles)]
        return [instruction]

    def perform(self, instruction: Instruction) -> Event:
        """Carry out one part of an instruction, and return its outcome."""
        try:
            match instruction:
                case DeliverTiles(tiles):
                    return TilesPredicted(tiles, self.hold(tiles, self.work.predict(tiles)))
                case ProduceUnit(unit):
                    return UnitWritten(unit, self.work.produce(unit))
                case WriteUnit(unit, _, tiles, handles):
                    arrays = {tile: self._held[handle] for tile, handle in zip(tiles, handles, strict=True)}
                    return UnitWritten(unit, self.work.write(unit, arrays))
        except Exception as error:
            reason = self.errors.reason_of(error)
            match instruction:
                case DeliverTiles(tiles):
                    return TilesFailed(tiles, reason)
                case ProduceUnit(unit, attempt) | WriteUnit(unit, attempt):
                    return UnitFailed(unit, attempt, reason)
        raise TypeError(f"{instruction} is not carried out by work")


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

    def carry_out(self, instruction: Instruction) -> None:
        """Remember an instruction; a tile is released at once."""
        if isinstance(instruction, ReleaseTile):
            self._local.release(instruction.handle)
        else:
            self._waiting.extend(self._local.split(instruction))

    def events(self, *, wait: bool) -> list[Event]:
        """Carry out the oldest instruction, and return its outcome."""
        return [self._local.perform(self._waiting.popleft())] if self._waiting else []

    def hold(self, tiles: Sequence[int], arrays: Sequence[AnyArray]) -> tuple[Hashable, ...]:
        """Keep arrays under new handles."""
        return self._local.hold(tiles, arrays)

    def error_behind(self, reason: str) -> BaseException | None:
        """Return the error behind the reason of a failure."""
        return self._local.errors.behind(reason)

    def close(self) -> None:
        """Let go of all that is held."""
        self._waiting.clear()
        self._local = LocalWork(self._local.work)
