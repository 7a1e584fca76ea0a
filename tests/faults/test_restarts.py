"""A cluster that is restarted under a run gets its work again: no unit is given up, and no attempt is counted."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

import tilewright as tw
from tilewright.errors import ClusterGoneError

IMAGE = np.arange(120 * 130, dtype="float32").reshape(120, 130)
TILES: dict[str, Any] = {"tile_size": (32, 32)}
OPTIONS: dict[str, Any] = {"chunks": (24, 24), "compressors": None}
SECONDS = 60.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = monotonic() + SECONDS
    while not condition():
        assert monotonic() < until, f"waited in vain for {what}"
        threading.Event().wait(0.01)


class Gated:
    """A model that waits for a file from its third tile on, so that the restart comes before the end."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate
        self.count = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.count += 1
        if self.count > 2:
            until = monotonic() + SECONDS
            while not self.gate.exists() and monotonic() < until:
                threading.Event().wait(0.01)
        return -tiles


def predict(folder: Path, client: Client, layout: str) -> np.ndarray:
    report = tw.predict_to_zarr(
        Gated(folder / "gate"),
        IMAGE,
        folder / "out.zarr",
        axes="YX",
        overlap=(8, 8),
        layout=layout,
        memory_nbytes=2**16,
        client=client,
        progress=False,
        **TILES,
        **OPTIONS,
    )
    return report.array[:]


def hand_over(folder: Path, client: Client, restart: Callable[[], None]) -> np.ndarray:
    """Write as a trainer does, with a restart after the fifth tile."""
    dataset = tw.IterableTiledPredDataset(IMAGE, axes="YX", overlaps=(8, 8), **TILES)
    trainer = SimpleNamespace(
        predict_dataloaders=SimpleNamespace(dataset=dataset, batch_size=1), world_size=1, lightning_module=None
    )
    writer = tw.WriteTilesZarr(client=client, **OPTIONS)
    for number, (tile, information) in enumerate(dataset):
        if number == 5:
            restart()
        writer.write_batch(trainer, None, -np.asarray(tile)[np.newaxis], None, ([], [information]), number, 0, folder)
    (report,) = writer.finalize()
    return report.array[:]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as opened:
        yield opened


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Do something in another thread."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield errors
    finally:
        thread.join(SECONDS)


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

        with meanwhile(restart) as errors:
            written = predict(tmp_path, client, layout)
    assert errors == []
    np.testing.assert_array_equal(written, -IMAGE)
    assert tw.verify(tmp_path / "out.zarr", progress=False).is_complete


def test_tiles_of_a_trainer_are_sent_again_to_workers_that_are_restarted(cluster: LocalCluster, tmp_path: Path) -> None:
    with Client(cluster, set_as_default=False) as client:
        written = hand_over(tmp_path, client, lambda: client.restart(timeout=100))
    np.testing.assert_array_equal(written, -IMAGE)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def process_of(*command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of Dask's command line."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]], **quiet
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def test_a_scheduler_that_comes_back_with_new_workers_goes_on_or_is_said_to_be_gone(tmp_path: Path) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    worker = ("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    with process_of(*scheduler) as first, process_of(*worker) as old, Client(address, set_as_default=False) as client:

        def come_back() -> None:
            wait_for(lambda: bool(list((tmp_path / "out.zarr").glob("0/zarr.json"))), "the array")
            for process in (first, old):
                process.kill()
                process.wait()
            (tmp_path / "gate").touch()
            with process_of(*scheduler), process_of(*worker):
                wait_for((tmp_path / "ended").exists, "the end of the run")

        with meanwhile(come_back) as errors:
            # A client that does not find it again within some seconds says so.
            with suppress(ClusterGoneError):
                np.testing.assert_array_equal(predict(tmp_path, client, "aligned"), -IMAGE)
            (tmp_path / "ended").touch()
        assert errors == []
    report = tw.predict_to_zarr(
        Gated(tmp_path / "gate"),
        IMAGE,
        tmp_path / "out.zarr",
        axes="YX",
        overlap=(8, 8),
        layout="aligned",
        memory_nbytes=2**16,
        if_exists="resume",
        progress=False,
        **TILES,
        **OPTIONS,
    )
    np.testing.assert_array_equal(report.array[:], -IMAGE)
