"""dask.array maps over overlapping blocks on threads, and stores them: it costs a copy of each halo, and a rechunk."""

from pathlib import Path

import dask.array as da
import numpy as np
import zarr

from benchmarks.workloads import Assignment, Write


def identity(block: np.ndarray) -> np.ndarray:
    return block


def map_overlap(assignment: Assignment) -> Write:
    workload = assignment.workload
    source = da.from_array(assignment.volume, chunks=workload.aligned_valid, name=False)

    def write(folder: Path) -> None:
        array = zarr.create_array(folder / "prediction.zarr", **assignment.array_options)
        predicted = da.map_overlap(identity, source, depth=workload.halo, boundary="none", dtype="float32")
        # No two tasks write to one stored object, which would lose data.
        whole = predicted.rechunk(workload.objects)
        stored = da.to_zarr(whole, array, compute=False)
        stored.compute(scheduler="threads", num_workers=assignment.threads)

    return write
