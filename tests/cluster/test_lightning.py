"""A real trainer predicts, the cluster writes, and whatever happens the caller gets the outputs or the reason."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import tifffile
import torch
import zarr
from distributed import Client
from tests.support import LayerError, running_clusters
from torch.utils.data import DataLoader

import tilewright as tw
from tilewright.errors import IncompleteImageError

# Lightning gives advice on hardware, and on loggers that one might use.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available.*"),
]

RNG = np.random.default_rng(13)
IMAGE = RNG.integers(0, 60_000, (60, 64)).astype("uint16")


class Network(pl.LightningModule):
    """Return what came in, a tensor alone or with its tile information, and fail where it is told to."""

    def __init__(self, *, returns_infos: bool = True, fails_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 1, bias=False)
        torch.nn.init.ones_(self.layer.weight)
        self.returns_infos = returns_infos
        self.fails_at = fails_at

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        tiles, infos = batch
        if batch_idx == self.fails_at:
            raise LayerError(3, "out of luck")
        predicted = self.layer(tiles)
        return (predicted, infos) if self.returns_infos else predicted


def loader_of(sources: Any = IMAGE, *, num_workers: int = 0, batch_size: int = 4, **options: Any) -> DataLoader:
    dataset = tw.IterableTiledPredDataset(sources, "YX", **{"tile_size": (16, 16), "overlaps": (4, 5)} | options)
    return DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=tw.collate_tiles)


def callback_of(dirpath: Path, client: Client | None = None, **options: Any) -> tw.PredictionWriterCallback:
    return tw.PredictionWriterCallback(tw.WriteTilesZarr(client=client, **options), dirpath=dirpath)


def predict(
    callback: tw.PredictionWriterCallback, loaders: Any, network: Network | None = None, **options: Any
) -> list[Any] | None:
    trainer = pl.Trainer(
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **options,
    )
    return trainer.predict(network or Network(), loaders, return_predictions=False)


def open_output(path: Path) -> np.ndarray:
    return zarr.open_group(path, mode="r")["0"][...]


@pytest.fixture
def nothing_stays_open() -> Iterator[None]:
    """What was opened during a test is closed at its end: clusters, and the threads of them."""
    clusters, threads = running_clusters(), set(threading.enumerate())
    yield
    assert running_clusters() <= clusters
    for thread in set(threading.enumerate()) - threads:
        if not thread.name.startswith(("Dask-Offload", "zarr", "asyncio")):
            # Those are shared by all of a process, and stay.
            thread.join(timeout=10)
            assert not thread.is_alive(), thread.name


@pytest.fixture
def sources(tmp_path: Path) -> list[Any]:
    """One image of each kind."""
    (tmp_path / "raw").mkdir()
    tifffile.imwrite(tmp_path / "raw" / "a.b.tif", IMAGE, photometric="minisblack")
    array = zarr.create_array(tmp_path / "raw" / "c.zarr", shape=IMAGE.shape, dtype="uint16", chunks=(16, 16))
    array[...] = IMAGE[::-1]
    return [tmp_path / "raw" / "a.b.tif", tmp_path / "raw" / "c.zarr", IMAGE[:40, :33]]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("executor", ["embedded", "two_processes", None])
def test_a_trainer_predicts_files_and_arrays(
    executor: str | None, num_workers: int, sources: list[Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = None if executor is None else request.getfixturevalue(executor)
    clusters = running_clusters()
    callback = callback_of(tmp_path / "out", client)
    assert predict(callback, loader_of(sources, num_workers=num_workers)) is None
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "a.b.zarr"), IMAGE)
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "c.zarr"), IMAGE[::-1])
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "prediction.zarr" / "2"), IMAGE[:40, :33])
    assert len(callback.write_strategy.reports) == 3
    assert running_clusters() == clusters


def test_a_network_may_return_tiles_alone(embedded: Client, tmp_path: Path) -> None:
    predict(callback_of(tmp_path, embedded), loader_of(), Network(returns_infos=False))
    np.testing.assert_array_equal(open_output(tmp_path / "prediction.zarr" / "0"), IMAGE)


def test_mixed_precision_is_written_as_float32(embedded: Client, tmp_path: Path) -> None:
    predict(callback_of(tmp_path, embedded), loader_of(IMAGE // 256), precision="bf16-true")
    written = zarr.open_group(tmp_path / "prediction.zarr" / "0", mode="r")["0"]
    assert written.dtype == "float32"
    # Eight bits is what this precision holds.
    np.testing.assert_array_equal(written[...], IMAGE // 256)


def test_nothing_is_written_while_writing_is_off(tmp_path: Path) -> None:
    clusters = running_clusters()
    callback = callback_of(tmp_path / "out")
    callback.writing_predictions = False
    predict(callback, loader_of())
    assert list(tmp_path.iterdir()) == []
    assert running_clusters() == clusters
    callback.writing_predictions = True
    predict(callback, loader_of())
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "prediction.zarr" / "0"), IMAGE)


def test_the_default_folder_is_called_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="relative prediction folder 'predictions'"):
        assert tw.PredictionWriterCallback(tw.WriteTilesZarr()).dirpath == tmp_path / "predictions"


@pytest.mark.usefixtures("nothing_stays_open")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("fails_at", [0, 3])
def test_the_error_of_a_network_reaches_the_caller_and_nothing_stays_open(
    fails_at: int, num_workers: int, tmp_path: Path
) -> None:
    network = Network(fails_at=fails_at)
    with pytest.raises(LayerError, match="layer 3: out of luck"):
        predict(callback_of(tmp_path), loader_of(num_workers=num_workers, batch_size=1), network)


@pytest.mark.parametrize("executor", ["embedded", "two_processes"])
def test_a_cluster_that_was_given_is_of_use_after_the_error_of_a_network(
    executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = request.getfixturevalue(executor)
    callback = callback_of(tmp_path, client, if_exists="overwrite")
    with pytest.raises(LayerError):
        predict(callback, loader_of(), Network(fails_at=2))
    predict(callback, loader_of())
    np.testing.assert_array_equal(open_output(tmp_path / "prediction.zarr" / "0"), IMAGE)


@pytest.mark.usefixtures("nothing_stays_open")
def test_a_run_that_stops_early_ends_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(IncompleteImageError, match=r"image .* misses \d+ elements of \d+ tiles of 30 in .*prediction"):
        predict(callback_of(tmp_path), loader_of(), limit_predict_batches=2)


def test_little_memory_in_flight_is_enough(two_processes: Client, tmp_path: Path) -> None:
    image = RNG.random((300, 400)).astype("float32")
    callback = callback_of(tmp_path, two_processes, window_nbytes=1, compressors=None)
    predict(callback, loader_of(image, num_workers=2, tile_size=(64, 64), overlaps=(16, 16)))
    np.testing.assert_array_equal(open_output(tmp_path / "prediction.zarr" / "0"), image)


@pytest.mark.parametrize("processes", [{"world_size": 2}, {"world_size": 1, "num_devices": 3}])
def test_a_trainer_of_several_processes_is_refused_before_anything_is_made(
    processes: dict[str, int], tmp_path: Path
) -> None:
    callback = callback_of(tmp_path / "out")
    with pytest.raises(NotImplementedError, match=r"the trainer runs in [23] processes.*use devices=1"):
        callback.setup(SimpleNamespace(**processes), None, "predict")
    assert not (tmp_path / "out").exists()


def test_a_stand_in_for_a_trainer_has_received_no_signal_and_has_one_process(embedded: Client, tmp_path: Path) -> None:
    trainer = Mock(spec=pl.Trainer)
    trainer.predict_dataloaders, trainer.lightning_module = loader_of(), Network()
    callback = callback_of(tmp_path / "out", embedded)
    callback.setup(trainer, Network(), "predict")
    callback.on_predict_start(trainer, None)
    for number, (tiles, infos) in enumerate(trainer.predict_dataloaders):
        callback.write_on_batch_end(trainer, None, (tiles, infos), None, None, number, 0)
    callback.on_predict_end(trainer, None)
    (report,) = callback.write_strategy.reports
    np.testing.assert_array_equal(report.array[...], IMAGE)
