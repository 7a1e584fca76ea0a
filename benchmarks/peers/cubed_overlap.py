"""cubed maps over overlapping blocks on threads within a bound of memory: it costs a store on disk between steps."""

from pathlib import Path

import cubed
import numpy as np
import zarr
from cubed.runtime.executors.local_work import ThreadsExecutor
from zarr.storage import MemoryStore

from benchmarks.workloads import Assignment, Write


def map_overlap(assignment: Assignment) -> Write:
    workload = assignment.workload
    # It reads from Zarr only: another array would be written to the disk as a whole, at first.
    source = zarr.create_array(
        MemoryStore(), shape=workload.shape, dtype="float32", chunks=workload.aligned_valid, compressors=None
    )
    source[:] = assignment.volume
    executor = ThreadsExecutor(max_workers=assignment.threads)
    inside = tuple(slice(halo, -halo) for halo in workload.halo)

    def crop(block: np.ndarray) -> np.ndarray:
        return block[inside]

    def write(folder: Path) -> None:
        array = zarr.create_array(folder / "prediction.zarr", **assignment.array_options)
        specification = cubed.Spec(work_dir=str(folder / "between"), allowed_mem="2GB", executor=executor)
        blocks = cubed.from_array(source, spec=specification)
        predicted = cubed.map_overlap(
            crop, blocks, dtype=blocks.dtype, chunks=blocks.chunks, depth=workload.halo, boundary=0, trim=False
        )
        cubed.to_zarr(predicted.rechunk(workload.objects), array, executor=executor)

    return write
