"""A real Dask scheduler and many real workers, whose tasks only wait: what a cluster costs, without machines.

The scheduler is a process of its own. The workers are `distributed.Worker` objects with one thread each, many of them
in one process on one event loop. What they do to look after themselves, which on a cluster costs the client and the
scheduler nothing, they do less often; heartbeats come as often as the scheduler asks for them.
"""

import asyncio
import logging
import multiprocessing
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import dask
import numpy as np
from distributed import Scheduler, Worker

from tilewright.assemble import AnyArray
from tilewright.executors.work import Work
from tilewright.ledger.receipts import UnitReceipt
from tilewright.model.tile_prediction import TilePrediction

WRITING_SHARE = 0.1
"""Of the time that a unit takes, what writing it takes where tiles are predicted by other tasks."""
STARTED_AT_A_TIME = 50
START_SECONDS = 180.0
_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.diagnostics.nvml": False,
}


class Tasks:
    """How many tasks have ended, and how long all have run until now, in all processes."""

    def __init__(self, context: SpawnContext) -> None:
        self._lock = context.Lock()
        self._ended = context.Value("q", 0, lock=False)
        self._running = context.Value("q", 0, lock=False)
        self._seconds = context.Value("d", 0.0, lock=False)

    def wait(self, seconds: float) -> None:
        """Be a task that takes so long."""
        self._change(begun=1, ended=0)
        sleep(seconds)
        self._change(begun=0, ended=1)

    def now(self) -> tuple[int, float]:
        """Return the number of tasks that have ended, and the seconds that all have run."""
        with self._lock:
            return self._ended.value, self._seconds.value + self._running.value * monotonic()

    def _change(self, begun: int, ended: int) -> None:
        with self._lock:
            self._ended.value += ended
            self._running.value += begun - ended
            self._seconds.value += (ended - begun) * monotonic()


_tasks: Tasks | None = None
"""In a process of workers: what their tasks report to."""


def _wait(seconds: float) -> None:
    if _tasks is None:
        raise RuntimeError("this process has no simulated workers")
    # Tasks that took equally long would all end in the same moment, again and again.
    _tasks.wait(seconds * random.uniform(0.5, 1.5))


@dataclass(frozen=True)
class WaitingWork(Work):
    """Take as long as predicting and writing would, read nothing, write nothing, and make up the receipt."""

    seconds: float = 0.0

    def predict(self, tiles: Sequence[int]) -> list[AnyArray]:
        _wait((1.0 - WRITING_SHARE) * self._seconds_of(sum(map(self.plan.tile_nbytes, tiles))))
        return [np.empty(0, self.plan.dtype) for _ in tiles]

    def write_tiles(self, unit: int, tiles: Mapping[int, AnyArray]) -> UnitReceipt:
        _wait(WRITING_SHARE * self._seconds_of(self.plan.unit_nbytes(unit)))
        return UnitReceipt(unit, object_count=1, stored_nbytes=0)

    def produce(self, unit: int, is_stopped: Any = None) -> UnitReceipt:
        _wait(self._seconds_of(self.plan.unit_nbytes(unit)))
        return UnitReceipt(unit, object_count=1, stored_nbytes=0)

    def _seconds_of(self, nbytes: int) -> float:
        return self.seconds * nbytes / self.plan.largest_unit_nbytes


def prediction_of_nothing(batch_size: int = 1) -> TilePrediction:
    """What puts tiles together to batches, and has neither source nor model."""
    nothing: Any = None
    return TilePrediction(nothing, nothing, batch_size)


@dataclass(frozen=True)
class SimulatedCluster:
    """A cluster that runs: where its scheduler is, its processes, and what its tasks have done."""

    address: str
    scheduler_process: int
    worker_processes: tuple[int, ...]
    tasks: Tasks


@contextmanager
def simulated_cluster(worker_count: int, process_count: int) -> Iterator[SimulatedCluster]:
    """Start a scheduler and so many workers, in so many processes, and end them."""
    context = multiprocessing.get_context("spawn")
    tasks = Tasks(context)
    here, there = context.Pipe()
    scheduler = context.Process(target=_run_scheduler, args=(there,), daemon=True)
    scheduler.start()
    processes = [scheduler]
    try:
        address = _answer(here)
        answers = []
        for number in range(process_count):
            mine, theirs = context.Pipe()
            count = worker_count * (number + 1) // process_count - worker_count * number // process_count
            processes.append(context.Process(target=_run_workers, args=(address, count, tasks, theirs), daemon=True))
            processes[-1].start()
            answers.append(mine)
        for answer in answers:
            _answer(answer)
        first, *others = (process.pid or 0 for process in processes)
        yield SimulatedCluster(address, first, tuple(others), tasks)
    finally:
        # Closing a thousand workers in order takes long, and shows nothing.
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _answer(connection: Connection) -> str:
    if not connection.poll(START_SECONDS):
        raise SystemExit(f"the simulated cluster did not start within {START_SECONDS:.0f} seconds")
    answer: str = connection.recv()
    return answer


def _run_scheduler(connection: Connection) -> None:
    logging.getLogger("distributed").setLevel(logging.ERROR)

    async def run() -> None:
        # As it is where nobody configures anything, but for the dashboard.
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0") as scheduler:
            connection.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(run())


def _run_workers(address: str, count: int, tasks: Tasks, connection: Connection) -> None:
    global _tasks  # noqa: PLW0603
    _tasks = tasks
    logging.getLogger("distributed").setLevel(logging.ERROR)

    async def run() -> None:
        with TemporaryDirectory() as folder:
            workers = [
                Worker(address, nthreads=1, memory_limit=0, dashboard=False, local_directory=folder, host="127.0.0.1")
                for _ in range(count)
            ]
            for first in range(0, count, STARTED_AT_A_TIME):
                await asyncio.gather(*workers[first : first + STARTED_AT_A_TIME])
            connection.send("started")
            await asyncio.gather(*(worker.finished() for worker in workers))

    with dask.config.set(_QUIET):
        asyncio.run(run())
