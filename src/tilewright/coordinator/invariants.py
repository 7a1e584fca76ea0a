"""Invariants of a coordinator, for tests: its counters are what its records say."""

from tilewright.coordinator.coordinator import Coordinator
from tilewright.coordinator.transitions import TileState, UnitState


def check_invariants(coordinator: Coordinator) -> None:
    """Raise AssertionError where the state contradicts itself; costs as much as everything that is open."""
    producing = [unit for unit, owner in coordinator._units.items() if owner.state is UnitState.PRODUCING]
    live = sum(record.nbytes for record in coordinator._tiles.values())
    live += sum(map(coordinator.plan.unit_nbytes, producing))
    _check(live == coordinator.live_nbytes, f"live bytes are {live}, counted {coordinator.live_nbytes}")
    coarser = [record for tile, record in coordinator._tiles.items() if coordinator.plan.unit_of_tile(tile) is not None]
    counted = coordinator.coarser_nbytes
    _check(sum(record.nbytes for record in coarser) == counted, f"bytes of coarser levels are not {counted}")
    waited_for = sum(owner.state in (UnitState.WRITING, UnitState.PRODUCING) for owner in coordinator._units.values())
    waited_for += sum(record.state is TileState.EXPECTED for record in coordinator._tiles.values())
    _check(waited_for == coordinator._waited_for, f"{waited_for} are waited for, counted {coordinator._waited_for}")
    settled = sum(byte.bit_count() for byte in coordinator._settled.bits)
    _check(settled == coordinator._settled.count, f"{settled} units are settled, counted {coordinator._settled.count}")
    for unit, owner in coordinator._units.items():
        _check(not coordinator._is_done(unit), f"unit {unit} is open and done")
        tiles = coordinator.plan.tiles_of_unit(unit)
        held = sum(tile in coordinator._tiles and coordinator._tiles[tile].state is TileState.HELD for tile in tiles)
        _check(owner.missing == len(tiles) - held, f"unit {unit} misses {owner.missing} of {len(tiles)}")
        if owner.state is not UnitState.PRODUCING:
            _check(
                (owner.missing == 0) == (owner.state is UnitState.WRITING),
                f"unit {unit} is {owner.state.value} and misses {owner.missing} tiles",
            )
    for tile, record in coordinator._tiles.items():
        open_units = len(coordinator._open_units_of(tile))
        _check(record.open_units == open_units > 0, f"tile {tile} has {open_units} units, {record.open_units}")
        _check((record.handle is not None) == (record.state is TileState.HELD), f"tile {tile} has no handle")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
