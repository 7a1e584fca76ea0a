"""Arrays go from this process straight to workers, each under a key of its own, and from there to other workers."""

from collections.abc import Sequence
from time import sleep
from typing import Any

from distributed import Client, Future, Worker, get_worker
from distributed.utils import sync
from distributed.utils_comm import gather_from_workers

from tilewright.assemble import AnyArray
from tilewright.errors import TilesGoneError
from tilewright.execution.watch import Watch

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0


def scatter(client: Client, watch: Watch, arrays: Sequence[AnyArray]) -> list[Future[Any]]:
    """Send arrays to workers, and again where the worker that was chosen has just died.

    What was sent dies with its worker, so that the caller must keep it.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        watch.wait_until_connected()
        try:
            # Without hash=False two equal tiles, blank ones say, would be one.
            futures: list[Future[Any]] = client.scatter(list(arrays), direct=True, hash=False)
        except OSError:
            # The scheduler may not know yet that the worker is dead.
            watch.look()
            if pause > LONGEST_PAUSE_SECONDS:
                raise
            sleep(pause)
            pause *= 2
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
