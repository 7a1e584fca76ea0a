"""A cluster of worker processes that lives as long as the contestant."""

import atexit
from contextlib import ExitStack

from distributed import Client, LocalCluster


def client_of_processes(count: int) -> Client:
    """Start so many worker processes of one thread each, and return a client of theirs."""
    opened = ExitStack()
    cluster = opened.enter_context(LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None))
    client = opened.enter_context(Client(cluster))
    atexit.register(opened.close)
    return client
