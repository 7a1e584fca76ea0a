"""tilewright predicts from Zarr to Zarr on a cluster of worker processes."""

import atexit
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

import tilewright as tw
from benchmarks.workloads import Assignment, Write


def same(tiles: np.ndarray) -> np.ndarray:
    return tiles


def identity(assignment: Assignment) -> Write:
    opened = ExitStack()
    cluster = opened.enter_context(
        LocalCluster(n_workers=assignment.threads, threads_per_worker=1, dashboard_address=None)
    )
    client = opened.enter_context(Client(cluster))
    atexit.register(opened.close)
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
            progress=False,
        )

    return write
