"""tilewright predicts from Zarr to Zarr on a cluster of worker processes."""

from pathlib import Path

import numpy as np

import tilewright as tw
from benchmarks.processes import client_of_processes
from benchmarks.workloads import Assignment, Write


def same(tiles: np.ndarray) -> np.ndarray:
    return tiles


def identity(assignment: Assignment) -> Write:
    client = client_of_processes(assignment.threads)
    workload = assignment.workload

    def write(folder: Path) -> None:
        tw.predict_to_zarr(
            same,
            assignment.source_path,
            folder / "prediction.zarr",
            axes="ZYX",
            tile_size=workload.tile_size,
            overlap=workload.overlap,
            chunks=workload.chunks,
            shards=workload.shards,
            compressors=assignment.codec.zarr,
            client=client,
            levels=1,
            progress=False,
        )

    return write
