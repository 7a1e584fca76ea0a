"""Tiles on workers: each has a handle, and one that was handed over has a copy here, from which it is sent again.

What was sent dies with its worker. Copies are kept in memory, or in a file where that is too much.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from distributed import Client, Future

from tilewright.assemble import AnyArray
from tilewright.coordinator import TilesLost
from tilewright.errors import DestinationError
from tilewright.transport.sender import SentTiles, TileSender


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """One array that is kept: itself, or where it lies in the file."""

    nbytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: AnyArray | None
    offset: int


class TileCopies:
    """Keep arrays, the first so many bytes of them in memory.

    Parameters
    ----------
    folder : Path
        Where the file is made, if one is needed. It has no name, so that nothing of it stays.
    memory_nbytes : int
        What may be kept in memory.
    """

    def __init__(self, folder: Path = Path(), memory_nbytes: int = 2**63) -> None:
        self._folder = folder
        self._free_nbytes = memory_nbytes
        self._file: IO[bytes] | None = None
        self._end = 0
        self._free_places: dict[int, list[int]] = defaultdict(list)

    def add(self, array: AnyArray) -> Copy:
        """Keep an array, which must not change."""
        if array.nbytes <= self._free_nbytes:
            self._free_nbytes -= array.nbytes
            return Copy(array.nbytes, array.shape, array.dtype, array, 0)
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        free = self._free_places[array.nbytes]
        offset = free.pop() if free else self._end
        try:
            self._file.seek(offset)
            array.tofile(self._file)
        except OSError as error:
            raise DestinationError(
                f"tiles that wait for the rest of their image could not be kept in a file in {self._folder}: {error}; "
                "make space there, or let more of them be kept in memory with memory_nbytes"
            ) from error
        self._end = max(self._end, offset + array.nbytes)
        return Copy(array.nbytes, array.shape, array.dtype, None, offset)

    def read(self, copy: Copy) -> AnyArray:
        """Return an array that is kept."""
        if copy.array is not None:
            return copy.array
        if self._file is None:
            raise ValueError("the copies are closed")
        self._file.seek(copy.offset)
        return np.fromfile(self._file, copy.dtype, prod(copy.shape)).reshape(copy.shape)

    def release(self, copy: Copy) -> None:
        """Let go of an array."""
        if copy.array is not None:
            self._free_nbytes += copy.nbytes
            return
        self._free_places[copy.nbytes].append(copy.offset)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tile is: a future of itself, or of the batch in which it was predicted."""

    tile: int
    future: Future[Any]
    place: int | None


class RemoteTiles:
    """Tiles that are on workers, or on their way there.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    share_of_tile, report : callable
        As in `TileSender`.
    copies : TileCopies, optional
        What keeps the tiles that are handed over; in memory where not given.
    """

    def __init__(
        self,
        client: Client,
        share_of_tile: Callable[[int, int], int],
        report: Callable[[SentTiles | BaseException], None],
        copies: TileCopies | None = None,
    ) -> None:
        self.sender = TileSender(client, share_of_tile, report)
        self._kept = copies or TileCopies()
        self._copies: dict[int, Copy] = {}
        self._places: dict[Hashable, _Place] = {}

    def take(self, tiles: Sequence[int], arrays: Sequence[AnyArray]) -> None:
        """Keep tiles that are handed over, and let them be sent."""
        # A view is of memory that the model may use again.
        own = [valid if valid.base is None else np.array(valid) for valid in arrays]
        self._copies.update(zip(tiles, map(self._kept.add, own), strict=True))
        self.sender.send(tiles, own)

    def send_again(self, tiles: Sequence[int]) -> list[int]:
        """Let tiles be sent of which the worker has died, and return those that were not handed over."""
        sent = [tile for tile in tiles if tile in self._copies]
        if sent:
            self.sender.send(sent, [self._kept.read(self._copies[tile]) for tile in sent])
        return [tile for tile in tiles if tile not in self._copies]

    def add(self, handle: Hashable, tile: int, future: Future[Any], place: int | None = None) -> None:
        """Take in where a tile is: the value of a future, or a place in it."""
        self._places[handle] = _Place(tile, future, place)

    def release(self, tile: int, handle: Hashable) -> None:
        """Let go of a tile."""
        self._places.pop(handle, None)
        if tile in self._copies:
            self._kept.release(self._copies.pop(tile))

    def futures_of(self, handles: Sequence[Hashable]) -> tuple[list[Future[Any]], list[tuple[int, int | None]]] | None:
        """Return the futures of tiles, and where in them each tile is; None if one is lost."""
        if not all(handle in self._places for handle in handles):
            return None
        places = [self._places[handle] for handle in handles]
        numbers = {future: number for number, future in enumerate(dict.fromkeys(place.future for place in places))}
        return list(numbers), [(numbers[place.future], place.place) for place in places]

    def lost_among(self, handles: Sequence[Hashable]) -> TilesLost | None:
        """Forget those of some tiles that died with their workers, and return that they did."""
        known = {handle: self._places[handle] for handle in handles if handle in self._places}
        lost = {h: place.tile for h, place in known.items() if place.future.status in ("cancelled", "lost", "error")}
        for handle in lost:
            del self._places[handle]
        return TilesLost(tuple(lost.values()), tuple(lost)) if lost else None

    def held(self, tiles: Sequence[int]) -> list[Any]:
        """Return futures of tiles that were taken in; the tile itself where it is not sent yet."""
        sent = {place.tile: place.future for place in self._places.values()}
        return [sent[tile] if tile in sent else self._kept.read(self._copies[tile]) for tile in tiles]

    def close(self) -> None:
        """Let go of all tiles."""
        self._places.clear()
        self._kept.close()
