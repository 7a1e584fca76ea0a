"""Trainers of both Lightning packages predict while a cluster writes, and the caller gets all, or the reason."""

import importlib
import threading
from collections.abc import Callable, Iterator
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
from tests.support import LayerError, PositionModel, read_level, running_clusters, stitched
from torch.utils.data import DataLoader

import tilewright as tw
from tilewright.errors import IncompleteImageError

# Lightning gives advice on hardware, and on loggers that one might use.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available.*"),
]

RNG = np.random.default_rng(15)
STACKS = {
    name: RNG.integers(0, 60_000, (2, 40 + 3 * number, 48)).astype("uint16")
    for number, name in enumerate(["b.2024", "a", "c"])
}
TILE, OVERLAP = (16, 16), (5, 4)
MODEL = PositionModel(2, "int32")


def network_of(
    module: Any, model: Callable[[np.ndarray], np.ndarray] = MODEL, *, with_where: bool = True, fails_at: Any = None
) -> Any:
    """Return a network of one of the packages that counts its calls."""

    class Network(module.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.calls = 0

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            self.calls += 1
            if batch_idx == fails_at:
                raise LayerError(3, "out of luck")
            predicted = torch.as_tensor(model(batch[0].numpy()))
            return (predicted, batch[1]) if with_where else predicted

    return Network()


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def package(request: pytest.FixtureRequest) -> Any:
    """Each of the packages that Lightning comes as."""
    return importlib.import_module(request.param)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Three files of two samples each."""
    (tmp_path / "raw").mkdir()
    for name, stack in STACKS.items():
        tifffile.imwrite(tmp_path / "raw" / f"{name}.tif", stack, photometric="minisblack")
    return [tmp_path / "raw" / f"{name}.tif" for name in STACKS]


def tiled(sources: Any, *, num_workers: int = 2, batch_size: int = 4) -> DataLoader:
    dataset = tw.IterableTiledPredDataset(sources, "SYX", TILE, OVERLAP)
    return DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=tw.collate_tiles)


def untiled(sources: Any, *, num_workers: int = 2, batch_size: int = 1) -> DataLoader:
    return DataLoader(tw.IterablePredDataset(sources, "SYX"), batch_size, num_workers=num_workers)


def predict(package: Any, callback: Any, loaders: Any, network: Any = None, **options: Any) -> Any:
    trainer = package.Trainer(
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **options,
    )
    return trainer.predict(network or network_of(package), loaders, return_predictions=False)


def expected_of(stack: np.ndarray, is_tiled: bool) -> np.ndarray:
    """Return SCYX of what must be written."""
    image = stack.astype("float32")
    return stitched(image, "SYX", TILE, OVERLAP, MODEL) if is_tiled else MODEL(image[:, np.newaxis])


def read_output(path: Path) -> np.ndarray:
    return tifffile.imread(path) if path.suffix == ".tiff" else read_level(path, 0)


# --- Two packages, two kinds of output, tiles and whole samples.


@pytest.mark.parametrize("is_tiled", [True, False])
@pytest.mark.parametrize("write_type", ["tiff", "zarr"])
def test_a_trainer_predicts_files_and_the_cluster_writes_them(
    write_type: str, is_tiled: bool, package: Any, two_processes: Client, sources: list[Path], tmp_path: Path
) -> None:
    callback = tw.PredictionWriterCallback.from_write_func_params(
        write_type, is_tiled, dirpath=tmp_path / "out", client=two_processes
    )
    loader = tiled(sources) if is_tiled else untiled(sources)
    assert predict(package, callback, loader) is None
    extension = ".tiff" if write_type == "tiff" else ".zarr"
    written = [path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".ledger"]
    assert sorted(written) == sorted(f"{n}{extension}" for n in STACKS)
    for name, stack in STACKS.items():
        written = read_output(tmp_path / "out" / f"{name}{extension}")
        np.testing.assert_array_equal(written, expected_of(stack, is_tiled), strict=True)


@pytest.mark.parametrize("is_tiled", [True, False])
def test_without_a_cluster_the_trainer_writes_them_itself(
    is_tiled: bool, package: Any, sources: list[Path], tmp_path: Path
) -> None:
    callback = tw.PredictionWriterCallback.from_write_func_params("tiff", is_tiled, dirpath=tmp_path / "out")
    predict(package, callback, tiled(sources) if is_tiled else untiled(sources), network_of(package, with_where=False))
    for name, stack in STACKS.items():
        written = read_output(tmp_path / "out" / f"{name}.tiff")
        np.testing.assert_array_equal(written, expected_of(stack, is_tiled), strict=True)


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_several_data_loaders_are_written_in_one_run(
    kind: str, package: Any, embedded: Client, sources: list[Path], tmp_path: Path
) -> None:
    callback = tw.PredictionWriterCallback.from_write_func_params(
        "tiff", True, dirpath=tmp_path / "out", client=embedded
    )
    loaders: Any = [tiled(sources[:1], num_workers=0), tiled(sources[1:], num_workers=0, batch_size=7)]
    predict(package, callback, loaders if kind == "list" else {"one": loaders[0], "two": loaders[1]})
    for name, stack in STACKS.items():
        written = read_output(tmp_path / "out" / f"{name}.tiff")
        np.testing.assert_array_equal(written, expected_of(stack, True), strict=True)


# --- The callback.


def test_the_callback_is_a_prediction_writer_of_both_packages(tmp_path: Path) -> None:
    callback = tw.PredictionWriterCallback(tw.create_write_strategy("tiff", True), tmp_path)
    for name in ("pytorch_lightning", "lightning.pytorch"):
        module = importlib.import_module(f"{name}.callbacks")
        assert isinstance(callback, module.BasePredictionWriter)
        assert isinstance(callback, module.Callback)
    assert callback.interval.on_batch
    assert not callback.interval.on_epoch
    assert callback.writing_predictions is True


def test_the_folder_is_made_for_prediction_and_for_nothing_else(package: Any, tmp_path: Path) -> None:
    callback = tw.PredictionWriterCallback(tw.create_write_strategy("tiff", True), str(tmp_path / "some" / "folder"))
    network = network_of(package)
    for stage in ("fit", "validate", "test"):
        callback.setup(SimpleNamespace(), network, stage)
    assert not (tmp_path / "some").exists()
    callback.setup(trainer=SimpleNamespace(), pl_module=network, stage="predict")
    callback.setup(SimpleNamespace(), network, "predict")
    assert (tmp_path / "some" / "folder").is_dir()


def test_a_relative_folder_is_taken_from_the_working_directory_with_a_warning(
    package: Any, embedded: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    strategy = tw.create_write_strategy("tiff", True, client=embedded)
    with pytest.warns(UserWarning, match="relative prediction folder 'some/folder' is taken from the working direc"):
        callback = tw.PredictionWriterCallback(strategy, "some/folder")
    predict(package, callback, tiled(STACKS["a"], num_workers=0))
    assert [path.name for path in (tmp_path / "some" / "folder").iterdir()] == ["prediction_0.tiff"]


@pytest.mark.parametrize("is_tiled", [True, False])
@pytest.mark.parametrize("write_type", ["tiff", "zarr"])
def test_nothing_is_written_while_writing_is_off(write_type: str, is_tiled: bool, package: Any, tmp_path: Path) -> None:
    clusters = running_clusters()
    callback = tw.PredictionWriterCallback.from_write_func_params(write_type, is_tiled, dirpath=tmp_path / "out")
    callback.writing_predictions = False
    loader = (tiled if is_tiled else untiled)(STACKS["a"], num_workers=0)
    network = network_of(package)
    predict(package, callback, loader, network)
    assert network.calls > 0
    assert list(tmp_path.iterdir()) == []
    assert running_clusters() == clusters
    callback.writing_predictions = True
    predict(package, callback, loader)
    assert sorted((tmp_path / "out").glob("prediction*"))


@pytest.mark.parametrize("is_tiled", [True, False])
def test_a_dataset_of_another_type_is_an_error_before_anything_is_predicted(
    is_tiled: bool, package: Any, tmp_path: Path
) -> None:
    callback = tw.PredictionWriterCallback.from_write_func_params("tiff", is_tiled, dirpath=tmp_path)
    network = network_of(package)
    expected = "IterableTiledPredDataset" if is_tiled else "IterablePredDataset"
    with pytest.raises(TypeError, match=f"^Prediction dataset is not `{expected}`\\.$"):
        predict(package, callback, (untiled if is_tiled else tiled)(STACKS["a"], num_workers=0), network)
    assert network.calls == 0


class OnlyWritesBatches:
    """A strategy as small as it can be."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []

    def write_batch(self, **arguments: Any) -> None:
        self.batches.append(arguments)


def test_a_strategy_may_have_nothing_but_write_batch(package: Any, tmp_path: Path) -> None:
    strategy = OnlyWritesBatches()
    loader = tiled(STACKS["a"], num_workers=0)
    predict(package, tw.PredictionWriterCallback(strategy, tmp_path), loader)
    assert len(strategy.batches) == len(loader.dataset.images) * -(-32 // 4)
    names = {"trainer", "pl_module", "prediction", "batch_indices", "batch", "batch_idx", "dataloader_idx", "dirpath"}
    assert set(strategy.batches[0]) == names
    assert [batch["batch_idx"] for batch in strategy.batches] == list(range(8))
    assert strategy.batches[0]["dirpath"] == tmp_path


class Breaks(OnlyWritesBatches):
    """A strategy that fails at its second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def prepare(self, trainer: Any, dirpath: Any) -> None:
        self.calls.append("prepare")

    def write_batch(self, **arguments: Any) -> None:
        self.calls.append("write_batch")
        if self.calls.count("write_batch") == 2:
            raise LayerError(2, "no ink left")

    def finalize(self) -> None:
        self.calls.append("finalize")

    def abort(self) -> None:
        self.calls.append("abort")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_error_of_a_strategy_reaches_the_caller_and_it_lets_go(
    num_workers: int, package: Any, sources: list[Path], tmp_path: Path
) -> None:
    strategy = Breaks()
    with pytest.raises(LayerError, match="layer 2: no ink left"):
        predict(
            package, tw.PredictionWriterCallback(strategy, tmp_path / "out"), tiled(sources, num_workers=num_workers)
        )
    # The first one is for a run before this one that did not end.
    assert strategy.calls == ["abort", "prepare", "write_batch", "write_batch", "abort"]


def test_a_stand_in_for_a_trainer_has_received_no_signal_and_has_one_process(embedded: Client, tmp_path: Path) -> None:
    trainer = Mock(spec=pl.Trainer)
    trainer.predict_dataloaders, trainer.lightning_module = tiled(STACKS["a"], num_workers=0), network_of(pl)
    callback = tw.PredictionWriterCallback(tw.WriteTilesZarr(embedded), tmp_path / "out")
    callback.setup(trainer, network_of(pl), "predict")
    callback.on_predict_start(trainer, None)
    for number, (tiles, infos) in enumerate(trainer.predict_dataloaders):
        callback.write_on_batch_end(trainer, None, (tiles, infos), None, None, number, 0)
    callback.on_predict_end(trainer, None)
    (report,) = callback.write_strategy.reports
    np.testing.assert_array_equal(report.array[...].squeeze(), STACKS["a"])


# --- Tiles to Zarr.


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


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("executor", ["embedded", "two_processes", None])
def test_a_trainer_predicts_files_and_arrays_to_zarr(
    executor: str | None, num_workers: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = None if executor is None else request.getfixturevalue(executor)
    clusters = running_clusters()
    stacks = list(STACKS.values())
    (tmp_path / "raw").mkdir()
    tifffile.imwrite(tmp_path / "raw" / "a.b.tif", stacks[0], photometric="minisblack")
    array = zarr.create_array(tmp_path / "raw" / "c.zarr", shape=stacks[1].shape, dtype="uint16", chunks=(1, 16, 16))
    array[...] = stacks[1]
    strategy = tw.WriteTilesZarr(client)
    loader = tiled([tmp_path / "raw" / "a.b.tif", tmp_path / "raw" / "c.zarr", stacks[2]], num_workers=num_workers)
    predict(pl, tw.PredictionWriterCallback(strategy, tmp_path / "out"), loader)
    for name, stack in zip(["a.b.zarr", "c.zarr", "prediction.zarr/2"], stacks, strict=True):
        np.testing.assert_array_equal(read_output(tmp_path / "out" / name), expected_of(stack, True))
    assert len(strategy.reports) == 3
    assert running_clusters() == clusters


def test_mixed_precision_is_written_as_float32(embedded: Client, tmp_path: Path) -> None:
    class Same(pl.LightningModule):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch

    image = STACKS["a"] // 256
    callback = tw.PredictionWriterCallback(tw.WriteTilesZarr(embedded), tmp_path)
    predict(pl, callback, tiled(image), Same(), precision="bf16-true")
    written = read_level(tmp_path / "prediction.zarr" / "0", 0)
    assert written.dtype == "float32"
    # Eight bits is what this precision holds.
    np.testing.assert_array_equal(written.squeeze(), image)


@pytest.mark.usefixtures("nothing_stays_open")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("fails_at", [0, 3])
def test_the_error_of_a_network_reaches_the_caller_and_nothing_stays_open(
    fails_at: int, num_workers: int, tmp_path: Path
) -> None:
    callback = tw.PredictionWriterCallback(tw.WriteTilesZarr(), tmp_path)
    loader = tiled(STACKS["a"], num_workers=num_workers, batch_size=1)
    with pytest.raises(LayerError, match="layer 3: out of luck"):
        predict(pl, callback, loader, network_of(pl, fails_at=fails_at))


@pytest.mark.usefixtures("nothing_stays_open")
def test_a_run_to_zarr_that_stops_early_ends_with_what_is_missing(tmp_path: Path) -> None:
    callback = tw.PredictionWriterCallback(tw.WriteTilesZarr(), tmp_path)
    with pytest.raises(IncompleteImageError, match=r"image .* misses \d+ elements of \d+ tiles of \d+ in .*prediction"):
        predict(pl, callback, tiled(STACKS["a"]), limit_predict_batches=2)


@pytest.mark.parametrize("processes", [{"world_size": 2}, {"world_size": 1, "num_devices": 3}])
def test_a_trainer_of_several_processes_is_refused_before_anything_is_made(
    processes: dict[str, int], tmp_path: Path
) -> None:
    callback = tw.PredictionWriterCallback(tw.WriteTilesZarr(), tmp_path / "out")
    with pytest.raises(NotImplementedError, match=r"the trainer runs in [23] processes.*use devices=1"):
        callback.setup(SimpleNamespace(**processes), None, "predict")
    assert not (tmp_path / "out").exists()


def test_the_default_folder_is_called_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="relative prediction folder 'predictions'"):
        assert tw.PredictionWriterCallback(tw.WriteTilesZarr()).dirpath == tmp_path / "predictions"


# --- What goes wrong.


def test_the_error_of_a_network_reaches_the_caller_and_the_cluster_is_of_use_afterwards(
    package: Any, two_processes: Client, sources: list[Path], tmp_path: Path
) -> None:
    callback = tw.PredictionWriterCallback.from_write_func_params(
        "tiff", True, dirpath=tmp_path / "out", client=two_processes
    )
    with pytest.raises(LayerError, match="layer 3: out of luck"):
        predict(package, callback, tiled(sources, num_workers=0), network_of(package, fails_at=10))
    # The first image was complete.
    first, *others = STACKS
    written = read_output(tmp_path / "out" / f"{first}.tiff")
    np.testing.assert_array_equal(written, expected_of(STACKS[first], True), strict=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{first}.tiff"]
    predict(package, callback, tiled(sources, num_workers=0))
    for name in others:
        written = read_output(tmp_path / "out" / f"{name}.tiff")
        np.testing.assert_array_equal(written, expected_of(STACKS[name], True), strict=True)


@pytest.mark.parametrize("is_tiled", [True, False])
def test_a_run_that_stops_early_ends_with_what_is_missing(
    is_tiled: bool, package: Any, two_processes: Client, sources: list[Path], tmp_path: Path
) -> None:
    callback = tw.PredictionWriterCallback.from_write_func_params(
        "tiff", is_tiled, dirpath=tmp_path / "out", client=two_processes
    )
    loader = (tiled if is_tiled else untiled)(sources, num_workers=0)
    with pytest.raises(IncompleteImageError, match=r"a\.tif misses .*c\.tif is missing") as caught:
        predict(package, callback, loader, limit_predict_batches=9 if is_tiled else 3)
    assert "b.2024.tif" not in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.2024.tiff"]
