"""Tiles that were handed over travel to workers while the next ones are predicted: one thread sends all that waits."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future

from tilewright.assemble import AnyArray
from tilewright.execution.scatter import scatter
from tilewright.execution.watch import Watch

AT_ONCE_NBYTES = 64 * 2**20
"""What is sent by one request, at most, but for the last tile of it: a request costs some milliseconds."""
CLOSE_SECONDS = 5.0
"""How long to wait at the end for what is on its way; what takes longer is left to itself."""


@dataclass(frozen=True, slots=True)
class SentTiles:
    """Tiles that are on workers now."""

    tiles: tuple[int, ...]
    futures: tuple[Future[Any], ...]


class TileSender:
    """Send tiles to the workers of a cluster, in their order, while the caller goes on.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    report : callable
        Takes what was sent, or the error because of which nothing more is. It is called in another thread.
    """

    def __init__(self, client: Client, report: Callable[[SentTiles | BaseException], None]) -> None:
        self._client = client
        self._watch = Watch(client)
        self._report = report
        self._waiting: list[tuple[int, AnyArray]] = []
        self._unsent_count = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all that was to be sent is sent, and reported."""
        return self._unsent_count == 0

    def send(self, tiles: Sequence[int], arrays: Sequence[AnyArray]) -> None:
        """Let tiles be sent; the arrays must not change until they are."""
        with self._changed:
            self._waiting.extend(zip(tiles, arrays, strict=True))
            self._unsent_count += len(tiles)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="tilewright-sender", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Send nothing more, and wait a little for what is on its way."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _send_all(self) -> None:
        try:
            while self._send_group():
                pass
        except BaseException as error:
            if not self._closed:
                self._report(error)

    def _send_group(self) -> bool:
        """Send what goes together, and keep neither the tiles nor their futures."""
        group = self._next_group()
        if not group:
            return False
        tiles, arrays = zip(*group, strict=True)
        futures = scatter(self._client, self._watch, arrays)
        if not self._closed:
            self._report(SentTiles(tiles, tuple(futures)))
        with self._changed:
            self._unsent_count -= len(tiles)
        return True

    def _next_group(self) -> list[tuple[int, AnyArray]]:
        """Wait for tiles, and return some that go together; none when this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            group: list[tuple[int, AnyArray]] = []
            nbytes = 0
            while self._waiting and nbytes < AT_ONCE_NBYTES:
                group.append(self._waiting.pop(0))
                nbytes += group[-1][1].nbytes
            return group
