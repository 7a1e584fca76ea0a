"""Executor of a cluster inside this process: a few long tasks take work from one queue.

A Dask task costs some milliseconds of Python, during which the threads that encode and store wait for the interpreter.
So each thread of the cluster runs a *lane*, a task that carries out one instruction after the other while there are
any, and reports each by itself. It waits a little for more, and makes room for other tasks of the cluster now and then.
"""

import queue
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Any

from distributed import Client, Future

from tilewright.assemble import AnyArray
from tilewright.coordinator import Event, Instruction, ReleaseTile, TakeTile, WriteUnit
from tilewright.executors.executor import TASKS_PER_THREAD
from tilewright.executors.local_executor import LocalExecutor, is_prediction
from tilewright.executors.work import Work
from tilewright.transport.watch import LOOK_SECONDS, Watch, gone

LANE_SECONDS = 2.0
"""How long a lane runs before it makes room."""

LINGER_SECONDS = 0.1
"""How long a lane waits for more to do before it ends."""

CLOSE_SECONDS = 5.0
"""How long to wait at the end for what lanes are about; what takes longer is left to itself, and writes nothing."""

_executors: dict[str, "InProcessExecutor"] = {}


class InProcessExecutor(LocalExecutor):
    """Carry out instructions on the threads of a cluster in this process.

    Parameters
    ----------
    client : distributed.Client
        A client of a cluster whose workers are threads of this process.
    work : Work
        What the instructions are about.
    """

    def __init__(self, client: Client, work: Work) -> None:
        super().__init__(work)
        self._client = client
        self._watch = Watch(client)
        self._waiting: queue.PriorityQueue[tuple[int, int, Instruction | None]] = queue.PriorityQueue()
        self._happened: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self._numbers = count()
        self._lock = threading.Lock()
        self._lanes: dict[int, Future[Any]] = {}
        self._lane_count = 0
        self._most_lanes = 0
        self._unfinished_count = 0
        self._closed = False
        self._count_threads()
        self._run = uuid.uuid4().hex
        _executors[self._run] = self

    def carry_out(self, instruction: Instruction) -> None:
        """Queue an instruction, units to be written first, since they free memory."""
        match instruction:
            case ReleaseTile(tile):
                self._tiles.release(tile)
            case _:
                urgency = 1 if isinstance(instruction, WriteUnit) else 2
                for part in self._steps(instruction):
                    self._queue(urgency, part)

    def stop_predicting(self) -> None:
        """Drop predictions that no lane has begun."""
        for urgency, step in self._taken_back():
            if not is_prediction(step):
                self._queue(urgency, step)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued, under way, or to be told."""
        return self._unfinished_count == 0 and self._happened.empty()

    @property
    def wanted_nbytes(self) -> int:
        """Bytes of units that keep all lanes busy."""
        return TASKS_PER_THREAD * self._most_lanes * self._work.plan.largest_unit_nbytes

    @property
    def is_full(self) -> bool:
        """Whether tiles would be copied that need not be, since the lanes have enough to do."""
        return self._tiles.is_full and self._unfinished_count >= 2 * self._most_lanes

    def events(self, *, wait: bool) -> list[Event]:
        """Return what the lanes report."""
        happened: list[Event] = []
        while True:
            try:
                event = self._happened.get(block=wait and not happened, timeout=LOOK_SECONDS)
            except queue.Empty:
                if wait and not happened:
                    self._watch.look()
                    self._count_threads()
                    if not self._waiting.empty():
                        # Workers may have come only now.
                        self._open_lane()
                return happened
            if isinstance(event, BaseException):
                raise event
            happened.append(event)

    def take(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> None:
        """Hold tiles until their units are written."""
        for event in self._hold(instructions, arrays):
            self._happened.put(event)

    def close(self) -> None:
        """Drop what is queued, and wait a little for what is being written or seen by the model."""
        if self._closed:
            return
        self._closed = True
        _executors.pop(self._run, None)
        self._stopped.set()
        self._taken_back()
        with self._lock:
            lanes = list(self._lanes.values())
        for _ in lanes:
            # To those that wait for more to do.
            self._waiting.put((0, next(self._numbers), None))
        until = monotonic() + CLOSE_SECONDS
        with suppress(OSError, CancelledError):
            for lane in lanes:
                lane.exception(timeout=max(0.0, until - monotonic()))
        self._let_go()

    def _taken_back(self) -> list[tuple[int, Instruction]]:
        """Return what was queued, and is not any more, with how urgent it was."""
        taken = []
        with suppress(queue.Empty):
            while True:
                urgency, _, step = self._waiting.get_nowait()
                if step is not None:
                    taken.append((urgency, step))
        with self._lock:
            self._unfinished_count -= len(taken)
        return taken

    def _count_threads(self) -> None:
        if self._watch.is_connected:
            self._most_lanes = sum(self._client.nthreads().values())

    def _queue(self, urgency: int, step: Instruction) -> None:
        with self._lock:
            self._unfinished_count += 1
        self._waiting.put((urgency, next(self._numbers), step))
        self._open_lane()

    def _open_lane(self) -> None:
        with self._lock:
            if self._closed or self._lane_count >= self._most_lanes:
                return
            self._lane_count += 1
            number = next(self._numbers)
            lane = self._client.submit(
                _run_lane, self._run, number, key=("tilewright-lane", self._run, number), pure=False
            )
            self._lanes[number] = lane
        lane.add_done_callback(self._lane_ended)

    def _lane_ended(self, lane: Future[Any]) -> None:
        if lane.status != "finished" and self._run in _executors:
            # A lane reports what fails in it; that it failed itself means that the cluster is going away.
            self._happened.put(gone())

    def run_lane(self, number: int) -> None:
        """Carry out instructions while there are any."""
        until = monotonic() + LANE_SECONDS
        while self._run in _executors and monotonic() < until:
            try:
                _, _, step = self._waiting.get(timeout=LINGER_SECONDS)
            except queue.Empty:
                break
            if step is None:
                break
            try:
                self._happened.put(self._perform(step))
            except BaseException as error:
                # Not an error of the work, which is an event, but a model that exits, say.
                self._happened.put(error)
                break
            finally:
                with self._lock:
                    self._unfinished_count -= 1
        with self._lock:
            self._lane_count -= 1
            self._lanes.pop(number, None)
        if not self._waiting.empty():
            # Queued after the last look, or left for the next lane.
            self._open_lane()


def _run_lane(run: str, number: int) -> None:
    executor: Any = _executors.get(run)
    if executor is not None:
        executor.run_lane(number)
