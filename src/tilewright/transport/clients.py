"""The client of a run: the one that is given, the current one, or that of a cluster which the run opens and closes."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dask
import psutil
from distributed import Client, LocalCluster, default_client

# Housekeeping of Dask holds the interpreter while threads encode, so it is rare. Workers in this process keep no data,
# so there is no memory of theirs to watch.
_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.diagnostics.nvml": False,
}


_starting = threading.RLock()
"""Held by a thread that starts a cluster, or that changes what all clusters of this process have in common."""


_quiet_clusters: list[ExitStack] = []
"""One for each cluster that is open in this process; the first one has changed Dask's settings."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Change Dask's settings while one of the clusters of this process is open, whichever closes last."""
    with _starting:
        settings = _quiet_clusters[0] if _quiet_clusters else ExitStack()
        if not _quiet_clusters:
            settings.enter_context(dask.config.set(_QUIET))
        _quiet_clusters.append(settings)
    try:
        yield
    finally:
        with _starting:
            _quiet_clusters.pop()
            if not _quiet_clusters:
                settings.close()


def given_or_current(client: Client | None) -> Client | None:
    """Return the client that is given, else the current one of this process, as Dask has it; None where none is."""
    if client is None:
        with suppress(ValueError):
            client = default_client()
    check_client(client)
    return client


@contextmanager
def cluster_client(client: Client | None) -> Iterator[Client]:
    """Give the client that is given or current; else open a cluster in this process and close it again."""
    client = given_or_current(client)
    if client is not None:
        yield client
        return
    with open_embedded_cluster() as embedded:
        yield embedded


def check_client(client: object) -> None:
    """Raise TypeError for what is given as a client and is none that waits for what it asks for."""
    if client is None:
        return
    if not isinstance(client, Client):
        raise TypeError(f"client must be a distributed.Client, got {client!r}; pass distributed.Client(...) of it")
    if client.asynchronous:
        raise TypeError(
            f"client {client!r} is asynchronous, or is used inside an event loop; pass distributed.Client(address) of "
            "its scheduler, in a thread of its own: await asyncio.to_thread(...)"
        )


@contextmanager
def open_embedded_cluster(threads: int | None = None) -> Iterator[Client]:
    """Open a cluster inside this process, with as many threads as there are processors."""
    with ExitStack() as opened:
        opened.enter_context(_quiet())
        # Parts of Dask are imported when a cluster starts, and threads that start one at once see half of them.
        with _starting, warnings.catch_warnings():
            # Without a network there is nothing wrong with a cluster inside one process.
            warnings.filterwarnings("ignore", message="Couldn't detect a suitable IP address")
            cluster = opened.enter_context(
                LocalCluster(
                    n_workers=1,
                    threads_per_worker=threads,
                    processes=False,
                    memory_limit=0,
                    # Any free port, and not open to others.
                    dashboard_address="127.0.0.1:0",
                    worker_dashboard_address="127.0.0.1:0",
                )
            )
            client = opened.enter_context(Client(cluster, set_as_default=False))
        try:
            yield client
        finally:
            cluster.sync(_close_busy_workers, cluster)


async def _close_busy_workers(cluster: Any) -> None:
    """Close workers of which a task does not return; the cluster itself would wait for it."""
    for worker in cluster.workers.values():
        if worker.state.executing:
            await worker.close(executor_wait=False)


def shares_memory(client: Client) -> bool:
    """Tell whether the workers of a client are threads of this process."""
    scheduler: Any = client.scheduler
    return str(scheduler.address).startswith("inproc://")


def memory_for_tiles(client: Client) -> int | None:
    """Return the bytes that tiles may take: half of the free memory, or of the limits of the workers if any."""
    if shares_memory(client):
        return int(psutil.virtual_memory().available) // 2
    limits = [worker["memory_limit"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
    return sum(limits) // 2 if limits and all(limits) else None
