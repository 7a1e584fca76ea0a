"""What dies takes nothing with it: real processes are killed, and what is stored is right or the error is clear."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import tilewright as tw
from tilewright.errors import ClusterGoneError

IMAGE = np.random.default_rng(0).random((200, 220), dtype=np.float32)
REQUEST: dict[str, Any] = {"axes": "YX", "tile_size": (32, 32), "overlap": (8, 8), "progress": False}
LOCAL = "127.0.0.1:0"


@pytest.fixture
def own_cluster() -> Iterator[tuple[LocalCluster, Client]]:
    """Two worker processes that a test may kill."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=LOCAL, silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


@pytest.fixture
def source(tmp_path: Path) -> Path:
    array = zarr.create_array(tmp_path / "raw.zarr", shape=IMAGE.shape, dtype="float32", chunks=(32, 32))
    array[...] = IMAGE
    return tmp_path / "raw.zarr"


class KillsItsWorkerOnce:
    """Negate tiles; the first process to see a tile after the first one kills itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if (self.folder / "probed").exists():
            try:
                (self.folder / "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / "probed").touch()
        return -tiles


@pytest.mark.parametrize("layout", ["compact", "aligned"])
def test_a_worker_that_dies_while_it_predicts_loses_nothing(
    layout: str, own_cluster: tuple[LocalCluster, Client], source: Path, tmp_path: Path
) -> None:
    model = KillsItsWorkerOnce(tmp_path)
    report = tw.predict_to_zarr(model, source, tmp_path / "o.zarr", client=own_cluster[1], layout=layout, **REQUEST)
    assert (tmp_path / "killed").exists()
    np.testing.assert_array_equal(report.array[...], -IMAGE)


def test_a_worker_that_dies_while_tiles_are_handed_over_loses_nothing(
    own_cluster: tuple[LocalCluster, Client], tmp_path: Path
) -> None:
    client = own_cluster[1]
    dataset = tw.IterableTiledPredDataset(IMAGE, "YX", (32, 32), (8, 8))
    trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset))
    writer = tw.WriteTilesZarr(client=client)
    for number, (tile, information) in enumerate(dataset):
        if number == 20:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        writer.write_batch(trainer, None, (tile[None], [information]), None, None, number, 0, tmp_path)
    (report,) = writer.finalize()
    np.testing.assert_array_equal(report.array[...], IMAGE)


class Stops:
    """Wait for a file before the second tile, so that a test can act in the middle of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if (self.folder / "probed").exists():
            (self.folder / "running").touch()
            while not (self.folder / "go").exists():
                threading.Event().wait(0.02)
        (self.folder / "probed").touch()
        return tiles


def test_a_scheduler_that_goes_away_is_a_clear_error(source: Path, tmp_path: Path) -> None:
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=LOCAL, silence_logs=50)
    client = Client(cluster, set_as_default=False)
    caught: list[BaseException] = []

    def predict() -> None:
        try:
            tw.predict_to_zarr(Stops(tmp_path), source, tmp_path / "o.zarr", client=client, **REQUEST)
        except BaseException as error:
            caught.append(error)

    run = threading.Thread(target=predict)
    try:
        run.start()
        while not (tmp_path / "running").exists():
            threading.Event().wait(0.02)
        cluster.sync(cluster.scheduler.close)
        run.join(25)
        assert not run.is_alive()
        assert isinstance(caught[0], ClusterGoneError)
    finally:
        (tmp_path / "go").touch()
        # The cluster asks its scheduler to close, and waits for an answer.
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
            client.close()
            cluster.close()


class ExitsLater:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls > 3:
            sys.exit(3)
        return tiles


def test_a_model_that_exits_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        tw.predict_to_zarr(ExitsLater(), IMAGE, tmp_path / "o.zarr", **REQUEST)


def test_workers_that_come_later_are_waited_for(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=LOCAL, worker_dashboard_address=LOCAL) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        timer = threading.Timer(1.0, cluster.scale, args=(1,))
        timer.start()
        report = tw.predict_to_zarr(np.negative, IMAGE, tmp_path / "o.zarr", client=client, **REQUEST)
        timer.join()
    np.testing.assert_array_equal(report.array[...], -IMAGE)


def double_in_place(tiles: np.ndarray) -> np.ndarray:
    tiles *= 2
    return tiles


@pytest.mark.parametrize("kind", ["array", "memmap", "copy-on-write memmap"])
def test_a_model_may_write_into_its_tiles(kind: str, tmp_path: Path) -> None:
    image: Any = IMAGE.copy()
    if kind != "array":
        image.tofile(tmp_path / "raw")
        image = np.memmap(tmp_path / "raw", np.float32, "c" if "copy" in kind else "r", shape=IMAGE.shape)
    expected = 2 * IMAGE
    if "copy" in kind:
        image[:] = 5
        expected = np.full_like(IMAGE, 10)
    before = np.array(image)
    report = tw.predict_to_zarr(double_in_place, image, tmp_path / "o.zarr", **REQUEST)
    np.testing.assert_array_equal(report.array[...], expected)
    np.testing.assert_array_equal(image, before)


def test_a_torch_model_comes_back_as_it_was(tmp_path: Path) -> None:
    import torch

    image = IMAGE - 0.5
    before = image.copy()
    model = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Dropout()).train()
    report = tw.predict_to_zarr(model, image, tmp_path / "o.zarr", **REQUEST)
    np.testing.assert_array_equal(report.array[...], np.maximum(before, 0))
    np.testing.assert_array_equal(image, before)
    assert model.training
    assert model[1].training
