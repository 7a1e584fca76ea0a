"""zarr-python writes slabs of whole objects on threads: it costs the whole array, and a turn of its loop per chunk."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zarr

from benchmarks.workloads import Assignment, Write


def slabs(assignment: Assignment, *, write_empty_chunks: bool = False) -> Write:
    workload, volume = assignment.workload, assignment.volume
    depth = workload.objects[0]

    def write(folder: Path) -> None:
        array = zarr.create_array(
            folder / "prediction.zarr",
            **assignment.array_options,
            config={"write_empty_chunks": write_empty_chunks},
        )

        def write_slab(start: int) -> None:
            array[start : start + depth] = volume[start : start + depth]

        with ThreadPoolExecutor(assignment.threads) as pool:
            list(pool.map(write_slab, range(0, workload.shape[0], depth)))

    return write


def slabs_with_empty_chunks(assignment: Assignment) -> Write:
    """The same, without looking whether a chunk is empty."""
    return slabs(assignment, write_empty_chunks=True)
