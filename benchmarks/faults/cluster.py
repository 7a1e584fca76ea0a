"""A cluster of two worker processes that may be killed, stopped and paused, and come back by themselves."""

import asyncio
import logging
import signal
from contextlib import suppress
from pathlib import Path
from threading import Thread, Timer
from time import monotonic, sleep
from typing import Any

from distributed import Client, LocalCluster, Status

from benchmarks.faults.clients import send_signal
from benchmarks.faults.schedule import WORKERS
from benchmarks.faults.store import Watcher

REST_SECONDS = 30.0


async def pause(dask_worker: Any, seconds: float) -> None:
    dask_worker.status = Status.paused
    await asyncio.sleep(seconds)
    dask_worker.status = Status.running


def busy(dask_worker: Any) -> int:
    return len(dask_worker.state.all_running_tasks)


class Cluster:
    """Two worker processes that may be killed, and come back by themselves."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started = 0
        self._stopped: list[tuple[Timer, int]] = []
        self._start()

    def _start(self) -> None:
        self.started += 1
        self._cluster = LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            local_directory=str(self.root / "workers"),
        )
        self._client = Client(self._cluster, set_as_default=False)
        self._client.register_plugin(Watcher(str(self.root)))

    def close(self) -> None:
        for timer, process in self._stopped:
            timer.cancel()
            send_signal(process, signal.SIGCONT)
        self._stopped.clear()
        with suppress(TimeoutError, OSError):
            self._client.close(timeout=REST_SECONDS)
            self._cluster.close(timeout=REST_SECONDS)

    def restart(self) -> None:
        self.close()
        self._start()

    @property
    def address(self) -> str:
        return str(self._cluster.scheduler_address)

    @property
    def _nannies(self) -> list[Any]:
        return list(self._cluster.workers.values())

    @property
    def processes(self) -> list[int]:
        """The processes of the workers that are up: Dask starts one that dies before it is up no second time."""
        return [
            nanny.pid
            for nanny in self._nannies
            if nanny.process is not None
            and nanny.process.status == Status.running
            and nanny.worker_address in self._cluster.scheduler.workers
        ]

    @property
    def dead_count(self) -> int:
        """How many workers do not come back."""
        return sum(nanny.status in (Status.closed, Status.failed) for nanny in self._nannies)

    def be_ready(self, allowed_failures: int) -> None:
        """Wait until both workers are there, and nothing of the schedule before is; else begin anew."""
        try:
            self.rest()
        except TimeoutError:
            self.restart()
        self._cluster.scheduler.allowed_failures = allowed_failures

    def rest(self) -> None:
        """Wait until both workers are there and do nothing: tasks of a client that is dead are finished all the same.

        Raises
        ------
        TimeoutError
            If they go on for too long.
        """
        until = monotonic() + REST_SECONDS
        while monotonic() < until:
            with suppress(OSError):
                running = self._client.run(busy, on_error="ignore")
                if len(running) == WORKERS and not any(running.values()):
                    return
            if self.dead_count:
                break
            sleep(0.02)
        if len(self.processes) == WORKERS:
            raise TimeoutError(f"the workers are busy for longer than {REST_SECONDS:.0f} seconds")
        self.restart()

    @staticmethod
    def _chosen(workers: list[Any], count: int, which: int) -> list[Any]:
        return workers if count > 1 or not workers else [workers[which % len(workers)]]

    def kill(self, count: int, which: int) -> int:
        """Kill workers, and return how many."""
        chosen = self._chosen(self.processes, count, which)
        return sum(send_signal(process, signal.SIGKILL) for process in chosen)

    def stop(self, which: int, seconds: float) -> int:
        """Stop a worker for some time, as a machine that is busy with something else does."""
        chosen = self._chosen(self.processes, 1, which)
        for process in chosen:
            timer = Timer(seconds, send_signal, (process, signal.SIGCONT))
            timer.daemon = True
            self._stopped.append((timer, process))
            send_signal(process, signal.SIGSTOP)
            timer.start()
        return len(chosen)

    def pause(self, count: int, which: int, seconds: float) -> int:
        """Let workers begin no task for some time, as they do when they are short of memory."""
        chosen = self._chosen(list(self._cluster.scheduler.workers), count, which)

        def ask() -> None:
            with suppress(OSError):
                self._client.run(pause, seconds, workers=chosen, wait=False, on_error="ignore")

        # A worker that is stopped answers later.
        Thread(target=ask, daemon=True).start()
        return len(chosen)

    def show_stacks(self) -> str:
        for process in self.processes:
            send_signal(process, signal.SIGUSR1)
        sleep(1.0)
        files = [self.root / f"stack-of-worker-{process}" for process in self.processes]
        return "\n".join(f"--- {file.name}\n{file.read_text()}" for file in files if file.exists())
