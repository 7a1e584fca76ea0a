"""Work of an executor, the same on each of them: predict tiles, write a unit, or both in one place.

The result depends on the plan, the source and the model only. A tile is always in the same batch, since a model may
give other last digits in another one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from tilewright.assemble import AnyArray
from tilewright.coordinator import UnitPlan
from tilewright.ledger.receipts import StageSeconds
from tilewright.locks.reach import Reach
from tilewright.model.tile_prediction import TilePrediction
from tilewright.objects.unit_writer import StoredUnit, UnitWriter
from tilewright.plan import WritePlan


class TileWriter(Protocol):
    """Writer of a unit of which all tiles are there."""

    def write_tiles(self, unit: int, tiles: Mapping[int, AnyArray]) -> StoredUnit:
        """Write a unit from the valid regions of its tiles."""

    def stored_tile(self, unit: int) -> AnyArray:
        """Return a unit that is stored as a tile of the next coarser level."""


@dataclass(frozen=True)
class Work:
    """All that is needed to carry out the instructions for one output.

    Parameters
    ----------
    plan : UnitPlan
        Tiles and units; a WritePlan where tiles are predicted.
    writer : TileWriter
        Writer of the units; a UnitWriter where tiles are predicted.
    prediction : TilePrediction or None
        How tiles are predicted; None where a trainer predicts and hands them over.
    reach : Reach or None
        How a worker proves that it has the store of its client; None where both are one process.
    """

    plan: UnitPlan
    writer: TileWriter
    prediction: TilePrediction | None = None
    reach: Reach | None = None

    def batches(self, tiles: Sequence[int]) -> list[tuple[int, ...]]:
        """Return those tiles in the batches that the model sees; it sees the whole batch, whichever are needed.

        Tiles that are made of stored units are batches of one.
        """
        made: list[tuple[int, ...]] = [(tile,) for tile in tiles if self.plan.unit_of_tile(tile) is not None]
        wanted = {tile for tile in tiles if self.plan.unit_of_tile(tile) is None}
        if not wanted:
            return made
        prediction, plan, _ = self._predicted
        batches = prediction.batches(plan, sorted(wanted))
        return [tuple(tile for tile in batch if tile in wanted) for batch in batches] + made

    def groups(self, tiles: Sequence[int], group_nbytes: int) -> list[tuple[int, ...]]:
        """Return those tiles in groups of whole batches, each of about so many bytes."""
        groups: list[tuple[int, ...]] = []
        nbytes = group_nbytes
        for batch in self.batches(tiles):
            if nbytes >= group_nbytes:
                groups.append(())
                nbytes = 0
            groups[-1] += batch
            nbytes += sum(map(self.plan.tile_nbytes, batch))
        return groups

    def predict(self, tiles: Sequence[int]) -> list[AnyArray]:
        """Return the valid regions of some tiles of one batch."""
        if (unit := self.plan.unit_of_tile(tiles[0])) is not None:
            return [self.writer.stored_tile(unit)]
        prediction, plan, _ = self._predicted
        (batch,) = prediction.batches(plan, tiles)
        predicted = dict(zip(batch, prediction.predict(plan, batch), strict=True))
        return [predicted[tile] for tile in tiles]

    def write_tiles(self, unit: int, tiles: Mapping[int, AnyArray]) -> StoredUnit:
        """Write a unit from the valid regions of its tiles."""
        return self._with_spent(self.writer.write_tiles(unit, tiles))

    def produce(self, unit: int, is_stopped: Callable[[], bool] = lambda: False) -> StoredUnit:
        """Predict the tiles of a unit, and write it; between two batches it may be stopped."""
        prediction, plan, writer = self._predicted
        buffer, seconds = writer.buffer(unit), StageSeconds()
        tiles = plan.tiles_of_unit(unit)
        wanted = set(tiles)
        with prediction.turn() as turn:
            for batch in prediction.batches(plan, tiles):
                if is_stopped():
                    raise InterruptedError(f"unit {unit} was not finished: the run was stopped")
                turn.go_on()
                predicted = prediction.predict(plan, batch)
                start = perf_counter()
                for tile, valid in zip(batch, predicted, strict=True):
                    if tile in wanted:
                        buffer.place(tile, valid)
                seconds.assemble += perf_counter() - start
        stored = writer.write(unit, buffer)
        writer.recycle(unit, buffer)
        stored.receipt.seconds.add(seconds)
        return self._with_spent(stored)

    def _with_spent(self, stored: StoredUnit) -> StoredUnit:
        """Let a receipt carry along what predicting took in this process since the last one."""
        if self.prediction is None:
            return stored
        receipt = stored.receipt
        seconds, lost_count = self.prediction.take_spent()
        receipt.seconds.add(seconds)
        missing = self.prediction.source.take_missing()
        return stored._replace(receipt=replace(receipt, lost_count=lost_count, missing=missing))

    @property
    def _predicted(self) -> tuple[TilePrediction, WritePlan, UnitWriter]:
        """The prediction, and the plan and the writer of its output."""
        if self.prediction is None or not isinstance(self.plan, WritePlan) or not isinstance(self.writer, UnitWriter):
            raise RuntimeError("this run has no model: its tiles are handed over")
        return self.prediction, self.plan, self.writer
