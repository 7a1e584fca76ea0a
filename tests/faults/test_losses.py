"""What dies takes nothing with it: real processes are killed, and what is stored is right or the error is clear."""

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from tests.faults.support import LOCAL, Running, losable_cluster, wait_once, waiting_process

import tilewright as tw
from tilewright.errors import ClusterGoneError

IMAGE = np.random.default_rng(0).random((200, 220), dtype=np.float32)
REQUEST: dict[str, Any] = {"axes": "YX", "tile_size": (32, 32), "overlap": (8, 8), "progress": False}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE, chunks=(32, 32))
    return tmp_path / "raw.zarr"


class Waits:
    """Wait before the second tile, so that a test can act in the middle of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if (self.folder / "probed").exists():
            wait_once(self.folder, "running")
        (self.folder / "probed").touch()
        return tiles


def test_a_scheduler_that_goes_away_is_a_clear_error(source: Path, tmp_path: Path) -> None:
    with losable_cluster(tmp_path / "go") as (cluster, client):
        running = Running(
            lambda: tw.predict_to_zarr(Waits(tmp_path), source, tmp_path / "o.zarr", client=client, **REQUEST)
        )
        waiting_process(tmp_path, "running")
        cluster.sync(cluster.scheduler.close)
        with pytest.raises(ClusterGoneError):
            running.end(25)


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
