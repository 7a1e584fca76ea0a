"""A client of Dask sends tiles to workers, and that is all: nobody who sends tiles by Dask is faster."""

from collections import deque
from pathlib import Path

import numpy as np

from benchmarks.processes import client_of_processes
from benchmarks.workloads import Assignment, Write

KEPT = 8
"""So many tiles stay on the workers at a time, so that memory does not grow."""


def scatter(assignment: Assignment) -> Write:
    client = client_of_processes(assignment.threads)
    workload = assignment.workload
    # Without halos, as tilewright sends them: together they are the volume.
    steps = [range(0, extent, valid) for extent, valid in zip(workload.shape, workload.valid, strict=True)]
    tiles = [
        np.ascontiguousarray(
            assignment.volume[z : z + workload.valid[0], y : y + workload.valid[1], x : x + workload.valid[2]]
        )
        for z in steps[0]
        for y in steps[1]
        for x in steps[2]
    ]

    def write(folder: Path) -> None:
        sent = deque(maxlen=KEPT)
        for tile in tiles:
            sent.append(client.scatter(tile, direct=True, hash=False))

    return write
