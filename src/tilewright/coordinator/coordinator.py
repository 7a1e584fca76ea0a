"""Every unit is written once in effect, from all of its tiles, in any order of arrival, also where tiles come twice.

`Coordinator.handle` is the only thing that changes a coordinator. It has no clock, no thread and no I/O: the same
events give the same instructions. It remembers what is open; of what is done it keeps one bit per unit.
"""

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Any

from tilewright.coordinator.admission import Admission
from tilewright.coordinator.messages import (
    DeliverTiles,
    Event,
    Failure,
    GiveUpUnit,
    Instruction,
    ProduceUnit,
    RecordReceipt,
    ReleaseTile,
    RoomChanged,
    StartAdmitting,
    StopAdmitting,
    TakeTile,
    TilesCounted,
    TilesFailed,
    TilesLost,
    TilesOffered,
    TilesPredicted,
    UnitFailed,
    UnitWritten,
    WriteUnit,
)
from tilewright.coordinator.open_work import OpenTile, OpenUnit, OpenWork, Ownership
from tilewright.coordinator.retry import RetryPolicy
from tilewright.coordinator.transitions import MOVES, Cause, TileState, UnitState
from tilewright.coordinator.unit_plan import UNKNOWN_COUNT, UnitPlan


class Coordinator(OpenWork):
    """Assign tiles to write units, and say what is to be done next.

    Parameters
    ----------
    plan : WritePlan, or another UnitPlan
        The tiles and units.
    written : iterable of int, optional
        Units that an earlier run has written.
    policy : RetryPolicy, optional
        Attempts of one unit, and of one tile.
    ownership : Ownership, optional
        Units of the run, by default all; others are neither waited for nor instructed.

    Examples
    --------
    >>> from tilewright.plan import plan_write
    >>> coordinator = Coordinator(plan_write((4, 4), "YX", (4, 4), (0, 0)))
    >>> coordinator.handle(TilesPredicted((0,), ("prediction",)))
    [WriteUnit(unit=0, attempt=1, tiles=(0,), handles=('prediction',))]
    >>> coordinator.handle(UnitWritten(0, "stored"))
    [RecordReceipt(unit=0, receipt='stored'), ReleaseTile(tile=0, handle='prediction')]
    >>> coordinator.is_complete
    True
    """

    def __init__(
        self,
        plan: UnitPlan,
        *,
        written: Iterable[int] = (),
        policy: RetryPolicy | None = None,
        ownership: Ownership | None = None,
    ) -> None:
        super().__init__(plan, ownership or Ownership(), written)
        self.policy = policy or RetryPolicy()
        self._admission = Admission(plan, self._settled)
        self._is_admitting = False
        self._to_deliver: list[int] = []
        # Those of the event that is being handled.
        self._instructions: list[Instruction] = []

    def handle(self, event: Event) -> list[Instruction]:
        """Take in what happened, and return what is to be done.

        Parameters
        ----------
        event : Event
            What happened. Duplicates, and answers that come too late, do no harm.

        Returns
        -------
        list of Instruction
            To be carried out in any order.
        """
        self._instructions = []
        match event:
            case TilesPredicted(tiles, handles):
                for tile, handle in zip(tiles, handles, strict=True):
                    self._tile_predicted(tile, handle)
            case TilesCounted(unit):
                self._tiles_counted(unit)
            case UnitWritten(unit, receipt, handle):
                self._unit_written(unit, receipt, handle)
            case TilesOffered(tiles):
                self._ask_for(tiles, Cause.OFFERED)
            case TilesLost(tiles, handles):
                self._tiles_lost(tiles, handles)
            case TilesFailed(tiles, failure):
                self._tiles_failed(tiles, failure)
            case UnitFailed(unit, attempt, failure):
                self._unit_failed(unit, attempt, failure)
            case StartAdmitting(predicts):
                self._is_admitting = True
                self._admission.begin(predicts=predicts)
            case StopAdmitting():
                self._is_admitting = False
            case RoomChanged(nbytes):
                self.budget_nbytes = max(self.plan.admitted_nbytes, self.plan.waiting_nbytes + nbytes)
        if self._is_admitting:
            self._admit()
        return self._instructions

    # One method per event.

    def _tile_predicted(self, tile: int, handle: Hashable) -> None:
        record = self._tiles.get(tile)
        if record is None and (units := self._open_units_of(tile)):
            record = self._open_tile(tile, units)
        if record is None or (record.state is TileState.HELD and record.handle != handle):
            # No unit needs it, or needs it twice.
            self._instructions.append(ReleaseTile(tile, handle))
            return
        if not self._move(tile, record, Cause.PREDICTED):
            return
        record.handle = handle
        for unit in self.plan.units_of_tile(tile):
            owner = self._units.get(unit)
            if owner is not None:
                owner.missing -= 1
                if owner.missing == 0:
                    self._move(unit, owner, Cause.LAST_TILE_HELD)

    def _tiles_counted(self, unit: int) -> None:
        owner = self._units.get(unit)
        if owner is not None and owner.missing > self.plan.tile_count_of_unit(unit):
            owner.missing -= UNKNOWN_COUNT - self.plan.tile_count_of_unit(unit)
            if owner.missing == 0:
                self._move(unit, owner, Cause.LAST_TILE_HELD)

    def _tiles_lost(self, tiles: tuple[int, ...], handles: tuple[Hashable, ...]) -> None:
        for tile, handle in zip(tiles, handles, strict=True):
            record = self._tiles.get(tile)
            if record is None or record.handle != handle or not self._move(tile, record, Cause.TILE_LOST):
                continue
            record.handle = None
            for unit in self._open_units_of(tile):
                owner = self._units[unit]
                owner.missing += 1
                self._move(unit, owner, Cause.TILE_LOST)
        self._deliver()

    def _tiles_failed(self, tiles: tuple[int, ...], failure: Failure) -> None:
        again = []
        for tile in tiles:
            record = self._tiles.get(tile)
            if record is None or record.state is not TileState.EXPECTED:
                continue
            record.failures += 1
            if not failure.is_final and not self.policy.is_spent(record.failures):
                again.append(tile)
                continue
            unit_of_tile = self.plan.unit_of_tile(tile)
            what = f"tile {tile} could not be predicted"
            if unit_of_tile is not None:
                what = f"{self.plan.describe_unit(unit_of_tile)} could not be read for a coarser level"
            of_tile = replace(failure, reason=f"{what}: {failure.reason}")
            for unit in self._open_units_of(tile):
                self._close_unit(unit, Cause.ATTEMPTS_SPENT, of_tile)
        for tile in again:
            # A unit that was just given up may have been the last that needed one of the others.
            record = self._tiles.get(tile)
            if record is not None:
                self._move(tile, record, Cause.FAILED)
        self._deliver()

    def _unit_written(self, unit: int, receipt: object, handle: Hashable) -> None:
        if not self._is_done(unit):
            self._settled.add(unit)
            self._close_unit(unit, Cause.STORED, receipt)
        tile = self.plan.tile_of_unit(unit) if self._has_levels else None
        if tile is None:
            return
        if handle is not None:
            self._tile_predicted(tile, handle)
        for coarser in self._open_units_of(tile):
            # Others of its tiles are made of units that an earlier run has written.
            self._ask_for(self._made_tiles(coarser), Cause.ADMITTED)

    def _unit_failed(self, unit: int, attempt: int, failure: Failure) -> None:
        owner = self._units.get(unit)
        if owner is None or owner.attempt != attempt or (owner.state, Cause.FAILED) not in MOVES:
            return
        owner.failures += 1
        if failure.is_final or self.policy.is_spent(owner.failures):
            self._close_unit(unit, Cause.ATTEMPTS_SPENT, failure)
        else:
            self._move(unit, owner, Cause.FAILED)

    def _admit(self) -> None:
        """Ask for tiles in the order of units, as far as there is room.

        The plan's figure leaves room for all tiles of a unit beside all that wait, so the oldest open unit always
        finishes, whatever the order in which tiles come.
        """
        admission = self._admission
        while admission.nbytes is not None and self._has_room(admission.nbytes):
            nbytes = admission.nbytes
            unit, tiles = admission.take()
            if unit >= self.plan.finest_unit_count:
                self._ask_for(self._made_tiles(unit), Cause.ADMITTED)
            elif not self.plan.units_are_independent:
                self._ask_for(tiles, Cause.ADMITTED)
            elif not self._is_done(unit) and self._move(unit, self._open_unit(unit), Cause.ADMITTED):
                self._add_live(nbytes)

    def _has_room(self, nbytes: int) -> bool:
        """Return whether so many bytes more may be asked for; while nothing is under way, coarser levels make room."""
        if self.live_nbytes + nbytes > self.budget_nbytes:
            return False
        return not self._has_levels or self.is_idle or self.coarser_nbytes <= self.plan.coarser_waiting_nbytes

    def _ask_for(self, tiles: tuple[int, ...], cause: Cause) -> None:
        """Ask for those of these tiles that are neither held, nor on their way, nor done with."""
        for tile in tiles:
            units = () if tile in self._tiles else self._open_units_of(tile)
            if units:
                self._move(tile, self._open_tile(tile, units), cause)
        self._deliver()

    # What the events have in common.

    def _move(self, number: int, record: OpenUnit | OpenTile, cause: Cause, detail: object = None) -> bool:
        """Move a unit or a tile as the table says, and instruct what the table says; return whether it moves."""
        move = MOVES.get((record.state, cause))
        if move is None:
            return False
        record.state, waited_for, instruction = move
        self._waited_for += waited_for
        if instruction is not None:
            self._instruct(instruction, number, record, detail)
        return True

    def _instruct(self, kind: type[Instruction], number: int, record: Any, detail: Any) -> None:
        """Add an instruction of a kind; tiles to be delivered are collected for one instruction."""
        if kind is RecordReceipt:
            self._instructions.append(RecordReceipt(number, detail))
        elif kind is ProduceUnit:
            record.attempt += 1
            self._instructions.append(ProduceUnit(number, record.attempt))
        elif kind is WriteUnit:
            record.attempt += 1
            tiles = self.plan.tiles_of_unit(number)
            handles = tuple([self._tiles[tile].handle for tile in tiles])
            self._instructions.append(WriteUnit(number, record.attempt, tiles, handles))
        elif kind is ReleaseTile:
            self._instructions.append(ReleaseTile(number, record.handle))
        elif kind is DeliverTiles:
            self._to_deliver.append(number)
        elif kind is TakeTile:
            self._instructions.append(TakeTile(number))
        else:
            self.given_up[number] = detail
            self._instructions.append(GiveUpUnit(number, detail))

    def _give_up_coarser(self, unit: int) -> None:
        """Give up the units of coarser levels that a unit would have been a part of."""
        tile = self.plan.tile_of_unit(unit)
        for coarser in () if tile is None else self._open_units_of(tile):
            reason = f"{self.plan.describe_unit(unit)} was given up, and this one is made of it"
            self._close_unit(coarser, Cause.ATTEMPTS_SPENT, Failure(reason, is_final=True, is_consequence=True))

    def _deliver(self) -> None:
        """Put the tiles that are to be delivered into one instruction."""
        if self._to_deliver:
            self._instructions.append(DeliverTiles(tuple(self._to_deliver)))
            self._to_deliver.clear()

    def _close_unit(self, unit: int, cause: Cause, detail: object) -> None:
        """Let go of a unit that is written or given up, and of the tiles that no other unit needs."""
        owner = self._open_unit(unit)
        was_produced = owner.state is UnitState.PRODUCING
        self._move(unit, owner, cause, detail)
        del self._units[unit]
        if cause is Cause.ATTEMPTS_SPENT:
            self._give_up_coarser(unit)
        if was_produced:
            self.live_nbytes -= self.plan.unit_nbytes(unit)
            return
        for tile in self.plan.tiles_of_unit(unit):
            record = self._tiles.get(tile)
            if record is None:
                continue
            record.open_units -= 1
            if record.open_units == 0:
                self._move(tile, record, Cause.UNITS_DONE)
                self._forget_tile(tile, record)
