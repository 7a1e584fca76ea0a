"""An image of which all tiles are there is written by one graph; its tiles are let go of only when it is on disk.

On a cluster, tiles wait as futures for the rest of their image, and images are written while the next ones are
predicted. What was sent dies with its worker, so each tile is kept here too until its image is written, and is sent
again if need be.
"""

import logging
import queue
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
from dask.base import compute
from dask.delayed import Delayed
from distributed import Client, Future, KilledWorker

from tilewright.assemble import AnyArray
from tilewright.coordinator import RetryPolicy, Suspects
from tilewright.errors import ClusterGoneError, ImageWriteError, TilesGoneError
from tilewright.images.graph import WriteFunc, image_graph
from tilewright.images.lazy_image import is_lazy
from tilewright.images.stitch_lazily import Fetch
from tilewright.images.stitching import ImageStitching
from tilewright.stores.places import without_secrets
from tilewright.transport.clients import memory_for_tiles, shares_memory
from tilewright.transport.scatter import fetch_on_worker, scatter
from tilewright.transport.tile_copies import Copy, TileCopies
from tilewright.transport.watch import LOOK_SECONDS, Watch

_log = logging.getLogger(__name__)

GROUP_NBYTES = 16 * 2**20
"""Bytes of tiles that are sent at once, about: each call costs some milliseconds, in which nothing is predicted."""
COPIES_SHARE = 2
"""Share of the budget, or of free memory, for copies of tiles: one part in so many. The rest lie in a file."""


@dataclass(eq=False)
class SentTile:
    """A tile where it waits for the rest of its image: itself, or a future, and then the copy to send again."""

    tile: Any
    nbytes: int
    copy: Copy | None = None


@dataclass(frozen=True, eq=False)
class CompleteImage:
    """An image of which all tiles are there, and what writes it."""

    stitching: ImageStitching
    tiles: Sequence[SentTile]
    write_func: WriteFunc
    file_path: Path
    write_func_kwargs: dict[str, Any]

    def graph(self, fetch_by_key: Fetch | None = None) -> Delayed:
        """Return the delayed graph that stitches and writes it; tiles that are futures are fetched by their keys."""
        tiles = [sent.tile for sent in self.tiles]
        if fetch_by_key is not None and is_lazy(self.write_func):
            tiles = [future.key for future in tiles]
        return image_graph(
            self.stitching, tiles, self.write_func, self.file_path, self.write_func_kwargs, fetch_by_key or list
        )

    def error(self, reason: object) -> ImageWriteError:
        """Return the error that says that it could not be written."""
        return ImageWriteError(f"image {self.stitching.name} could not be written to {self.file_path}: {reason}")


class ImageWrites(Protocol):
    """What holds tiles until their image is written, and writes it."""

    def send(self, tiles: Sequence[AnyArray]) -> list[SentTile]:
        """Take in tiles, which must not change; wait while as much is held as may be."""

    def write(self, image: CompleteImage) -> None:
        """Write an image, now or later."""

    def check(self) -> None:
        """Raise ImageWriteError where images failed and it is better not to go on."""

    def finish(self) -> list[ImageWriteError]:
        """Wait until all images are written, and return the errors of those that could not be."""

    def close(self) -> None:
        """Let go of all that is held; a second call does nothing."""


class LocalImageWrites:
    """Write each image at once, on threads of this process."""

    def __init__(self) -> None:
        self._failures: list[ImageWriteError] = []

    def send(self, tiles: Sequence[AnyArray]) -> list[SentTile]:
        """Keep tiles."""
        return [SentTile(tile, tile.nbytes) for tile in tiles]

    def write(self, image: CompleteImage) -> None:
        """Write an image before this returns."""
        try:
            compute(image.graph(), scheduler="threads")
        except Exception as error:
            failure = image.error(_described(error))
            failure.__cause__ = error
            self._failures.append(failure)

    def check(self) -> None:
        """Raise the errors of the images that could not be written."""
        failures, self._failures = self._failures, []
        if failures:
            raise joined(failures)

    def finish(self) -> list[ImageWriteError]:
        """Return nothing: all is written, or was said."""
        return []

    def close(self) -> None:
        """Do nothing."""


@dataclass(eq=False)
class _Running:
    """An image that is to be written, and how often workers died while it alone was."""

    image: CompleteImage
    deaths_alone: int = 0


class ClusterImageWrites:
    """Write images on a cluster, while the next ones are predicted.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    folder : Path
        The folder of the outputs.
    memory_nbytes : int, optional
        Bytes of tiles that may be held before a call of `send` waits for images that are being written. One image is
        held whole, whatever it takes. By default half the memory of the workers.
    policy : RetryPolicy, optional
        Deaths of workers that one image may cost, and failed images after which the run ends.
    """

    def __init__(
        self,
        client: Client,
        folder: Path,
        memory_nbytes: int | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._client = client
        self._policy = policy or RetryPolicy()
        self._watch = Watch(client)
        free_nbytes = int(psutil.virtual_memory().available)
        if memory_nbytes is None:
            # Workers that have no limit, or have not come yet, are taken for no larger than this process may become.
            memory_nbytes = memory_for_tiles(client) or free_nbytes // 2
        self._budget_nbytes = memory_nbytes
        copies_nbytes = min(self._budget_nbytes, free_nbytes) // COPIES_SHARE
        # What workers in this process hold does not die, and is no second copy.
        self._copies = None if shares_memory(client) else TileCopies(folder, copies_nbytes)
        self._live_nbytes = 0
        self._to_send: list[SentTile] = []
        self._waiting: deque[_Running] = deque()
        self._suspects = Suspects[_Running]()
        self._alone: Future[Any] | None = None
        self._running: dict[Future[Any], _Running] = {}
        self._ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._written_count = 0
        self._failures: list[ImageWriteError] = []

    def send(self, tiles: Sequence[AnyArray]) -> list[SentTile]:
        """Send tiles to the workers, some at a time; waits while images that are being written hold too much."""
        nbytes = sum(tile.nbytes for tile in tiles)
        self._collect(wait=False)
        while self._running and self._live_nbytes + nbytes > self._budget_nbytes:
            self._collect(wait=True)
        self._live_nbytes += nbytes
        taken = [
            SentTile(tile, tile.nbytes, None if self._copies is None else self._copies.add(tile)) for tile in tiles
        ]
        self._to_send.extend(taken)
        if sum(tile.nbytes for tile in self._to_send) >= GROUP_NBYTES:
            self._send_off()
        return taken

    def write(self, image: CompleteImage) -> None:
        """Submit the graph of an image."""
        self._send_off()
        self._waiting.append(_Running(image))
        self._submit_what_may_run()
        self._collect(wait=False)

    def check(self) -> None:
        """Raise the errors of several images where none could be written."""
        failed_count = len(self._failures)
        # How many images will come is not known.
        if self._written_count == 0 and self._policy.is_hopeless(in_a_row=failed_count, written=0, others=1):
            failures, self._failures = self._failures, []
            raise joined(failures)

    def finish(self) -> list[ImageWriteError]:
        """Wait until all images are written, and return the errors of those that could not be."""
        try:
            while self._running or self._waiting or self._suspects:
                self._submit_what_may_run()
                self._collect(wait=True)
        except ClusterGoneError as error:
            unwritten = [*self._running.values(), *self._waiting, *self._suspects]
            reasons = [str(running.image.error("the cluster is gone")) for running in unwritten]
            raise ClusterGoneError("; ".join([str(error), *reasons])) from error
        failures, self._failures = self._failures, []
        return failures

    def close(self) -> None:
        """Wait for the images that are being written, since all of their tiles are there, and let go of the rest."""
        try:
            for error in self.finish():
                _log.error("%s", error)
        except ClusterGoneError as error:
            _log.error("%s", error)
        finally:
            self._waiting.clear()
            self._running.clear()
            self._suspects = Suspects()
            if self._copies is not None:
                self._copies.close()

    def _send_off(self) -> None:
        to_send, self._to_send = self._to_send, []
        futures = scatter(self._client, self._watch, [sent.tile for sent in to_send]) if to_send else []
        for sent, future in zip(to_send, futures, strict=True):
            sent.tile = future

    def _submit_what_may_run(self) -> None:
        """Submit images, but a suspect only while no other one runs, so that no other one dies with it."""
        while self._waiting and not self._suspects.one_runs:
            self._submit(self._waiting[0])
            # Only now: where the cluster is gone, it must be named among those that are not written.
            self._waiting.popleft()
        suspect = self._suspects.take(others_run=bool(self._running))
        if suspect is not None:
            try:
                self._alone = self._submit(suspect)
            except ClusterGoneError:
                self._suspects.add(suspect)
                raise

    def _submit(self, running: _Running) -> Future[Any]:
        self._watch.wait_until_connected()
        with self._watch.talking():
            self._send_lost_again(running.image)
            future: Future[Any] = self._client.compute(
                running.image.graph(fetch_on_worker), optimize_graph=False, priority=10
            )
        self._running[future] = running
        future.add_done_callback(self._ended.put)
        return future

    def _send_lost_again(self, image: CompleteImage) -> None:
        for sent in image.tiles:
            if sent.tile.status != "finished" and self._copies is not None and sent.copy is not None:
                (sent.tile,) = scatter(self._client, self._watch, [self._copies.read(sent.copy)])

    def _collect(self, *, wait: bool) -> None:
        """Look which images are written; where `wait` is true, wait until one more is, or has failed."""
        while True:
            try:
                future = self._ended.get(block=wait, timeout=LOOK_SECONDS)
            except queue.Empty:
                self._watch.look()
                if not wait:
                    return
                continue
            running = self._running.pop(future)
            is_alone = future is self._alone
            if is_alone:
                self._alone = None
                self._suspects.ended()
            if future.status == "finished":
                self._written_count += 1
                self._let_go(running.image)
            else:
                self._go_on_after(future, running, is_alone)
            self._submit_what_may_run()
            wait = False

    def _go_on_after(self, future: Future[Any], running: _Running, is_alone: bool) -> None:
        error = future.exception() if future.status == "error" else None
        if error is None or isinstance(error, KilledWorker | TilesGoneError):
            running.deaths_alone += is_alone
            if not self._policy.is_spent(running.deaths_alone):
                _log.warning("image %s is written again: %s", running.image.stitching.name, _reason(future, error))
                self._suspects.add(running)
                return
        failure = running.image.error(_reason(future, error))
        failure.__cause__ = error
        self._let_go(running.image)
        self._failures.append(failure)
        _log.error("%s", failure)

    def _let_go(self, image: CompleteImage) -> None:
        for sent in image.tiles:
            self._live_nbytes -= sent.nbytes
            sent.tile = None
            if self._copies is not None and sent.copy is not None:
                self._copies.release(sent.copy)


def joined(errors: Sequence[ImageWriteError], also: Sequence[str] = ()) -> ImageWriteError:
    """Return one error of several, which names each image and file, and says what else is wrong."""
    if len(errors) == 1 and not also:
        return errors[0]
    error = ImageWriteError("; ".join([*map(str, errors), *also]))
    error.__cause__ = errors[0].__cause__
    return error


def _reason(future: Future[Any], error: BaseException | None) -> str:
    if error is None:
        return f"its task was {future.status}, since a worker is gone"
    return _described(error)


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {without_secrets(error)}"
