"""Tiles that wait: each stays where the model left it while there is room, else it is copied without its halo.

So what waits takes no more memory than the plan says, halos and all, and no element is copied that need not be.
"""

import threading

from tilewright.assemble import AnyArray
from tilewright.coordinator import UnitPlan


class HeldTiles:
    """The valid regions of the tiles that wait for their units.

    Parameters
    ----------
    plan : UnitPlan
        The plan of the image, whose figure for waiting tiles is kept to.

    Attributes
    ----------
    nbytes : int
        What is held, with the halos that are held with it.
    """

    def __init__(self, plan: UnitPlan) -> None:
        self.nbytes = 0
        self._most_nbytes = plan.waiting_nbytes + plan.window_nbytes
        self._tile_nbytes = plan.padded_tile_nbytes
        self._lock = threading.Lock()
        self._tiles: dict[int, AnyArray] = {}
        self._with_halo: dict[int, None] = {}

    def __getitem__(self, tile: int) -> AnyArray:
        return self._tiles[tile]

    @property
    def is_full(self) -> bool:
        """Whether the next tile will be copied."""
        return self.nbytes + self._tile_nbytes > self._most_nbytes

    def hold(self, tile: int, valid: AnyArray) -> None:
        """Hold the valid region of a tile, which is a view of the whole tile unless it has memory of its own."""
        with self._lock:
            self._forget(tile)
            if valid.base is not None and not self.is_full:
                self._with_halo[tile] = None
                self.nbytes += self._tile_nbytes
            else:
                valid = valid if valid.base is None else valid.copy()
                self.nbytes += valid.nbytes
            self._tiles[tile] = valid
            while self.nbytes > self._most_nbytes and self._with_halo:
                self._copy(next(iter(self._with_halo)))

    def release(self, tile: int) -> None:
        """Let go of a tile, if it is held."""
        with self._lock:
            self._forget(tile)

    def _copy(self, tile: int) -> None:
        del self._with_halo[tile]
        self._tiles[tile] = valid = self._tiles[tile].copy()
        self.nbytes += valid.nbytes - self._tile_nbytes

    def _forget(self, tile: int) -> None:
        valid = self._tiles.pop(tile, None)
        if valid is None:
            return
        if tile in self._with_halo:
            del self._with_halo[tile]
            self.nbytes -= self._tile_nbytes
        else:
            self.nbytes -= valid.nbytes
