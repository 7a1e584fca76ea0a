"""Arrays go from this process straight to workers, each under a key of its own, and from there to other workers."""

from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any

from distributed import Client, Future, Worker, get_worker
from distributed.utils import sync
from distributed.utils_comm import gather_from_workers

from tilewright.assemble import AnyArray
from tilewright.errors import ClusterGoneError, TilesGoneError
from tilewright.transport.watch import Watch

PATIENCE_SECONDS = 120.0
"""How long a cluster may be without a worker that takes anything before the run ends."""
ASK_SECONDS = 10.0
"""How long one waits for a worker before looking again whether there still is a scheduler."""
CHOSEN_SECONDS = 1.0
"""How long one waits for one worker before another one will do as well."""
PAUSE_SECONDS = 0.5
"""How long to wait after a worker that was chosen has died: the scheduler may not know it yet."""


def running_workers(client: Client, watch: Watch) -> list[str]:
    """Return the addresses of the running workers, sorted; none where the scheduler does not answer."""
    watch.wait_until_connected()
    scheduler: Any = client.scheduler
    try:
        return sorted(client.sync(scheduler.ncores_running, workers=None))
    except OSError as error:
        # The scheduler may come back. The client keeps the error for a while, and must not keep its frames.
        error.__traceback__ = None
        return []


def scatter(client: Client, watch: Watch, arrays: Sequence[AnyArray], worker: str | None = None) -> list[Future[Any]]:
    """Send arrays to workers, and again where the worker that was chosen has just died.

    What was sent dies with its worker, so that the caller must keep it.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    watch : Watch
        Tells whether the cluster is still there.
    arrays : sequence of array
        What to send.
    worker : str, optional
        The address of the worker that should get all of them; where it takes nothing, or none is given, each goes to
        the next worker in turn.

    Raises
    ------
    ClusterGoneError
        If the scheduler is gone, or no worker takes anything for too long.
    """
    start = monotonic()
    while True:
        watch.wait_until_connected()
        try:
            # Without hash=False two equal tiles, blank ones say, would be one.
            timeout = ASK_SECONDS if worker is None else CHOSEN_SECONDS
            futures: list[Future[Any]] = client.scatter(
                list(arrays), workers=worker, direct=True, hash=False, timeout=timeout
            )
        except (OSError, KeyError) as error:
            # A scheduler raises KeyError where the worker that got the arrays is gone meanwhile.
            # The client keeps the error for a while, and so would keep what the frames hold: all tiles of this call.
            error.__traceback__ = None
            worker = None
            watch.look()
            if monotonic() - start > PATIENCE_SECONDS:
                raise ClusterGoneError(
                    f"no worker of the cluster has taken a tile for {PATIENCE_SECONDS:.0f} seconds: {error!r}; what "
                    "was written is complete, the rest is missing"
                ) from error
            sleep(PAUSE_SECONDS)
        else:
            return futures


def fetch_on_worker(keys: Sequence[str]) -> list[AnyArray]:
    """Return arrays that were scattered, in a task on any worker, which does not keep them.

    Raises
    ------
    TilesGoneError
        If some died with their worker.
    """
    worker = get_worker()
    found = sync(worker.loop, _gather, worker, keys)
    return [found[key] for key in keys]


async def _gather(worker: Worker, keys: Sequence[str]) -> dict[Any, Any]:
    scheduler: Any = worker.scheduler
    who_has = await scheduler.who_has(keys=list(keys))
    found, missing, failed, _ = await gather_from_workers(who_has, rpc=worker.rpc)
    if missing or failed:
        raise TilesGoneError(f"{len(missing) + len(failed)} of {len(keys)} tiles are on no worker any more")
    return found
