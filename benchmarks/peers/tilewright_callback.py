"""tilewright's callback of a trainer gets one tile after the other: it costs an embedded cluster, and a ledger."""

import atexit
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from distributed import Client

import tilewright as tw
from benchmarks.processes import client_of_processes
from benchmarks.workloads import Assignment, Codec, Workload, Write
from tilewright.transport.clients import open_embedded_cluster


def callback(assignment: Assignment) -> Write:
    opened = ExitStack()
    client = opened.enter_context(open_embedded_cluster(assignment.threads))
    atexit.register(opened.close)
    return tilewright_writer(assignment.workload, assignment.codec, assignment.volume, client)


def callback_of_processes(assignment: Assignment) -> Write:
    """The same on a cluster of worker processes, to which the tiles are sent."""
    client = client_of_processes(assignment.threads)
    return tilewright_writer(assignment.workload, assignment.codec, assignment.volume, client)


def tilewright_writer(
    workload: Workload, codec: Codec, volume: np.ndarray, client: Client, levels: int | str = 1
) -> Write:
    """The callback of a trainer, which is handed one tile after the other; peers write full resolution alone."""
    dataset = tw.IterableTiledPredDataset(volume, "ZYX", workload.tile_size, workload.overlap)
    image = dataset.images[0]
    # Each in memory of its own, with its halo, as a model would return it.
    tilings = image.tilings(channels=1)
    positions = product(*(range(tiling.count) for tiling in tilings))
    windows = [[slice(*t.read(i)) for t, i in zip(tilings, position, strict=True)] for position in positions]
    tiles = [
        (volume[tuple(window)].copy()[np.newaxis, np.newaxis], image.read_tile(number)[1])
        for number, window in enumerate(windows)
    ]
    trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset))

    def write(folder: Path) -> None:
        storage = {"chunks": workload.chunks, "shards": workload.shards, "compressors": codec.zarr}
        writer = tw.WriteTilesZarr(client=client, levels=levels, **storage)
        for number, (tile, information) in enumerate(tiles):
            writer.write_batch(trainer, None, (tile, [information]), None, None, number, 0, folder)
        writer.finalize()

    return write
