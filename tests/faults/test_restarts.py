"""A cluster that is restarted under a run gets its work again: no unit is given up, and no attempt is counted."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from tests.faults.support import Running, dask_process, hand_over, wait_for

import tilewright as tw
from tilewright.errors import ClusterGoneError

IMAGE = np.arange(120 * 130, dtype="float32").reshape(120, 130)
TILES: dict[str, Any] = {"tile_size": (32, 32)}
OPTIONS: dict[str, Any] = {"chunks": (24, 24), "compressors": None}


class Gated:
    """A model that waits for a file from its third tile on, so that the restart comes before the end."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate
        self.count = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.count += 1
        if self.count > 2:
            wait_for(self.gate.exists)
        return -tiles


def predict(folder: Path, layout: str, **options: Any) -> np.ndarray:
    options |= TILES | OPTIONS | {"axes": "YX", "overlap": (8, 8), "layout": layout, "memory_nbytes": 2**16}
    report = tw.predict_to_zarr(Gated(folder / "gate"), IMAGE, folder / "out.zarr", progress=False, **options)
    return report.array[:]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as opened:
        yield opened


@pytest.mark.parametrize("layout", ["compact", "aligned"])
def test_workers_that_are_restarted_get_the_work_of_a_prediction_again(
    layout: str, cluster: LocalCluster, tmp_path: Path
) -> None:
    with Client(cluster, set_as_default=False) as client, Client(cluster, set_as_default=False) as other:

        def restart() -> None:
            wait_for(lambda: bool(list((tmp_path / "out.zarr").glob("0/zarr.json"))), "the array")
            wait_for(lambda: any(other.processing().values()), "tasks that run")
            client.restart(timeout=100)
            (tmp_path / "gate").touch()

        restarting = Running(restart)
        written = predict(tmp_path, layout, client=client)
        restarting.end()
    np.testing.assert_array_equal(written, -IMAGE)
    assert tw.verify(tmp_path / "out.zarr", progress=False).is_complete


def test_tiles_of_a_trainer_are_sent_again_to_workers_that_are_restarted(cluster: LocalCluster, tmp_path: Path) -> None:
    with Client(cluster, set_as_default=False) as client:
        dataset = tw.IterableTiledPredDataset(IMAGE, axes="YX", overlaps=(8, 8), **TILES)
        writer = tw.WriteTilesZarr(client=client, **OPTIONS)

        def restart(number: int) -> None:
            if number == 5:
                client.restart(timeout=100)

        (report,) = hand_over(writer, dataset, tmp_path, np.negative, before_batch=restart)
        written = report.array[:]
    np.testing.assert_array_equal(written, -IMAGE)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_scheduler_that_comes_back_with_new_workers_goes_on_or_is_said_to_be_gone(tmp_path: Path) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    worker = ("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    with (
        dask_process(*scheduler) as first,
        dask_process(*worker) as old,
        Client(address, set_as_default=False) as client,
    ):

        def come_back() -> None:
            wait_for(lambda: bool(list((tmp_path / "out.zarr").glob("0/zarr.json"))), "the array")
            for process in (first, old):
                process.kill()
                process.wait()
            (tmp_path / "gate").touch()
            with dask_process(*scheduler), dask_process(*worker):
                wait_for((tmp_path / "ended").exists, "the end of the run")

        coming_back = Running(come_back)
        # A client that does not find it again within some seconds says so.
        with suppress(ClusterGoneError):
            np.testing.assert_array_equal(predict(tmp_path, "aligned", client=client), -IMAGE)
        (tmp_path / "ended").touch()
        coming_back.end()
    np.testing.assert_array_equal(predict(tmp_path, "aligned", if_exists="resume"), -IMAGE)
