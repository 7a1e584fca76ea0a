"""Work of a run: the units that it owns, those that are written, and the records of what is open."""

from collections.abc import Hashable
from dataclasses import dataclass

from tilewright.coordinator.transitions import TileState, UnitState


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
