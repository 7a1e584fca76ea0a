"""daisy hands blocks with context to processes of its own: it costs their start, and every halo is computed again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import daisy.v2 as daisy
import numpy as np
import zarr
from daisy.logging import set_log_basedir

from benchmarks.workloads import Assignment, Write


def blockwise(assignment: Assignment) -> Write:
    volume_path = assignment.volume_path
    return _writer(assignment, lambda: np.load(volume_path, mmap_mode="r"))


def blockwise_from_zarr(assignment: Assignment) -> Write:
    source_path = assignment.source_path
    return _writer(assignment, lambda: zarr.open_array(source_path, mode="r"))


def _writer(assignment: Assignment, open_source: Callable[[], Any]) -> Write:
    workload = assignment.workload
    # Whole stored objects, even where they are larger than what a tile contributes: daisy does not keep two processes
    # from writing to one object, and cannot rechunk.
    blocks = [max(pair) for pair in zip(workload.aligned_valid, workload.objects, strict=True)]
    written = daisy.Roi((0, 0, 0), blocks)
    read = written.grow(workload.halo, workload.halo)
    total = daisy.Roi((0, 0, 0), workload.shape).grow(workload.halo, workload.halo)
    # What workers print goes where all else does, and not into files here.
    set_log_basedir(None)
    shape = workload.shape

    def write(folder: Path) -> None:
        array_path = folder / "prediction.zarr"
        zarr.create_array(array_path, **assignment.array_options)

        def work() -> None:
            """Run in a worker, which knows nothing of this process, until there are no more blocks."""
            volume = open_source()
            array = zarr.open_array(array_path, mode="r+")
            client = daisy.Client()
            while True:
                with client.acquire_block() as block:
                    if block is None:
                        return
                    inside = block.read_roi.intersect(daisy.Roi((0, 0, 0), shape))
                    tile = volume[inside.to_slices()]
                    target = block.write_roi.intersect(inside)
                    array[target.to_slices()] = tile[(target - inside.offset).to_slices()]

        task = daisy.Task(
            "write",
            total,
            read,
            written,
            process_function=work,
            read_write_conflict=False,
            fit="shrink",
            max_workers=assignment.threads,
        )
        if not daisy.run_blockwise(task, progress=False, summary=False, block_tracking=False, host="127.0.0.1"):
            raise RuntimeError("daisy has not written all blocks")

    return write
