"""Executor of a cluster of other processes: one task writes one unit, and tiles travel as futures.

The work itself travels once to each worker, also to one that joins later, and stays there until the run ends. Tiles
that were handed over are kept here until their units are written, since what was scattered dies with its worker.

A task of which Dask has lost too many workers is a suspect: see `tilewright.coordinator.suspects`.
"""

import queue
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

from distributed import Client, Future, KilledWorker

from tilewright.assemble import AnyArray
from tilewright.coordinator import (
    DeliverTiles,
    Event,
    Failure,
    Instruction,
    ProduceUnit,
    ReleaseTile,
    Suspects,
    TakeTile,
    TilesPredicted,
    UnitFailed,
    WriteUnit,
)
from tilewright.errors import TilesGoneError, WorkGoneError
from tilewright.executors.executor import TASKS_PER_THREAD, Errors, failed
from tilewright.executors.remote.stored_units import StoredUnits
from tilewright.executors.remote.tasks import predict, produce, write
from tilewright.executors.work import Work
from tilewright.ledger.receipts import UnitReceipt
from tilewright.transport.remote_tiles import RemoteTiles, TileCopies
from tilewright.transport.sender import SentTiles
from tilewright.transport.shared_prediction import SharedPrediction
from tilewright.transport.sharing import REGISTRATIONS, Shared
from tilewright.transport.watch import LOOK_SECONDS, Watch, gone

GROUP_NBYTES = 256 * 2**20
"""Bytes of the tiles that one task predicts, about: a task costs some milliseconds."""
UNSENT_NBYTES = 256 * 2**20
"""Bytes that are handed over and not sent yet, above which a trainer waits."""
LOSSES_PER_UNIT = 4
"""Times that the tiles of a unit may be lost with their workers: it runs alone after the second time."""
RESENT_PER_UNIT = 10
"""Tasks that a cluster may drop, per unit, before the run ends."""


class RemoteExecutor:
    """Carry out instructions on the worker processes of a cluster.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    work : Work
        What the instructions are about.
    prediction : SharedPrediction, optional
        The prediction of the work, which the workers have already.
    copies : TileCopies, optional
        What keeps the tiles that are handed over; in memory where not given.
    """

    def __init__(
        self, client: Client, work: Work, prediction: SharedPrediction | None = None, copies: TileCopies | None = None
    ) -> None:
        self._client = client
        self._watch = Watch(client)
        self._work = work
        # The model stays where it is; the rest of the work is small.
        self._shared = Shared(client, replace(work, prediction=None))
        self._prediction = prediction
        self._names = (self._shared.name, prediction.name if prediction else None)
        self._run = uuid.uuid4().hex
        self._errors = Errors()
        self._waiting: tuple[deque[Instruction], deque[Instruction]] = (deque(), deque())
        self._suspects = Suspects[Instruction]()
        self._alone: Future[Any] | None = None
        self._running: dict[Future[Any], Instruction] = {}
        self._ended: queue.SimpleQueue[Future[Any] | SentTiles | BaseException] = queue.SimpleQueue()
        self._tiles = RemoteTiles(client, work.plan.share_of_tile, self._ended.put, copies)
        self._units = StoredUnits(client, work.plan, self._tiles)
        self._at_once: deque[Event] = deque()
        self._number = 0
        self._losses: Counter[int] = Counter()
        self._resent_count = 0
        self._renewed_until = 0.0
        self._most_tasks = 0
        self._closed = False
        self._count_threads()

    def carry_out(self, instruction: Instruction) -> None:
        """Submit an instruction, or queue it while enough is submitted."""
        match instruction:
            case ReleaseTile(tile, handle):
                self._tiles.release(tile, handle)
            case DeliverTiles(tiles):
                others = self._tiles.send_again(tiles)
                self._waiting[1].extend(map(DeliverTiles, self._work.groups(others, GROUP_NBYTES)))
            case WriteUnit(unit) if self._losses[unit] > 1:
                # Its tiles were lost twice: it may be what its workers die of.
                self._suspects.add(instruction)
            case WriteUnit():
                # First, since what is written frees memory.
                self._waiting[0].append(instruction)
            case _:
                self._waiting[1].append(instruction)
        self._submit()

    def events(self, *, wait: bool) -> list[Event]:
        """Return the outcomes of the tasks that have ended."""
        happened = list(self._at_once)
        self._at_once.clear()
        ended: list[Future[Any]] = []
        while True:
            try:
                outcome = self._ended.get(block=wait and not (ended or happened), timeout=LOOK_SECONDS)
            except queue.Empty:
                if wait and not (ended or happened):
                    self._watch.look()
                break
            match outcome:
                case BaseException() if ended or happened:
                    # After what was stored is recorded.
                    self._ended.put(outcome)
                    break
                case BaseException():
                    raise outcome
                case SentTiles(tiles, futures):
                    happened.append(self._sent(tiles, futures))
                case _:
                    ended.append(outcome)
        if monotonic() > self._count_again:
            # A cluster may grow while it is busy.
            self._count_threads()
        # Others were cancelled, when this was closed.
        ended = [future for future in ended if future in self._running and not self._asks_for_receipt(future)]
        receipts = self._units.receipts_of({future: self._running[future] for future in ended})
        for future in ended:
            happened.extend(self._outcome(future, self._running.pop(future), receipts.get(future)))
            self._units.forget(future)
            if future is self._alone:
                self._alone = None
                self._suspects.ended()
        self._submit()
        return happened

    def stop_predicting(self) -> None:
        """Drop predictions that are not submitted."""
        self._waiting[1].clear()
        self._suspects.keep(lambda suspect: isinstance(suspect, WriteUnit))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued, submitted or to be told."""
        is_sent = self._tiles.sender.is_idle and self._ended.empty()
        return is_sent and not (self._running or self._at_once or self._suspects or any(self._waiting))

    @property
    def wanted_nbytes(self) -> int:
        """Bytes of units that keep all workers busy."""
        return self._most_tasks * self._work.plan.largest_unit_nbytes

    @property
    def is_full(self) -> bool:
        """Whether much is handed over and not sent yet."""
        return self._tiles.sender.unsent_nbytes > UNSENT_NBYTES

    def take(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> None:
        """Let copies of tiles be sent to the workers, straight, and keep them here too."""
        if instructions:
            self._tiles.take([instruction.tile for instruction in instructions], arrays)

    def held(self, tiles: Sequence[int]) -> list[Any]:
        """Return futures of tiles that were taken in; the tile itself where it is not sent yet."""
        return self._tiles.held(tiles)

    def _asks_for_receipt(self, future: Future[Any]) -> bool:
        """Ask for the receipt of a unit that is stored and is a tile too, and return whether that is still to come."""
        instruction = self._running[future]
        if not isinstance(instruction, ProduceUnit | WriteUnit):
            return False
        receipt = self._units.ask_for_receipt(instruction.unit, future, self._next_key("receipt", instruction.unit))
        if receipt is None:
            return False
        if future is self._alone:
            self._alone = receipt
        self._running[receipt] = self._running.pop(future)
        receipt.add_done_callback(self._ended.put)
        return True

    def _sent(self, tiles: tuple[int, ...], futures: Sequence[Future[Any]]) -> TilesPredicted:
        handles = tuple(self._next_key("tile", tile) for tile in tiles)
        for handle, tile, future in zip(handles, tiles, futures, strict=True):
            self._tiles.add(handle, tile, future)
        return TilesPredicted(tiles, handles)

    def error_behind(self, failure: Failure) -> BaseException | None:
        """Return the error behind a failure, if it is still kept."""
        return self._errors.behind(failure)

    def close(self) -> None:
        """Cancel what is submitted, and let the workers forget the run."""
        if self._closed:
            return
        self._closed = True
        with suppress(Exception):
            self._tiles.sender.close()
        if self._client.status == "running":
            # The error that ended the run matters more than one of sending.
            with suppress(Exception):
                self._at_once.extend(self.events(wait=False))
        futures, self._running = list(self._running), {}
        for waiting in self._waiting:
            waiting.clear()
        self._suspects = Suspects()
        self._tiles.close()
        self._units.close()
        if self._client.status == "running":
            with suppress(Exception):
                self._client.cancel(futures)
        self._shared.close()

    def _submit(self) -> None:
        if self._closed:
            return
        while self._alone is None and len(self._running) < self._most_tasks and any(self._waiting):
            self._start((self._waiting[0] or self._waiting[1]).popleft())
        while (suspect := self._suspects.take(others_run=bool(self._running))) is not None:
            self._alone = self._start(suspect)
            if self._alone is None:
                self._suspects.ended()

    def _start(self, instruction: Instruction) -> Future[Any] | None:
        future = self._task_of(instruction)
        if future is None:
            return None
        self._running[future] = instruction
        future.add_done_callback(self._ended.put)
        return future

    def _task_of(self, instruction: Instruction) -> Future[Any] | None:
        match instruction:
            case WriteUnit(unit, _, tiles, handles):
                # A unit of which a tile was lost meanwhile is instructed again when the tile is there again.
                if are_lost := self._tiles.lost_among(handles):
                    self._at_once.append(are_lost)
                    return None
                found = self._tiles.futures_of(handles)
                return found and self._write_task(unit, tiles, *found)
            case ProduceUnit(unit):
                return self._submit_task("produce", unit, produce, unit)
            case DeliverTiles(tiles):
                return self._submit_task("predict", tiles[0], predict, tiles)
        raise TypeError(f"{instruction} is not carried out by a task")

    def _write_task(
        self, unit: int, tiles: tuple[int, ...], futures: list[Future[Any]], where: list[tuple[int, int | None]]
    ) -> Future[Any]:
        """Submit the writing of a unit; where a tile is says the number of a future, and a place in its value."""
        return self._submit_task("write", unit, write, unit, tiles, where, futures)

    def _submit_task(self, kind: str, number: int, function: Callable[..., Any], *args: Any) -> Future[Any]:
        # What is written frees memory.
        priority = 10 if kind == "write" else 0
        key = self._next_key(kind, number)
        return self._client.submit(function, self._names, *args, key=key, priority=priority, pure=False)

    def _outcome(self, future: Future[Any], instruction: Instruction, receipt: UnitReceipt | None) -> list[Event]:
        match instruction:
            case DeliverTiles(tiles) if future.status == "finished":
                handles = tuple((future.key, place) for place in range(len(tiles)))
                for place, (handle, tile) in enumerate(zip(handles, tiles, strict=True)):
                    self._tiles.add(handle, tile, future, place)
                return [TilesPredicted(tiles, handles)]
            case ProduceUnit(unit) | WriteUnit(unit) if receipt is not None:
                return [self._units.written(unit, future, receipt)]
        if lost := self._lost_tiles(instruction):
            return lost
        return [] if self._send_again(future, instruction) else self._failure(future, instruction)

    def _lost_tiles(self, instruction: Instruction) -> list[Event]:
        """Forget the tiles of a unit that died with their workers, and return that they did, or that it is hopeless."""
        if not isinstance(instruction, WriteUnit) or (are_lost := self._tiles.lost_among(instruction.handles)) is None:
            return []
        self._losses[instruction.unit] += 1
        if self._losses[instruction.unit] <= LOSSES_PER_UNIT:
            return [are_lost]
        reason = f"{self._losses[instruction.unit]} times its tiles were lost with a worker, at last while it ran alone"
        return [UnitFailed(instruction.unit, instruction.attempt, Failure(reason, is_final=True)), are_lost]

    def _send_again(self, future: Future[Any], instruction: Instruction) -> bool:
        """Submit an instruction again that a cluster has dropped that was restarted, and return whether it has."""
        error = future.exception() if future.status == "error" else None
        if not isinstance(error, WorkGoneError | TilesGoneError) and future.status not in ("cancelled", "lost"):
            return False
        self._resent_count += 1
        if self._resent_count > RESENT_PER_UNIT * self._work.plan.unit_count + REGISTRATIONS:
            raise gone("it drops the tasks of this run again and again")
        self._watch.wait_until_connected()
        if isinstance(error, WorkGoneError) and monotonic() > self._renewed_until:
            self._shared.renew()
            if self._prediction is not None:
                self._prediction.renew()
            # Other tasks that were on their way meanwhile say the same.
            self._renewed_until = monotonic() + LOOK_SECONDS
        self._waiting[0 if isinstance(instruction, WriteUnit) else 1].append(instruction)
        return True

    def _failure(self, future: Future[Any], instruction: Instruction) -> list[Event]:
        match instruction:
            case DeliverTiles(tiles) if len(batches := self._work.batches(tiles)) > 1:
                # One batch failed; the others must not fail with it.
                for part in map(DeliverTiles, batches):
                    (self._suspects.add if _is_killed(future) else self._waiting[1].append)(part)
                return []
        if _is_killed(future) and future is not self._alone:
            self._suspects.add(instruction)
            return []
        return [failed(instruction, self._failed(future))]

    def _failed(self, future: Future[Any]) -> Failure:
        if future.status == "error":
            error = future.exception().with_traceback(future.traceback())
            return self._errors.failure_of(error, is_final=_is_killed(future))
        return Failure(f"the task {future.key} was {future.status}: its worker is gone")

    def _next_key(self, what: str, number: int) -> tuple[str, int, int]:
        self._number += 1
        return f"tilewright-{what}-{self._run}", number, self._number

    def _count_threads(self) -> None:
        self._count_again = monotonic() + LOOK_SECONDS
        if self._watch.is_connected:
            with self._watch.talking():
                threads = sum(self._client.nthreads().values())
            self._most_tasks = max(self._most_tasks, TASKS_PER_THREAD * max(1, threads))


def _is_killed(future: Future[Any]) -> bool:
    """Tell whether too many workers died with a task."""
    return future.status == "error" and isinstance(future.exception(), KilledWorker)
