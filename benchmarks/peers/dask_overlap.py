"""dask.array maps over overlapping blocks, and stores them: it costs a copy of each halo, and a rechunk."""

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr

from benchmarks.processes import client_of_processes
from benchmarks.workloads import Assignment, Write


def identity(block: np.ndarray) -> np.ndarray:
    return block


def map_overlap(assignment: Assignment) -> Write:
    """On threads, of an array in memory."""
    source = da.from_array(assignment.volume, chunks=assignment.workload.aligned_valid, name=False)
    return _writer(assignment, source, scheduler="threads", num_workers=assignment.threads)


def map_overlap_on_processes(assignment: Assignment) -> Write:
    """On a cluster of worker processes, of a Zarr array."""
    client = client_of_processes(assignment.threads)
    source = da.from_array(zarr.open_array(assignment.source_path, mode="r"), chunks=assignment.workload.aligned_valid)
    return _writer(assignment, source, scheduler=client)


def _writer(assignment: Assignment, source: da.Array, **computed: Any) -> Write:
    workload = assignment.workload

    def write(folder: Path) -> None:
        array = zarr.create_array(folder / "prediction.zarr", **assignment.array_options)
        predicted = da.map_overlap(identity, source, depth=workload.halo, boundary="none", dtype="float32")
        # No two tasks write to one stored object, which would lose data.
        whole = predicted.rechunk(workload.objects)
        stored = da.to_zarr(whole, array, compute=False)
        stored.compute(**computed)

    return write
