"""Every unit is written once in effect, from all of its tiles, in whatever order, and however often, these arrive.

`Coordinator.handle` is the only thing that changes a coordinator. It has no clock, no thread and no I/O: the same
events give the same instructions. It remembers what is open; of what is done it keeps one bit per unit.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tilewright.coordinator.events import (
    Event,
    RoomChanged,
    StartAdmitting,
    StopAdmitting,
    TilesFailed,
    TilesLost,
    TilesOffered,
    TilesPredicted,
    UnitFailed,
    UnitWritten,
)
from tilewright.coordinator.instructions import (
    DeliverTiles,
    GiveUpUnit,
    Instruction,
    ProduceUnit,
    RecordReceipt,
    ReleaseTile,
    TakeTile,
    WriteUnit,
)
from tilewright.coordinator.transitions import MOVES, Cause, TileState, UnitState
from tilewright.plan import WritePlan


@dataclass(slots=True)
class _OpenUnit:
    state: UnitState | TileState
    missing: int
    attempt: int = 0
    failures: int = 0


@dataclass(slots=True)
class _OpenTile:
    state: UnitState | TileState
    open_units: int
    nbytes: int
    handle: Hashable = None
    failures: int = 0


class Coordinator:
    """Assign tiles to write units, and say what is to be done next.

    Parameters
    ----------
    plan : WritePlan
        The tiles and units of one image.
    written : iterable of int, optional
        Units that an earlier run has written.
    attempts : int, default=3
        How often a unit may be written, and a tile predicted, before it is given up.

    Attributes
    ----------
    live_nbytes : int
        Bytes of tiles that are held or have been asked for.
    peak_live_nbytes : int
        The largest value that it had so far.
    given_up : dict of int to str
        Units that failed too often, and why. What arrives of them later is not looked at.

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

    def __init__(self, plan: WritePlan, *, written: Iterable[int] = (), attempts: int = 3) -> None:
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {attempts}")
        self.plan = plan
        self.budget_nbytes = plan.peak_live_nbytes
        self.attempts = attempts
        self.live_nbytes = 0
        self.peak_live_nbytes = 0
        self.given_up: dict[int, str] = {}
        self._units: dict[int, _OpenUnit] = {}
        self._tiles: dict[int, _OpenTile] = {}
        self._written = bytearray(-(-plan.unit_count // 8))
        self._written_count = 0
        self._admitting = False
        self._next_unit = 0
        self._next_tiles: tuple[int, ...] = ()
        self._next_nbytes: int | None = None
        self._first_open = 0
        self._waited_for = 0
        for unit in written:
            self._mark_written(unit)

    @property
    def is_complete(self) -> bool:
        """Whether every unit is written."""
        return self._written_count == self.plan.unit_count

    @property
    def is_finished(self) -> bool:
        """Whether every unit is written or given up."""
        return self._written_count + len(self.given_up) == self.plan.unit_count

    @property
    def is_idle(self) -> bool:
        """Whether no answer to an instruction is outstanding."""
        return self._waited_for == 0

    @property
    def written_count(self) -> int:
        """The number of units that are written."""
        return self._written_count

    def is_written(self, unit: int) -> bool:
        """Tell whether this unit is written."""
        return bool(self._written[unit >> 3] & (1 << (unit & 7)))

    def missing_units(self) -> Iterator[int]:
        """Iterate over the units that are not written."""
        return (unit for unit in range(self.plan.unit_count) if not self.is_written(unit))

    def missing_tiles(self) -> list[int]:
        """Return the tiles without which units that are not written cannot be, and that are not held."""
        tiles = {tile for unit in self.missing_units() for tile in self.plan.tiles_of_unit(unit)}
        held = {tile for tile, record in self._tiles.items() if record.state is TileState.HELD}
        return sorted(tiles - held)

    def must_wait(self, nbytes: int) -> bool:
        """Tell whether a producer that nobody asked should wait before it hands over this many bytes more.

        It need not where nothing is under way: then only a further tile can free memory.
        """
        return not self.is_idle and self.is_over_budget(nbytes)

    def is_over_budget(self, nbytes: int) -> bool:
        """Tell whether this many bytes more would be more than the plan's figure."""
        return self.live_nbytes + nbytes > self.budget_nbytes

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
        instructions: list[Instruction] = []
        match event:
            case TilesPredicted(tiles, handles):
                for tile, handle in zip(tiles, handles, strict=True):
                    self._tile_predicted(tile, handle, instructions)
            case UnitWritten(unit, receipt):
                self._unit_written(unit, receipt, instructions)
            case TilesOffered(tiles):
                self._tiles_offered(tiles, instructions)
            case TilesLost(tiles, handles):
                self._tiles_lost(tiles, handles, instructions)
            case TilesFailed(tiles, reason, is_final):
                self._tiles_failed(tiles, reason, is_final, instructions)
            case UnitFailed(unit, attempt, reason, is_final):
                self._unit_failed(unit, attempt, reason, is_final, instructions)
            case StartAdmitting():
                self._admitting = True
                self._look_ahead()
            case StopAdmitting():
                self._admitting = False
            case RoomChanged(nbytes):
                self.budget_nbytes = max(self.plan.peak_live_nbytes, self.plan.waiting_nbytes + nbytes)
        if self._admitting:
            self._admit(instructions)
        return instructions

    # One method per event.

    def _tiles_offered(self, tiles: tuple[int, ...], instructions: list[Instruction]) -> None:
        """Take what is neither held, nor on its way, nor done with."""
        for tile in tiles:
            units = () if tile in self._tiles else self._open_units_of(tile)
            if units:
                self._move(self._open_tile(tile, units), Cause.OFFERED)
                instructions.append(TakeTile(tile, units))

    def _tile_predicted(self, tile: int, handle: Hashable, instructions: list[Instruction]) -> None:
        record = self._tiles.get(tile)
        if record is None and (units := self._open_units_of(tile)):
            record = self._open_tile(tile, units)
        if record is None or (record.state is TileState.HELD and record.handle != handle):
            instructions.append(ReleaseTile(tile, handle))
            return
        if not self._move(record, Cause.PREDICTED):
            return
        record.handle = handle
        for unit in self.plan.units_of_tile(tile):
            owner = self._units.get(unit)
            if owner is not None:
                owner.missing -= 1
                if owner.missing == 0 and self._move(owner, Cause.LAST_TILE_HELD):
                    self._instruct_attempt(unit, owner, instructions)

    def _tiles_lost(
        self, tiles: tuple[int, ...], handles: tuple[Hashable, ...], instructions: list[Instruction]
    ) -> None:
        lost = []
        for tile, handle in zip(tiles, handles, strict=True):
            record = self._tiles.get(tile)
            if record is None or record.handle != handle or not self._move(record, Cause.TILE_LOST):
                continue
            record.handle = None
            lost.append(tile)
            for unit in self._open_units_of(tile):
                owner = self._units[unit]
                owner.missing += 1
                self._move(owner, Cause.TILE_LOST)
        if lost:
            instructions.append(self._delivery_of(lost))

    def _tiles_failed(
        self, tiles: tuple[int, ...], reason: str, is_final: bool, instructions: list[Instruction]
    ) -> None:
        again = []
        for tile in tiles:
            record = self._tiles.get(tile)
            if record is None or record.state is not TileState.EXPECTED:
                continue
            record.failures += 1
            if record.failures < self.attempts and not is_final:
                again.append(tile)
                continue
            for unit in self._open_units_of(tile):
                self._give_up(unit, f"tile {tile} could not be predicted: {reason}", instructions)
        # A unit that was just given up may have been the last that needed one of the others.
        again = [tile for tile in again if tile in self._tiles]
        if again:
            instructions.append(self._delivery_of(again))

    def _unit_written(self, unit: int, receipt: object, instructions: list[Instruction]) -> None:
        if self._is_done(unit):
            return
        self._mark_written(unit)
        instructions.append(RecordReceipt(unit, receipt))
        self._close_unit(unit, Cause.STORED, instructions)

    def _unit_failed(
        self, unit: int, attempt: int, reason: str, is_final: bool, instructions: list[Instruction]
    ) -> None:
        owner = self._units.get(unit)
        if owner is None or owner.attempt != attempt:
            return
        if (owner.state, Cause.FAILED) not in MOVES:
            return
        owner.failures += 1
        if owner.failures >= self.attempts or is_final:
            self._give_up(unit, reason, instructions)
        else:
            self._move(owner, Cause.FAILED)
            self._instruct_attempt(unit, owner, instructions)

    def _admit(self, instructions: list[Instruction]) -> None:
        """Ask for tiles in the order of units, as far as there is room.

        The plan's figure leaves room for all tiles of a unit beside all that wait, so the oldest open unit always
        finishes, whatever the order in which tiles come.
        """
        while self._next_nbytes is not None and self.live_nbytes + self._next_nbytes <= self.budget_nbytes:
            unit = self._next_unit
            self._next_unit += 1
            if not self.plan.units_are_independent:
                self._admit_tiles(self._next_tiles, instructions)
            elif not self._is_done(unit):
                self._admit_unit(unit, self._next_nbytes, instructions)
            self._look_ahead()

    def _look_ahead(self) -> None:
        """Find out what the next unit takes at most: tiles that are there already count twice."""
        self._skip_written()
        if self._next_unit == self.plan.unit_count:
            self._next_nbytes = None
        elif self.plan.units_are_independent:
            self._next_nbytes = self.plan.unit_nbytes(self._next_unit)
        else:
            self._next_tiles = self.plan.tiles_starting_in(self._next_unit)
            self._next_nbytes = sum(map(self.plan.tile_nbytes, self._next_tiles))

    def _admit_unit(self, unit: int, nbytes: int, instructions: list[Instruction]) -> None:
        """Let a unit be produced."""
        owner = self._open_unit(unit)
        if self._move(owner, Cause.ADMITTED):
            self._add_live(nbytes)
            self._instruct_attempt(unit, owner, instructions)

    def _admit_tiles(self, starting: tuple[int, ...], instructions: list[Instruction]) -> None:
        """Ask for those of these tiles that are needed."""
        tiles, needed_by = [], []
        for tile in starting:
            units = () if tile in self._tiles else self._open_units_of(tile)
            if units:
                self._move(self._open_tile(tile, units), Cause.ADMITTED)
                tiles.append(tile)
                needed_by.append(units)
        if tiles:
            instructions.append(DeliverTiles(tuple(tiles), tuple(needed_by)))

    def _skip_written(self) -> None:
        """Go on to the next unit in which a tile may begin that is needed: of 10**6 that are written, at once."""
        self._first_open = max(self._first_open, self._next_unit)
        while self._first_open < self.plan.unit_count and self.is_written(self._first_open):
            is_whole_byte = self._first_open & 7 == 0 and self._written[self._first_open >> 3] == 0xFF
            self._first_open += 8 if is_whole_byte else 1
        if self._first_open > self._next_unit + self.plan.largest_unit_distance:
            self._first_open = min(self._first_open, self.plan.unit_count)
            self._next_unit = max(self._next_unit, self._first_open - self.plan.largest_unit_distance)

    # What the events have in common.

    def _mark_written(self, unit: int) -> None:
        if not self.is_written(unit):
            self._written[unit >> 3] |= 1 << (unit & 7)
            self._written_count += 1

    def _delivery_of(self, tiles: Sequence[int]) -> DeliverTiles:
        return DeliverTiles(tuple(tiles), tuple(self._open_units_of(tile) for tile in tiles))

    def _instruct_attempt(self, unit: int, owner: _OpenUnit, instructions: list[Instruction]) -> None:
        owner.attempt += 1
        if owner.state is UnitState.PRODUCING:
            instructions.append(ProduceUnit(unit, owner.attempt))
        else:
            tiles = self.plan.tiles_of_unit(unit)
            handles = tuple([self._tiles[tile].handle for tile in tiles])
            instructions.append(WriteUnit(unit, owner.attempt, tiles, handles))

    def _give_up(self, unit: int, reason: str, instructions: list[Instruction]) -> None:
        self.given_up[unit] = reason
        instructions.append(GiveUpUnit(unit, reason))
        self._close_unit(unit, Cause.ATTEMPTS_SPENT, instructions)

    def _close_unit(self, unit: int, cause: Cause, instructions: list[Instruction]) -> None:
        owner = self._open_unit(unit)
        was_produced = owner.state is UnitState.PRODUCING
        self._move(owner, cause)
        del self._units[unit]
        if was_produced:
            self.live_nbytes -= self.plan.unit_nbytes(unit)
            return
        for tile in self.plan.tiles_of_unit(unit):
            record = self._tiles.get(tile)
            if record is None:
                continue
            record.open_units -= 1
            if record.open_units == 0:
                was_held = record.state is TileState.HELD
                self._move(record, Cause.UNITS_DONE)
                del self._tiles[tile]
                self.live_nbytes -= record.nbytes
                if was_held:
                    instructions.append(ReleaseTile(tile, record.handle))

    def _open_unit(self, unit: int) -> _OpenUnit:
        owner = self._units.get(unit)
        if owner is None:
            # A tile opens all of its units, so that none of this one is held.
            owner = self._units[unit] = _OpenUnit(UnitState.WAITING, missing=self.plan.tile_count_of_unit(unit))
        return owner

    def _open_tile(self, tile: int, open_units: tuple[int, ...]) -> _OpenTile:
        """Return a new record of a tile that these units need."""
        for unit in open_units:
            if unit not in self._units:
                self._open_unit(unit)
        record = self._tiles[tile] = _OpenTile(TileState.UNSEEN, len(open_units), self.plan.tile_nbytes(tile))
        self._add_live(record.nbytes)
        return record

    def _open_units_of(self, tile: int) -> tuple[int, ...]:
        return tuple([unit for unit in self.plan.units_of_tile(tile) if unit in self._units or not self._is_done(unit)])

    def _is_done(self, unit: int) -> bool:
        return bool(self._written[unit >> 3] & (1 << (unit & 7))) or unit in self.given_up

    def _add_live(self, nbytes: int) -> None:
        self.live_nbytes += nbytes
        self.peak_live_nbytes = max(self.peak_live_nbytes, self.live_nbytes)

    def _move(self, record: _OpenUnit | _OpenTile, cause: Cause) -> bool:
        move = MOVES.get((record.state, cause))
        if move is None:
            return False
        record.state, waited_for = move
        self._waited_for += waited_for
        return True

    # For tests.

    def check_invariants(self) -> None:
        """Raise AssertionError where the state contradicts itself; costs as much as everything that is open."""
        producing = [unit for unit, owner in self._units.items() if owner.state is UnitState.PRODUCING]
        live = sum(record.nbytes for record in self._tiles.values())
        live += sum(map(self.plan.unit_nbytes, producing))
        _check(live == self.live_nbytes, f"live bytes are {live}, counted {self.live_nbytes}")
        waited_for = sum(owner.state in (UnitState.WRITING, UnitState.PRODUCING) for owner in self._units.values())
        waited_for += sum(record.state is TileState.EXPECTED for record in self._tiles.values())
        _check(waited_for == self._waited_for, f"{waited_for} are waited for, counted {self._waited_for}")
        written = sum(byte.bit_count() for byte in self._written)
        _check(written == self._written_count, f"{written} units are written, counted {self._written_count}")
        for unit, owner in self._units.items():
            _check(not self._is_done(unit), f"unit {unit} is open and done")
            tiles = self.plan.tiles_of_unit(unit)
            held = sum(tile in self._tiles and self._tiles[tile].state is TileState.HELD for tile in tiles)
            _check(owner.missing == len(tiles) - held, f"unit {unit} misses {owner.missing} of {len(tiles)}")
            if owner.state is not UnitState.PRODUCING:
                _check(
                    (owner.missing == 0) == (owner.state is UnitState.WRITING),
                    f"unit {unit} is {owner.state.value} and misses {owner.missing} tiles",
                )
        for tile, record in self._tiles.items():
            open_units = len(self._open_units_of(tile))
            _check(record.open_units == open_units > 0, f"tile {tile} has {open_units} units, {record.open_units}")
            _check((record.handle is not None) == (record.state is TileState.HELD), f"tile {tile} has no handle")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
