"""A plan of any image answers the same as a walk over every tile and unit of it."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import write_plans

from tilewright.coordinator import Ownership
from tilewright.geometry import AxisTiling, Region
from tilewright.plan import WritePlan, plan_for_tilings


def slices(region: Region) -> tuple[slice, ...]:
    return tuple(slice(*interval) for interval in region)


def units_of_arrays(plan: WritePlan) -> list[list[int]]:
    """Units of each level, the finest first."""
    numbers = range(plan.unit_count)
    return [[unit for unit in numbers if plan.array_of_unit(unit) == number] for number in range(len(plan.arrays))]


def tiles_of_arrays(plan: WritePlan) -> list[list[int]]:
    """Tiles of each level: the predicted ones, then the units of the level below."""
    tiles = [list(range(plan.tile_count))]
    for units in units_of_arrays(plan)[:-1]:
        tiles.append([tile for unit in units if (tile := plan.tile_of_unit(unit)) is not None])
        assert [plan.unit_of_tile(tile) for tile in tiles[-1]] == units
    return tiles


@given(write_plans())
def test_tiles_partition_each_level_and_units_too(plan: WritePlan) -> None:
    for array, units, tiles in zip(plan.arrays, units_of_arrays(plan), tiles_of_arrays(plan), strict=True):
        for numbers, region_of in ((units, plan.unit_region), (tiles, plan.valid_region)):
            count = np.zeros(array.shape, int)
            for number in numbers:
                count[slices(region_of(number))] += 1
            assert (count == 1).all()


@given(write_plans())
def test_each_stored_object_has_one_owner(plan: WritePlan) -> None:
    owned = [(plan.array_of_unit(u), position) for u in range(plan.unit_count) for position in plan.objects_of_unit(u)]
    assert len(owned) == len(set(owned)) == plan.object_count
    for unit in range(plan.unit_count):
        array = plan.arrays[plan.array_of_unit(unit)]
        for (start, stop), stored, extent in zip(
            plan.unit_region(unit), array.stored_extents, array.shape, strict=True
        ):
            assert start % stored == 0
            assert stop % stored == 0 or stop == extent


@given(write_plans())
def test_tiles_know_their_units_and_units_their_tiles(plan: WritePlan) -> None:
    tiles_of_unit: dict[int, set[int]] = {unit: set() for unit in range(plan.unit_count)}
    for array, units, tiles in zip(plan.arrays, units_of_arrays(plan), tiles_of_arrays(plan), strict=True):
        owner = np.zeros(array.shape, int)
        for unit in units:
            owner[slices(plan.unit_region(unit))] = unit
        for tile in tiles:
            feeding = np.unique(owner[slices(plan.valid_region(tile))]).tolist()
            assert list(plan.units_of_tile(tile)) == feeding
            for unit in feeding:
                tiles_of_unit[unit].add(tile)
    for unit, tiles_there in tiles_of_unit.items():
        assert list(plan.tiles_of_unit(unit)) == sorted(tiles_there)
        assert plan.tile_count_of_unit(unit) == len(tiles_there)


@given(write_plans())
def test_a_predicted_tile_is_found_by_its_elements_and_begins_in_one_unit(plan: WritePlan) -> None:
    for tile in range(plan.tile_count):
        region, units = plan.valid_region(tile), plan.units_of_tile(tile)
        assert units[-1] - units[0] <= plan.largest_unit_distance
        assert plan.tile_at(tuple(start for start, _ in region)) == tile
        assert plan.tile_at(tuple(stop - 1 for _, stop in region)) == tile
    starting = [tile for unit in range(plan.unit_count) for tile in plan.tiles_starting_in(unit)]
    assert sorted(starting) == list(range(plan.tile_count))


@given(write_plans())
def test_each_unit_has_its_turn(plan: WritePlan) -> None:
    turns = [plan.unit_in_turn(place) for place in range(plan.unit_count)]
    assert sorted(turns) == list(range(plan.unit_count))


@given(write_plans(), st.integers(1, 9))
def test_shares_of_the_tiles_are_as_large_as_each_other_but_for_one_tile_of_each_layer(
    plan: WritePlan, count: int
) -> None:
    per_share = [0] * count
    for tile in range(plan.tile_count):
        per_share[plan.share_of_tile(tile, count)] += 1
    layers = next((tiling.count for tiling in plan.tilings if tiling.count > 1), 1)
    assert max(per_share) - min(per_share) <= layers


@given(write_plans())
def test_independent_units_share_no_tile(plan: WritePlan) -> None:
    units_per_tile = {len(plan.units_of_tile(tile)) for tile in range(plan.tile_count)}
    if plan.units_are_independent:
        assert units_per_tile == {1}
        assert plan.waiting_nbytes == plan.coarser_waiting_nbytes


class Holding:
    """Tiles that are held until their units are written, which is at once when a unit is complete."""

    def __init__(self, plan: WritePlan) -> None:
        self.plan = plan
        self.missing = {unit: set(plan.tiles_of_unit(unit)) for unit in range(plan.unit_count)}
        self.needed_by: dict[int, set[int]] = {}
        self.held, self.peak = [0, 0], [0, 0]

    def hold(self, tile: int) -> None:
        plan, is_coarser = self.plan, tile >= self.plan.tile_count
        self.needed_by[tile] = set(plan.units_of_tile(tile))
        self.held[is_coarser] += plan.tile_nbytes(tile)
        self.peak = list(map(max, self.peak, self.held))
        for unit in plan.units_of_tile(tile):
            self.missing[unit].discard(tile)
            if not self.missing[unit]:
                self.write(unit)

    def write(self, unit: int) -> None:
        made = self.plan.tile_of_unit(unit)
        for tile in self.plan.tiles_of_unit(unit):
            self.needed_by[tile].discard(unit)
            if not self.needed_by[tile]:
                self.held[tile >= self.plan.tile_count] -= self.plan.tile_nbytes(tile)
        if made is not None:
            self.hold(made)


def check_held(plan: WritePlan, arrivals: list[int]) -> None:
    """Hold tiles in this order, and compare the peaks of bytes with those of the plan."""
    holding = Holding(plan)
    for tile in arrivals:
        holding.hold(tile)
    assert holding.held == [0, 0]
    assert holding.peak[False] <= plan.waiting_nbytes - plan.coarser_waiting_nbytes + plan.window_nbytes
    assert holding.peak[True] <= plan.coarser_waiting_nbytes


@given(write_plans())
def test_tiles_in_the_order_of_units_never_hold_more_than_the_plan_says(plan: WritePlan) -> None:
    turns = map(plan.unit_in_turn, range(plan.finest_unit_count))
    check_held(plan, [tile for unit in turns for tile in plan.tiles_starting_in(unit)])


@given(write_plans(), st.data())
def test_tiles_in_their_own_order_never_hold_more_than_their_plan_says(plan: WritePlan, data: st.DataObject) -> None:
    border = data.draw(st.integers(1, 6))
    tilings = [
        AxisTiling(t.extent, t.tile, t.overlap, border if name in "ZYX" else 1)
        for name, t in zip(plan.axes, plan.tilings, strict=True)
    ]
    plan = plan_for_tilings(
        plan.axes, plan.dtype, tilings, chunks=plan.chunks, window_nbytes=1, levels=plan.factors or 1
    )
    check_held(plan, list(range(plan.tile_count)))


@given(plan=write_plans(), share_count=st.integers(1, 5))
def test_each_unit_has_one_owner_and_equal_shares_differ_by_one_unit(plan: WritePlan, share_count: int) -> None:
    shares = [Ownership(share, share_count).units(plan.unit_count) for share in range(share_count)]
    assert [unit for share in shares for unit in share] == list(range(plan.unit_count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(write_plans())
def test_a_plan_is_stored_as_text(plan: WritePlan) -> None:
    assert WritePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
