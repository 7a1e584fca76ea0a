"""An image that is much larger than the memory of the workers is stitched and written all the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
import tifffile
from distributed import Client, LocalCluster

import tilewright as tw
from tilewright.ledger.receipts import peak_memory_nbytes

MIB = 2**20
LIMIT_NBYTES = 512 * MIB
SIDE = 1024
# Small workers should begin early to move tiles to the disk: their other needs are a large share of what they have.
MEMORY = {
    f"distributed.worker.memory.{name}": share
    for name, share in {"target": 0.4, "spill": 0.5, "pause": 0.8, "terminate": 0.95}.items()
}
DEPTH = 4 * LIMIT_NBYTES // (SIDE * SIDE * 4)


class Ramp:
    """An image of which each element tells where it is, and that takes no memory."""

    shape = (DEPTH, SIDE, SIDE)
    dtype = np.dtype("float32")

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        z, y, x = (np.arange(part.start, part.stop, dtype="float32") for part in slices)
        return 7 * z[:, None, None] + 3 * y[None, :, None] + x


@contextmanager
def small_workers(folder: Path) -> Iterator[Client]:
    with (
        dask.config.set(MEMORY),
        LocalCluster(
            processes=True,
            n_workers=2,
            threads_per_worker=1,
            memory_limit=LIMIT_NBYTES,
            local_directory=str(folder),
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.timeout(600)
def test_an_image_four_times_the_memory_of_the_worker_that_writes_it(tmp_path: Path) -> None:
    dataset = tw.IterableTiledPredDataset(Ramp(), "ZYX", tile_size=(32, 256, 256), overlaps=(8, 32, 32))
    trainer: Any = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset))
    with small_workers(tmp_path) as client:
        processes = client.run(os_process)
        strategy = tw.CacheTiles(tw.write_tiff, ".tiff", client=client)
        for number, (tile, information) in enumerate(dataset):
            strategy.write_batch(trainer, None, (tile[None], [information]), None, None, number, 0, tmp_path)
        strategy.finalize()
        peaks = client.run(peak_memory_nbytes)
        # No worker died of it, and was started again.
        assert client.run(os_process) == processes
    assert max(peaks.values()) < LIMIT_NBYTES
    written = tifffile.memmap(tmp_path / "prediction_0.tiff", mode="r").reshape(Ramp.shape)
    for plane in range(0, DEPTH, 8):
        window = (slice(plane, plane + 8), slice(0, SIDE), slice(0, SIDE))
        np.testing.assert_array_equal(written[plane : plane + 8], Ramp()[window])


def os_process() -> int:
    import os

    return os.getpid()
