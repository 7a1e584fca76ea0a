"""A cluster of worker processes that lives as long as the contestant."""

import atexit
import os
from contextlib import ExitStack

from distributed import Client, LocalCluster

KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "134217728"}
"""What the README advises for workers: arrays of up to 32 MiB come in memory that the process already has.

By default Dask lets its workers give all memory back at once, and the kernel clears each page of it anew. To measure
that, set ``MALLOC_MMAP_THRESHOLD_=131072`` and ``MALLOC_TRIM_THRESHOLD_=65536`` for the benchmark.
"""


def client_of_processes(count: int) -> Client:
    """Start so many worker processes of one thread each, and return a client of theirs."""
    opened = ExitStack()
    # A contestant is a process of its own, and what workers find in their environment goes before what Dask sets.
    for name, value in KEEP_FREED_MEMORY.items():
        os.environ.setdefault(name, value)
    cluster = opened.enter_context(LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None))
    client = opened.enter_context(Client(cluster))
    atexit.register(opened.close)
    return client
