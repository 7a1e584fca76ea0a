"""A plan of any image answers the same as a walk over every tile and unit of it."""

import json
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import write_plans

from tilewright.coordinator import Ownership
from tilewright.geometry import AxisTiling, Region
from tilewright.plan import WritePlan, plan_for_tilings


def slices(region: Region) -> tuple[slice, ...]:
    return tuple(slice(*interval) for interval in region)


@given(write_plans())
def test_tiles_partition_the_image_and_units_too(plan: WritePlan) -> None:
    tiles, units = np.zeros(plan.shape, int), np.zeros(plan.shape, int)
    for tile in range(plan.tile_count):
        tiles[slices(plan.valid_region(tile))] += 1
    for unit in range(plan.unit_count):
        units[slices(plan.unit_region(unit))] += 1
    assert (tiles == 1).all()
    assert (units == 1).all()


@given(write_plans())
def test_each_stored_object_has_one_owner(plan: WritePlan) -> None:
    owned = [position for unit in range(plan.unit_count) for position in plan.objects_of_unit(unit)]
    assert len(owned) == len(set(owned)) == plan.object_count
    for unit in range(plan.unit_count):
        for (start, stop), stored, extent in zip(
            plan.unit_region(unit), plan.arrays[0].stored_extents, plan.shape, strict=True
        ):
            assert start % stored == 0
            assert stop % stored == 0 or stop == extent


@given(write_plans())
def test_tiles_know_their_units_and_units_their_tiles(plan: WritePlan) -> None:
    owner = np.zeros(plan.shape, int)
    for unit in range(plan.unit_count):
        owner[slices(plan.unit_region(unit))] = unit
    tiles_of_unit: dict[int, set[int]] = {unit: set() for unit in range(plan.unit_count)}
    for tile in range(plan.tile_count):
        region = plan.valid_region(tile)
        units = np.unique(owner[slices(region)]).tolist()
        assert list(plan.units_of_tile(tile)) == units
        assert units[-1] - units[0] <= plan.largest_unit_distance
        assert plan.tile_at(tuple(start for start, _ in region)) == tile
        assert plan.tile_at(tuple(stop - 1 for _, stop in region)) == tile
        for unit in units:
            tiles_of_unit[unit].add(tile)
    for unit, tiles in tiles_of_unit.items():
        assert list(plan.tiles_of_unit(unit)) == sorted(tiles)
    starting = [tile for unit in range(plan.unit_count) for tile in plan.tiles_starting_in(unit)]
    assert sorted(starting) == list(range(plan.tile_count))


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
        assert plan.waiting_nbytes == 0


def peak_of(plan: WritePlan, arrivals: list[int]) -> int:
    """Hold tiles in this order, finish each unit at once when it is complete; return the peak of bytes held."""
    missing = {unit: set(plan.tiles_of_unit(unit)) for unit in range(plan.unit_count)}
    needed_by = {tile: set(plan.units_of_tile(tile)) for tile in range(plan.tile_count)}
    held = peak = 0
    for tile in arrivals:
        held += plan.tile_nbytes(tile)
        peak = max(peak, held)
        for unit in plan.units_of_tile(tile):
            missing[unit].discard(tile)
            if not missing[unit]:
                for other in plan.tiles_of_unit(unit):
                    needed_by[other].discard(unit)
                    if not needed_by[other]:
                        held -= plan.tile_nbytes(other)
    assert held == 0
    return peak


@given(write_plans())
def test_tiles_in_the_order_of_units_never_hold_more_than_the_plan_says(plan: WritePlan) -> None:
    order = [tile for unit in range(plan.unit_count) for tile in plan.tiles_starting_in(unit)]
    assert peak_of(plan, order) <= plan.peak_live_nbytes


@given(write_plans(), st.data())
def test_tiles_in_their_own_order_never_hold_more_than_their_plan_says(plan: WritePlan, data: st.DataObject) -> None:
    border = data.draw(st.integers(1, 6))
    tilings = [
        AxisTiling(t.extent, t.tile, t.overlap, border if name in "ZYX" else 1)
        for name, t in zip(plan.axes, plan.tilings, strict=True)
    ]
    plan = plan_for_tilings(plan.axes, plan.dtype, tilings, chunks=plan.chunks, window_nbytes=1)
    assert peak_of(plan, list(range(plan.tile_count))) <= plan.peak_live_nbytes


@given(plan=write_plans(), share_count=st.integers(1, 5))
def test_each_unit_has_one_owner_and_equal_shares_differ_by_one_unit(plan: WritePlan, share_count: int) -> None:
    shares = [Ownership(share, share_count).units(plan.unit_count) for share in range(share_count)]
    assert [unit for share in shares for unit in share] == list(range(plan.unit_count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(plan=write_plans(), other=write_plans())
def test_units_are_numbered_from_one_array_to_the_next(plan: WritePlan, other: WritePlan) -> None:
    both = replace(plan, arrays=(plan.arrays[0], replace(other.arrays[0], name="1")))
    assert both.unit_count == plan.unit_count + other.unit_count
    assert both.object_count == plan.object_count + other.object_count
    assert WritePlan.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    for unit in range(both.unit_count):
        array = int(unit >= plan.unit_count)
        first, of_array = [(0, plan), (plan.unit_count, other)][array]
        assert both.array_of_unit(unit) == array
        assert both.unit_region(unit) == of_array.unit_region(unit - first)
        assert both.objects_of_unit(unit) == of_array.objects_of_unit(unit - first)
