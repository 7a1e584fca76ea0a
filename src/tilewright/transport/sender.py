"""Tiles that were handed over travel to workers while the next ones are predicted, neighbours to the same one.

One thread sends all that waits. What is on another worker than the rest of its unit travels a second time, so where a
tile goes follows from where it lies in the image.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future

from tilewright.assemble import AnyArray
from tilewright.transport.scatter import running_workers, scatter
from tilewright.transport.watch import Watch


@dataclass(frozen=True, slots=True)
class SentTiles:
    """Tiles that are on workers now."""

    tiles: tuple[int, ...]
    futures: tuple[Future[Any], ...]


class TileSender:
    """Send tiles to the workers of a cluster, to each worker in their order, while the caller goes on.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    share_of_tile : callable
        Takes a tile and the number of workers, and returns the number of the one to which it should go.
    report : callable
        Takes what was sent, or the error because of which nothing more is. It is called in another thread.
    at_once_nbytes : int
        Bytes of one request, at most, but for its last tile: a request costs some milliseconds.

    Attributes
    ----------
    unsent_nbytes : int
        Bytes that are to be sent, or are not reported yet.
    """

    def __init__(
        self,
        client: Client,
        share_of_tile: Callable[[int, int], int],
        report: Callable[[SentTiles | BaseException], None],
        at_once_nbytes: int = 64 * 2**20,
    ) -> None:
        self._client = client
        self._share_of_tile = share_of_tile
        self._watch = Watch(client)
        self._report = report
        self._at_once_nbytes = at_once_nbytes
        self._waiting: list[tuple[int, AnyArray]] = []
        self.unsent_nbytes = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all that was to be sent is sent, and reported."""
        return self.unsent_nbytes == 0

    def send(self, tiles: Sequence[int], arrays: Sequence[AnyArray]) -> None:
        """Let tiles be sent; the arrays must not change until they are."""
        with self._changed:
            self._waiting.extend(zip(tiles, arrays, strict=True))
            self.unsent_nbytes += sum(array.nbytes for array in arrays)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="tilewright-sender", daemon=True)
                self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Send nothing more, and wait so long for what is on its way; what takes longer is left to itself."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def _send_all(self) -> None:
        try:
            while self._send_group():
                pass
        except BaseException as error:
            if not self._closed:
                self._report(error)

    def _send_group(self) -> bool:
        """Send what goes together, and keep neither the tiles nor their futures."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
        if self._closed:
            return False
        worker, tiles, arrays = self._next_group(running_workers(self._client, self._watch))
        if not tiles:
            # Closed in this moment.
            return False
        futures = scatter(self._client, self._watch, arrays, worker)
        if not self._closed:
            self._report(SentTiles(tuple(tiles), tuple(futures)))
        with self._changed:
            self.unsent_nbytes -= sum(array.nbytes for array in arrays)
        return True

    def _next_group(self, workers: Sequence[str]) -> tuple[str | None, list[int], list[AnyArray]]:
        """Return the oldest tile that waits, with others that go to the same worker, and which one that is."""
        tiles: list[int] = []
        arrays: list[AnyArray] = []
        left: list[tuple[int, AnyArray]] = []
        nbytes = 0
        with self._changed:
            waiting, self._waiting = self._waiting, []
        shares = [self._share_of_tile(tile, max(1, len(workers))) for tile, _ in waiting]
        for (tile, array), share in zip(waiting, shares, strict=True):
            if share == shares[0] and nbytes < self._at_once_nbytes:
                tiles.append(tile)
                arrays.append(array)
                nbytes += array.nbytes
            else:
                left.append((tile, array))
        with self._changed:
            self._waiting = left + self._waiting
        return (workers[shares[0]] if workers and shares else None), tiles, arrays
