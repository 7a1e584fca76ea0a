"""What the coordinator and the executors ask of a plan: the tiles of each unit, the units of each tile, and bytes."""

from typing import Protocol

UNKNOWN_COUNT = 2**62
"""Number of tiles of a unit for which it is not known yet."""


class UnitPlan(Protocol):
    """Units of one output, or of several images, and the tiles that feed them."""

    @property
    def unit_count(self) -> int:
        """The number of units."""

    @property
    def finest_unit_count(self) -> int:
        """The number of units at full resolution, whose tiles are predicted; they come first."""

    @property
    def units_are_independent(self) -> bool:
        """Whether every tile lies in one unit, so that one task predicts and writes the unit."""

    @property
    def largest_unit_distance(self) -> int:
        """Upper bound of the distance from the unit in which a tile begins to another one that it feeds."""

    @property
    def largest_unit_nbytes(self) -> int:
        """Upper bound of the bytes of one unit."""

    @property
    def padded_tile_nbytes(self) -> int:
        """Upper bound of the bytes of a tile with its halo."""

    @property
    def waiting_nbytes(self) -> int:
        """Upper bound of the bytes of tiles that wait for units that they share."""

    @property
    def window_nbytes(self) -> int:
        """Bytes of tiles that may be in flight beyond those that wait."""

    @property
    def peak_live_nbytes(self) -> int:
        """Upper bound of the bytes of tiles that are held at any time."""

    @property
    def admitted_nbytes(self) -> int:
        """Bytes of tiles up to which further ones are admitted."""

    @property
    def coarser_waiting_nbytes(self) -> int:
        """Bytes of tiles of coarser levels up to which further predictions are admitted."""

    def unit_in_turn(self, place: int) -> int:
        """Return the unit whose turn comes at a place."""

    def tile_of_unit(self, unit: int) -> int | None:
        """Return the tile of a coarser level that a unit becomes when it is written; None for most units."""

    def unit_of_tile(self, tile: int) -> int | None:
        """Return the unit that a tile is made of; None for a predicted tile."""

    def units_of_tile(self, tile: int) -> tuple[int, ...]:
        """Return the units that hold a piece of this tile."""

    def tiles_of_unit(self, unit: int) -> tuple[int, ...]:
        """Return the tiles that have a piece in this unit."""

    def tile_count_of_unit(self, unit: int) -> int:
        """Return the number of these tiles; `UNKNOWN_COUNT` before `TilesCounted` where it is not known."""

    def tiles_starting_in(self, unit: int) -> tuple[int, ...]:
        """Return the tiles to predict when this unit comes to its turn."""

    def tile_nbytes(self, tile: int) -> int:
        """Return the bytes of what a tile contributes."""

    def unit_nbytes(self, unit: int) -> int:
        """Return the bytes of a unit."""

    def share_of_tile(self, tile: int, count: int) -> int:
        """Return in which of so many parts a tile lies, so that tiles of one unit are mostly together."""

    def describe_unit(self, unit: int) -> str:
        """Return a unit in words."""
