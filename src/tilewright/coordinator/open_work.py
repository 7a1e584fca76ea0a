"""Work of a run: the units that it owns, those that are written, and the records of what is open."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

from tilewright.coordinator.messages import Failure
from tilewright.coordinator.transitions import TileState, UnitState
from tilewright.coordinator.unit_plan import UnitPlan


@dataclass(slots=True)
class OpenUnit:
    """Unit that is neither written nor given up: the tiles that it misses, its attempts and failures."""

    state: UnitState | TileState
    missing: int
    attempt: int = 0
    failures: int = 0


@dataclass(slots=True)
class OpenTile:
    """Tile that an open unit needs: the open units, its bytes, where it is held, its failures."""

    state: UnitState | TileState
    open_units: int
    nbytes: int
    handle: Hashable = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Ownership:
    """Units that one process writes: all of the plan, or one of equal shares in the order of units.

    Parameters
    ----------
    share : int
        Number of the share.
    share_count : int
        Number of processes that share the output; each has one share.

    Examples
    --------
    >>> [Ownership(share, 3).units(8) for share in range(3)]
    [range(0, 2), range(2, 5), range(5, 8)]
    """

    share: int = 0
    share_count: int = 1

    def units(self, unit_count: int) -> range:
        """Return the units of this share."""
        return range(self.share * unit_count // self.share_count, (self.share + 1) * unit_count // self.share_count)


class UnitSet:
    """Units of a plan, by their ranks.

    Parameters
    ----------
    unit_count : int
        Units of the plan.

    Attributes
    ----------
    bits : bytearray
        One bit per unit.
    count : int
        Units in the set.

    Examples
    --------
    >>> units = UnitSet(20)
    >>> units.add(3)
    >>> units.add(3)
    >>> 3 in units, 4 in units, units.count, units.first_missing(3)
    (True, False, 1, 4)
    """

    def __init__(self, unit_count: int) -> None:
        self._unit_count = unit_count
        self.bits = bytearray(-(-unit_count // 8))
        self.count = 0

    def __contains__(self, unit: int) -> bool:
        return bool(self.bits[unit >> 3] & (1 << (unit & 7)))

    def add(self, unit: int) -> None:
        """Add a unit, if it is not in the set."""
        byte, bit = unit >> 3, 1 << (unit & 7)
        if not self.bits[byte] & bit:
            self.bits[byte] |= bit
            self.count += 1

    def first_missing(self, start: int) -> int:
        """Return the first unit from `start` on that is not in the set; of 10**6 in a row that are, at once."""
        bits = self.bits
        while start < self._unit_count and bits[start >> 3] & (1 << (start & 7)):
            is_whole_byte = start & 7 == 0 and bits[start >> 3] == 0xFF
            start += 8 if is_whole_byte else 1
        return start if start < self._unit_count else self._unit_count


class OpenWork:
    """Records of a run: the tiles and units that are open, and counts of what is done.

    Parameters
    ----------
    plan : UnitPlan
        The tiles and units.
    ownership : Ownership
        Units of the run.
    written : iterable of int
        Units that an earlier run has written.

    Attributes
    ----------
    owned : range
        Units of the run.
    live_nbytes : int
        Bytes of tiles that are held or have been asked for.
    coarser_nbytes : int
        Those of them that are tiles of coarser levels.
    peak_live_nbytes, peak_coarser_nbytes : int
        The largest values that these had so far.
    given_up : dict of int to Failure
        Units that failed too often. What arrives of them later is ignored.
    budget_nbytes : int
        Bytes of tiles that may be held or asked for.
    """

    def __init__(self, plan: UnitPlan, ownership: Ownership, written: Iterable[int]) -> None:
        self.plan = plan
        self.budget_nbytes = plan.admitted_nbytes
        self.owned = ownership.units(plan.unit_count)
        self.live_nbytes = 0
        self.peak_live_nbytes = 0
        self._has_levels = plan.finest_unit_count < plan.unit_count
        self.coarser_nbytes = 0
        self.peak_coarser_nbytes = 0
        self.given_up: dict[int, Failure] = {}
        self._units: dict[int, OpenUnit] = {}
        self._tiles: dict[int, OpenTile] = {}
        self._settled = UnitSet(plan.unit_count)
        self._waited_for = 0
        # Units of other processes need no work here, as if they were written.
        for unit in (*range(self.owned.start), *range(self.owned.stop, plan.unit_count), *written):
            self._settled.add(unit)

    @property
    def is_complete(self) -> bool:
        """Whether every unit of the run is written."""
        return self._settled.count == self.plan.unit_count

    @property
    def is_finished(self) -> bool:
        """Whether every unit of the run is written or given up."""
        return self._settled.count + len(self.given_up) == self.plan.unit_count

    @property
    def is_idle(self) -> bool:
        """Whether no answer to an instruction is outstanding."""
        return self._waited_for == 0

    @property
    def written_count(self) -> int:
        """The number of units of the run that are written."""
        return self._settled.count - (self.plan.unit_count - len(self.owned))

    def missing_units(self) -> Iterator[int]:
        """Iterate over the units of the run that are not written."""
        return (unit for unit in self.owned if unit not in self._settled)

    def missing_tiles(self) -> list[int]:
        """Return the predicted tiles without which units that are not written cannot be, and that are not held."""
        tiles = {tile for unit in self.missing_units() for tile in self.plan.tiles_of_unit(unit)}
        held = {tile for tile, record in self._tiles.items() if record.state is TileState.HELD}
        return sorted(tile for tile in tiles - held if self.plan.unit_of_tile(tile) is None)

    def misses_tiles(self, unit: int) -> bool:
        """Return whether a unit that is open lacks tiles."""
        owner = self._units.get(unit)
        return owner is not None and owner.missing > 0

    def must_wait(self, nbytes: int) -> bool:
        """Return whether a trainer should wait before it hands over this many bytes more.

        It need not where nothing is under way: then only a further tile can free memory.
        """
        return not self.is_idle and self.is_over_budget(nbytes)

    def is_over_budget(self, nbytes: int) -> bool:
        """Tell whether this many bytes more would be more than the plan's figure."""
        return self.live_nbytes + nbytes > self.budget_nbytes

    def _open_unit(self, unit: int) -> OpenUnit:
        owner = self._units.get(unit)
        if owner is None:
            # A tile opens all of its units, so that none of this one is held.
            owner = self._units[unit] = OpenUnit(UnitState.WAITING, missing=self.plan.tile_count_of_unit(unit))
        return owner

    def _open_tile(self, tile: int, open_units: tuple[int, ...]) -> OpenTile:
        """Return a new record of a tile that these units need."""
        for unit in open_units:
            if unit not in self._units:
                self._open_unit(unit)
        record = self._tiles[tile] = OpenTile(TileState.UNSEEN, len(open_units), self.plan.tile_nbytes(tile))
        self._add_live(record.nbytes)
        if self._has_levels and self.plan.unit_of_tile(tile) is not None:
            self.coarser_nbytes += record.nbytes
            self.peak_coarser_nbytes = max(self.peak_coarser_nbytes, self.coarser_nbytes)
        return record

    def _forget_tile(self, tile: int, record: OpenTile) -> None:
        """Forget a tile that no unit needs any more."""
        del self._tiles[tile]
        self.live_nbytes -= record.nbytes
        if self._has_levels and self.plan.unit_of_tile(tile) is not None:
            self.coarser_nbytes -= record.nbytes

    def _made_tiles(self, unit: int) -> tuple[int, ...]:
        """Return the tiles of a unit of a coarser level, where the units that they are made of are all written."""
        tiles = self.plan.tiles_of_unit(unit)
        sources = map(self.plan.unit_of_tile, tiles)
        return tiles if all(source is not None and source in self._settled for source in sources) else ()

    def _open_units_of(self, tile: int) -> tuple[int, ...]:
        return tuple([unit for unit in self.plan.units_of_tile(tile) if unit in self._units or not self._is_done(unit)])

    def _is_done(self, unit: int) -> bool:
        return bool(self._settled.bits[unit >> 3] & (1 << (unit & 7))) or unit in self.given_up

    def _add_live(self, nbytes: int) -> None:
        self.live_nbytes += nbytes
        self.peak_live_nbytes = max(self.peak_live_nbytes, self.live_nbytes)
