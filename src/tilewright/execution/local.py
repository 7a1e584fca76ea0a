"""Work that is carried out in this process: each element is copied once between the model and the encoder.

`SerialExecutor` is the reference: one thing after the other, in the calling thread. Every other executor stores the
same bytes.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from tilewright.assemble import AnyArray, UnitBuffer
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
from tilewright.execution.work import Work
from tilewright.storage.receipts import StageSeconds, UnitReceipt


@dataclass(frozen=True, slots=True)
class PlaceTile:
    """Copy a tile that was predicted elsewhere into the buffers of its units."""

    instruction: TakeTile
    valid: AnyArray


Step = Instruction | PlaceTile
"""What one thread carries out at a time."""


def is_prediction(step: Step) -> bool:
    """Tell whether a step asks the model for something."""
    return isinstance(step, DeliverTiles | ProduceUnit)


class LocalWork:
    """Carry out single instructions, in whatever thread of this process.

    Tiles are not kept: what comes of a tile is copied at once into the buffers of its units, and its handle is only a
    token. So nothing holds on to the halo of a tile, or to the batch that it came in.

    Parameters
    ----------
    work : Work
        What the instructions are about.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.errors = Errors()
        self.stopped = threading.Event()
        self._buffers: dict[int, UnitBuffer] = {}
        self._discarded: set[int] = set()
        self._unplaced: dict[int, PlaceTile] = {}
        self._assemble_seconds = 0.0
        self._lock = threading.Lock()

    def take(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> list[PlaceTile]:
        """Return the steps that copy tiles which were predicted elsewhere into the buffers of their units."""
        steps = list(map(PlaceTile, instructions, arrays))
        self._unplaced.update((step.instruction.tile, step) for step in steps)
        return steps

    def split(self, instruction: Instruction) -> Sequence[Step]:
        """Return the parts of an instruction that different threads may carry out."""
        if isinstance(instruction, DeliverTiles) and self.work.prediction is None:
            return [self._unplaced[tile] for tile in instruction.tiles]
        if isinstance(instruction, DeliverTiles):
            units = dict(zip(instruction.tiles, instruction.units, strict=True))
            batches = self.work.batches(instruction.tiles)
            return [DeliverTiles(batch, tuple(units[tile] for tile in batch)) for batch in batches]
        return [instruction]

    def discard(self, unit: int) -> None:
        """Let go of what was put together of a unit, and of what comes of it later."""
        with self._lock:
            self._discarded.add(unit)
            self._buffers.pop(unit, None)

    def perform(self, step: Step) -> Event:
        """Carry out one step, and return its outcome."""
        try:
            return self._performed(step)
        except Exception as error:
            # The coordinator decides what a failure means.
            return self._failed(step, self.errors.reason_of(error))

    def _performed(self, step: Step) -> Event:
        match step:
            case PlaceTile(TakeTile(tile, units), valid):
                self._place(tile, valid, units)
                self._unplaced.pop(tile, None)
                return TilesPredicted((tile,), (tile,))
            case DeliverTiles(tiles, units):
                for tile, valid, its_units in zip(tiles, self.work.predict(tiles), units, strict=True):
                    self._place(tile, valid, its_units)
                return TilesPredicted(tiles, tiles)
            case ProduceUnit(unit):
                return UnitWritten(unit, self.work.produce(unit, self.stopped.is_set))
            case WriteUnit(unit):
                return UnitWritten(unit, self._write(unit))
        raise TypeError(f"{step} is not carried out by work")

    def _failed(self, step: Step, reason: str) -> Event:
        match step:
            case PlaceTile(TakeTile(tile)):
                return TilesFailed((tile,), reason)
            case DeliverTiles(tiles):
                return TilesFailed(tiles, reason)
            case ProduceUnit(unit, attempt) | WriteUnit(unit, attempt):
                return UnitFailed(unit, attempt, reason)
        raise TypeError(f"{step} is not carried out by work")

    def _place(self, tile: int, valid: AnyArray, units: Sequence[int]) -> None:
        start = perf_counter()
        for unit in units:
            buffer = self._buffer(unit)
            if buffer is not None:
                buffer.place(tile, valid)
        with self._lock:
            self._assemble_seconds += perf_counter() - start

    def _buffer(self, unit: int) -> UnitBuffer | None:
        with self._lock:
            if unit in self._discarded:
                return None
            if unit not in self._buffers:
                self._buffers[unit] = self.work.writer.buffer(unit)
            return self._buffers[unit]

    def _write(self, unit: int) -> UnitReceipt:
        with self._lock:
            seconds = StageSeconds(assemble=self._assemble_seconds)
            self._assemble_seconds = 0.0
        receipt = self.work.write(unit, self._buffers[unit], seconds)
        with self._lock:
            # Only now: a write that failed is tried again from the same buffer.
            self.work.writer.recycle(self._buffers.pop(unit))
        return receipt


class SerialExecutor:
    """Carry out one instruction whenever events are asked for, in the calling thread.

    Parameters
    ----------
    work : Work
        What the instructions are about.
    """

    def __init__(self, work: Work) -> None:
        self._local = LocalWork(work)
        self._waiting: deque[Step] = deque()

    def carry_out(self, instruction: Instruction) -> None:
        """Remember an instruction; there is nothing to release."""
        match instruction:
            case ReleaseTile():
                pass
            case GiveUpUnit(unit):
                self._local.discard(unit)
            case _:
                self._waiting.extend(self._local.split(instruction))

    def stop_predicting(self) -> None:
        """Drop predictions that have not begun."""
        self._waiting = deque(step for step in self._waiting if not is_prediction(step))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued."""
        return not self._waiting

    def events(self, *, wait: bool) -> list[Event]:
        """Carry out the oldest instruction, and return its outcome."""
        return [self._local.perform(self._waiting.popleft())] if self._waiting else []

    def take(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> None:
        """Remember to copy tiles into the buffers of their units."""
        self._waiting.extend(self._local.take(instructions, arrays))

    def error_behind(self, reason: str) -> BaseException | None:
        """Return the error behind the reason of a failure."""
        return self._local.errors.behind(reason)

    def close(self) -> None:
        """Let go of all that is held."""
        self._waiting.clear()
        self._local = LocalWork(self._local.work)
