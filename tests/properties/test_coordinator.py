"""Whatever happens, in whatever order: each open unit is written once in effect, and each tile is released once."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.strategies import write_plans

from tilewright.coordinator import (
    Coordinator,
    DeliverTiles,
    Failure,
    GiveUpUnit,
    Instruction,
    Ownership,
    ProduceUnit,
    RecordReceipt,
    ReleaseTile,
    RetryPolicy,
    RoomChanged,
    StartAdmitting,
    StopAdmitting,
    TakeTile,
    TilesFailed,
    TilesLost,
    TilesOffered,
    TilesPredicted,
    UnitFailed,
    UnitWritten,
    WriteUnit,
)
from tilewright.coordinator.invariants import check_invariants
from tilewright.plan import WritePlan

ATTEMPTS = 3


class Run(RuleBasedStateMachine):
    """A shell around the coordinator that does everything that a cluster can do to it."""

    @initialize(
        plan=write_plans(most_spatial_axes=3, largest_extent=14),
        demand=st.booleans(),
        resumed=st.booleans(),
        share_count=st.integers(1, 3),
        data=st.data(),
    )
    def start(self, plan: WritePlan, demand: bool, resumed: bool, share_count: int, data: st.DataObject) -> None:
        self.plan = plan
        self.demand = demand
        ownership = Ownership(data.draw(st.integers(0, share_count - 1)), share_count)
        self.owned = set(ownership.units(plan.unit_count))
        # What an earlier run has written, and what other processes write.
        written: set[int] = data.draw(st.sets(st.integers(0, plan.unit_count - 1))) if resumed else set()
        self.kept = written | set(range(plan.unit_count)) - self.owned
        policy = RetryPolicy(attempts=ATTEMPTS)
        self.coordinator = Coordinator(plan, written=written, policy=policy, ownership=ownership)
        self.most_nbytes = plan.peak_live_nbytes
        self.handles = 0
        self.asked: list[tuple[int, ...]] = []
        self.attempts: list[WriteUnit | ProduceUnit] = []
        self.available: dict[int, int] = {}
        self.released: Counter[int] = Counter()
        self.receipts: Counter[int] = Counter()
        self.given_up: Counter[int] = Counter()
        self.unpushed = list(range(plan.tile_count)) if not demand else []
        self.carry_out(self.coordinator.handle(StartAdmitting(predicts=demand)))

    def carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case DeliverTiles(tiles):
                    for tile in tiles:
                        assert set(self.plan.units_of_tile(tile)) - self.kept - set(self.given_up) - set(self.receipts)
                    assert all(tile not in self.available.values() for tile in tiles)
                    self.asked.append(tiles)
                case ProduceUnit(unit):
                    assert self.demand
                    assert unit not in self.kept
                    self.attempts.append(instruction)
                case WriteUnit(unit, _, tiles, handles):
                    assert unit not in self.kept
                    assert tiles == self.plan.tiles_of_unit(unit)
                    assert [self.available[handle] for handle in handles] == list(tiles)
                    self.attempts.append(instruction)
                case ReleaseTile(tile, handle):
                    assert self.available.pop(handle) == tile
                    self.released[handle] += 1
                case RecordReceipt(unit, receipt):
                    assert receipt == unit
                    self.receipts[unit] += 1
                case GiveUpUnit(unit):
                    self.given_up[unit] += 1

    def predict(self, tiles: tuple[int, ...]) -> None:
        handles = tuple(range(self.handles, self.handles + len(tiles)))
        self.handles += len(tiles)
        self.available.update(zip(handles, tiles, strict=True))
        self.carry_out(self.coordinator.handle(TilesPredicted(tiles, handles)))

    def take(self, data: st.DataObject, items: list) -> object:
        return items.pop(data.draw(st.integers(0, len(items) - 1), label="which"))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def tiles_are_predicted(self, data: st.DataObject) -> None:
        self.predict(self.take(data, self.asked))

    @precondition(lambda self: not self.demand)
    @rule(data=st.data())
    def tiles_are_offered_some_of_them_again(self, data: st.DataObject) -> None:
        tiles = data.draw(st.lists(st.integers(0, self.plan.tile_count - 1), unique=True, min_size=1, max_size=4))
        taken = []
        for instruction in self.coordinator.handle(TilesOffered(tuple(tiles))):
            assert isinstance(instruction, TakeTile)
            assert set(self.plan.units_of_tile(instruction.tile)) - self.kept - set(self.receipts) - set(self.given_up)
            taken.append(instruction.tile)
        for tile in taken:
            assert tile in tiles
            assert tile not in self.available.values()
            self.asked.append((tile,))
            if tile in self.unpushed:
                self.unpushed.remove(tile)

    @precondition(lambda self: self.unpushed)
    @rule(data=st.data())
    def a_tile_that_was_not_asked_for_arrives(self, data: st.DataObject) -> None:
        self.predict((self.take(data, self.unpushed),))

    @rule(data=st.data())
    def a_tile_arrives_again(self, data: st.DataObject) -> None:
        if self.demand:
            return
        seen = sorted(set(range(self.plan.tile_count)) - set(self.unpushed))
        if seen:
            self.predict((data.draw(st.sampled_from(seen)),))

    @precondition(lambda self: self.available)
    @rule(data=st.data())
    def the_same_handle_is_reported_again(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.available)))
        self.carry_out(self.coordinator.handle(TilesPredicted((self.available[handle],), (handle,))))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), is_final=st.booleans())
    def tiles_fail(self, data: st.DataObject, is_final: bool) -> None:
        self.carry_out(
            self.coordinator.handle(TilesFailed(self.take(data, self.asked), Failure("boom", is_final=is_final)))
        )

    @precondition(lambda self: self.available)
    @rule(data=st.data())
    def a_worker_dies_with_its_tiles(self, data: st.DataObject) -> None:
        handles = data.draw(st.lists(st.sampled_from(sorted(self.available)), unique=True, min_size=1))
        tiles = tuple(self.available.pop(handle) for handle in handles)
        self.carry_out(self.coordinator.handle(TilesLost(tiles, tuple(handles))))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), twice=st.booleans(), is_held=st.booleans())
    def a_unit_is_written(self, data: st.DataObject, twice: bool, is_held: bool) -> None:
        attempt = self.take(data, self.attempts)
        for _ in range(1 + twice):
            self.write(attempt.unit, is_held=is_held)

    def write(self, unit: int, *, is_held: bool = True) -> None:
        """A unit is stored; where it is a tile of a coarser level, that may be held."""
        tile, handle = self.plan.tile_of_unit(unit), None
        if tile is not None and is_held:
            handle = self.handles
            self.handles += 1
            self.available[handle] = tile
        self.carry_out(self.coordinator.handle(UnitWritten(unit, unit, handle)))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), is_final=st.booleans())
    def a_write_fails(self, data: st.DataObject, is_final: bool) -> None:
        attempt = self.take(data, self.attempts)
        self.carry_out(
            self.coordinator.handle(UnitFailed(attempt.unit, attempt.attempt, Failure("disk", is_final=is_final)))
        )

    @rule()
    def admitting_pauses(self) -> None:
        assert not any(isinstance(i, ProduceUnit | DeliverTiles) for i in self.coordinator.handle(StopAdmitting()))
        self.carry_out(self.coordinator.handle(StartAdmitting(predicts=self.demand)))

    @rule(nbytes=st.integers(0, 4000))
    def there_is_more_or_less_room(self, nbytes: int) -> None:
        self.most_nbytes = max(self.most_nbytes, self.plan.waiting_nbytes + nbytes)
        self.carry_out(self.coordinator.handle(RoomChanged(nbytes)))

    @invariant()
    def state_is_consistent(self) -> None:
        if hasattr(self, "coordinator"):
            check_invariants(self.coordinator)
            if self.demand:
                assert self.coordinator.live_nbytes <= self.most_nbytes
            assert self.coordinator.live_nbytes <= self.plan.output_nbytes

    def teardown(self) -> None:
        """From wherever the run stands, let all that is open succeed: then nothing is left."""
        if not hasattr(self, "coordinator"):
            return
        while self.asked or self.attempts or self.unpushed:
            if self.unpushed:
                self.predict((self.unpushed.pop(0),))
            if self.asked:
                self.predict(self.asked.pop(0))
            if self.attempts:
                attempt = self.attempts.pop(0)
                self.write(attempt.unit)
            self.state_is_consistent()
        coordinator = self.coordinator
        assert coordinator.is_idle
        assert coordinator.live_nbytes == 0
        assert not self.available
        assert all(count == 1 for count in self.released.values())
        assert all(count == 1 for count in self.receipts.values())
        assert self.kept | set(self.receipts) | set(coordinator.given_up) == set(range(self.plan.unit_count))
        assert not (self.kept | set(self.receipts)) & set(coordinator.given_up)
        assert not self.kept & set(self.receipts)
        assert set(coordinator.given_up) == set(self.given_up)
        assert all(count == 1 for count in self.given_up.values())
        assert coordinator.is_finished
        assert coordinator.written_count == len(self.owned & self.kept) + len(self.receipts)
        assert coordinator.is_complete == (not coordinator.given_up)
        assert list(coordinator.missing_units()) == sorted(coordinator.given_up)


Run.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRun = Run.TestCase
