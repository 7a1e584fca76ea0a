"""How many workers one client and one scheduler keep busy, and what it costs them: scale without the machines.

    python -m benchmarks.thousand_workers [--workers 100 300 1000] [--seconds 1 5 20] [--layouts aligned]

Scheduler, workers and the loop of the client are real; tasks only wait (see `benchmarks.simulated_cluster`), each for
half to one and a half times the seconds that a whole unit takes on average. The volume has 10 TB; a run is stopped when
enough was seen of it. A row of 0 seconds is a cluster that has nothing to do. All processes share
the processors of one machine, so what counts is the processor time per task, over what an idle cluster takes: from it
follows the rate of tasks at which the client, or the scheduler, would need a whole core.

In the compact layout tiles travel between workers. These are real connections, which the few event loops of hundreds
of simulated workers do not carry: that ends with some hundred workers, while client and scheduler are not busy yet.
"""

import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from time import monotonic, sleep
from typing import Any, cast

import psutil
from distributed import Client

from benchmarks.measure import save, table
from benchmarks.simulated_cluster import SimulatedCluster, WaitingWork, prediction_of_nothing, simulated_cluster
from benchmarks.task_counts import NoRecords
from tilewright.coordinator import Coordinator
from tilewright.errors import RunStoppedError
from tilewright.executors.executor import TASKS_PER_THREAD
from tilewright.executors.remote import RemoteExecutor
from tilewright.plan import plan_write
from tilewright.runs.run import Run
from tilewright.stopping import StopRequest
from tilewright.transport.shared_prediction import SharedPrediction

SHAPE = (10_000, 16_000, 16_000)
TILE_SIZE, OVERLAP = (64, 256, 256), (16, 64, 64)
SHORTEST_SECONDS = 15.0
"""For how long a run is looked at, at least."""
IDLE_SECONDS = 10.0
MEMORY_NBYTES = 10**15
"""Of all workers together: more than is asked for."""
START_SECONDS = 60.0
"""How long the first task may take to end."""


@dataclass(frozen=True)
class Case:
    """One run: so many workers, and so long tasks; 0 seconds are no tasks."""

    workers: int
    layout: str
    seconds: float


@dataclass(frozen=True)
class Moment:
    """What was used until now."""

    at: float
    ended_tasks: int
    task_seconds: float
    client_seconds: float
    scheduler_seconds: float
    workers_seconds: float


@dataclass(frozen=True)
class Figures:
    """What a run has used in each second."""

    case: Case
    tasks_per_second: float
    busy_workers: float
    client_cores: float
    scheduler_cores: float
    worker_cores: float
    client_nbytes: int
    scheduler_nbytes: int

    def cost(self, cores: float, idle_cores: float) -> tuple[str, str]:
        """Return the milliseconds of each task, and the rate of tasks that one core carries."""
        seconds = (cores - idle_cores) / self.tasks_per_second if self.tasks_per_second else 0.0
        if seconds <= 0:
            return "", ""
        return f"{1e3 * seconds:.2f}", f"{(1.0 - idle_cores) / seconds:.0f}"


class Observer:
    """Look at all processes at the beginning and at the end of a while."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._tasks = cluster.tasks
        self._client = psutil.Process()
        self._scheduler = psutil.Process(cluster.scheduler_process)
        self._workers = [psutil.Process(process) for process in cluster.worker_processes]

    def observe(self, case: Case, seconds: float) -> Figures:
        first = self._moment()
        sleep(seconds)
        last = self._moment()
        passed = last.at - first.at
        return Figures(
            case=case,
            tasks_per_second=(last.ended_tasks - first.ended_tasks) / passed,
            busy_workers=(last.task_seconds - first.task_seconds) / passed,
            client_cores=(last.client_seconds - first.client_seconds) / passed,
            scheduler_cores=(last.scheduler_seconds - first.scheduler_seconds) / passed,
            worker_cores=(last.workers_seconds - first.workers_seconds) / passed,
            client_nbytes=self._client.memory_info().rss,
            scheduler_nbytes=self._scheduler.memory_info().rss,
        )

    def _moment(self) -> Moment:
        ended, seconds = self._tasks.now()
        workers_seconds = sum(map(_processor_seconds, self._workers))
        client, scheduler = _processor_seconds(self._client), _processor_seconds(self._scheduler)
        return Moment(monotonic(), ended, seconds, client, scheduler, workers_seconds)


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def run(case: Case, cluster: SimulatedCluster) -> Figures:
    """Begin a run, wait until it is in full swing, look at it for a while, and end it."""
    observer = Observer(cluster)
    stop = StopRequest(grace_seconds=0.0)
    seen: list[Figures] = []

    before, _ = cluster.tasks.now()

    def look() -> None:
        until = monotonic() + START_SECONDS
        while cluster.tasks.now()[0] == before and monotonic() < until:
            sleep(0.1)
        # A task takes up to 1.5 times as long; until all workers have one, some milliseconds pass for each.
        sleep(1.5 * case.seconds + 0.003 * TASKS_PER_THREAD * case.workers)
        seen.append(observer.observe(case, max(SHORTEST_SECONDS, 1.25 * case.seconds)))
        stop.signals.name = "the benchmark"

    plan = plan_write(SHAPE, "ZYX", TILE_SIZE, OVERLAP, layout=case.layout)
    with Client(cluster.address, set_as_default=False) as client:
        if case.seconds == 0:
            return observer.observe(case, IDLE_SECONDS)
        prediction = prediction_of_nothing()
        work = WaitingWork(plan, cast(Any, None), prediction, seconds=case.seconds)
        shared = SharedPrediction(client, prediction)
        executor = RemoteExecutor(client, work, shared)
        watcher = threading.Thread(target=look)
        watcher.start()
        with suppress(RunStoppedError):
            Run(Coordinator(plan), executor, NoRecords()).predict_and_write(stop, lambda: MEMORY_NBYTES)
        watcher.join()
        executor.close()
        shared.close()
        # What runs cannot be cancelled; the next run must not wait for it.
        wait_until_idle(cluster, 2.0 * case.seconds)
    return seen[0]


def wait_until_idle(cluster: SimulatedCluster, seconds: float) -> None:
    """Wait until no task runs any more, so long at most."""
    until = monotonic() + seconds
    before = cluster.tasks.now()
    while monotonic() < until:
        sleep(0.5)
        before, after = cluster.tasks.now(), before
        if before == after:
            return


def cases_of(workers: int, layouts: list[str], seconds: list[float]) -> Iterator[Case]:
    yield Case(workers, layouts[0], 0)
    yield from (Case(workers, layout, each) for layout, each in product(layouts, seconds))


def show(figures: list[Figures]) -> str:
    head = ["workers", "layout", "seconds", "tasks/s", "workers busy", "client cores", "scheduler cores"]
    head += ["workers' cores", "client ms/task", "tasks/s of one core", "scheduler ms/task", "tasks/s of one core"]
    head += ["client MiB", "scheduler MiB"]
    idle = {f.case.workers: f for f in figures if f.case.seconds == 0}
    rows = []
    for f in figures:
        alone = idle[f.case.workers]
        rows.append(
            [
                str(f.case.workers),
                f.case.layout if f is not alone else "idle",
                f"{f.case.seconds:g}",
                f"{f.tasks_per_second:.1f}",
                f"{f.busy_workers / f.case.workers:.1%}",
                *(f"{cores:.2f}" for cores in (f.client_cores, f.scheduler_cores, f.worker_cores)),
                *f.cost(f.client_cores, alone.client_cores),
                *f.cost(f.scheduler_cores, alone.scheduler_cores),
                *(f"{nbytes / 2**20:.0f}" for nbytes in (f.client_nbytes, f.scheduler_nbytes)),
            ]
        )
    return table(head, rows)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 5.0, 20.0])
    parser.add_argument("--layouts", nargs="+", default=["aligned"])
    parser.add_argument("--processes", type=int, default=2, help="of workers")
    arguments = parser.parse_args()
    figures: list[Figures] = []
    for workers in arguments.workers:
        with simulated_cluster(workers, arguments.processes) as cluster:
            for case in cases_of(workers, arguments.layouts, arguments.seconds):
                figures.append(run(case, cluster))
                print(f"{figures[-1]}", flush=True)
    print(show(figures))
    print(save("thousand_workers", [asdict(each) for each in figures]))


if __name__ == "__main__":
    main()
