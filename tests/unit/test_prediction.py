"""predict_to_zarr: what is wrong is said before anything exists, and what comes out is what was asked for."""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from distributed import Client, default_client
from tests.support import CallCounter, FullStore, PositionModel, noted, stitched, tree
from zarr.storage import MemoryStore

import tilewright as tw
from tilewright import assemble
from tilewright.errors import (
    DestinationError,
    DestinationExistsError,
    GeometryError,
    MemoryPlanError,
    ModelOutputError,
    SourceError,
)
from tilewright.model import tile_prediction

IMAGE = np.random.default_rng(6).integers(0, 255, (40, 48)).astype("uint8")


@pytest.fixture
def predict(embedded: Client, tmp_path: Path) -> Callable[..., Any]:
    def predict(model: Any = np.negative, source: Any = IMAGE, destination: Any = None, **options: Any) -> tw.Report:
        destination = tmp_path / "out.zarr" if destination is None else destination
        defaults = {"axes": "YX", "tile_size": (16, 16), "overlap": (4, 4), "client": embedded, "progress": False}
        return tw.predict_to_zarr(model, source, destination, **defaults | options)

    return predict


# --- Refused before anything is created or predicted.

BAD_REQUESTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "too few axes": ({"axes": "Y"}, GeometryError, "must name both Y and X"),
    "axes of another image": ({"axes": "ZYX"}, GeometryError, r"names 3 axes, but the source has 2"),
    "unknown axes": ({"axes": "YK"}, GeometryError, "unknown letters"),
    "an overlap as large as the tile": (
        {"overlap": (4, 16)},
        GeometryError,
        "on axis X the tile of 16 .*overlap of 16",
    ),
    "a negative overlap": ({"overlap": (-1, 4)}, GeometryError, "on axis Y .*overlap of -1"),
    "a tile of nothing": ({"tile_size": (0, 16)}, GeometryError, "on axis Y the tile of 0"),
    "too few tile sizes": ({"tile_size": (16,)}, GeometryError, "tile_size must have one number for each spatial axis"),
    "a broken tile size": ({"tile_size": (16.5, 16)}, GeometryError, "tile_size must be a sequence of whole numbers"),
    "a single tile size": ({"tile_size": 16}, GeometryError, "tile_size must be a sequence of whole numbers, got 16"),
    "a single overlap": ({"overlap": 4}, GeometryError, "overlap must be a sequence of whole numbers, got 4"),
    "chunks that do not divide shards": (
        {"chunks": (6, 6), "shards": (12, 16)},
        GeometryError,
        "on axis X the shard of 16 is not a whole multiple of the chunk of 6",
    ),
    "too many chunks": ({"chunks": (1, 1, 8, 8)}, GeometryError, "chunks must have one number for each output axis"),
    "too few chunks": ({"chunks": (8,)}, GeometryError, "chunks must have one number for each output axis"),
    "chunks of nothing": ({"chunks": (0, 8)}, GeometryError, "chunks must be at least 1"),
    "a single chunk size": ({"chunks": 8}, GeometryError, "chunks must be a sequence of whole numbers"),
    "unknown chunks": ({"chunks": "large"}, GeometryError, "chunks must be extents or 'auto', got 'large'"),
    "unknown layout": ({"layout": "dense"}, GeometryError, "layout must be 'auto', 'compact' or 'aligned'"),
    "unknown if_exists": ({"if_exists": "append"}, ValueError, "if_exists must be one of .*got 'append'"),
    "no batch": ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    "unknown format": ({"zarr_format": 4}, ValueError, "zarr_format must be 2 or 3, got 4"),
    "no memory": ({"memory_nbytes": 0}, ValueError, "memory_nbytes must be at least 1, got 0"),
    "unknown data type": ({"dtype": "float33"}, GeometryError, "unknown data type 'float33'"),
    "a destination that is a URL": (
        {"destination": "s3://bucket/out.zarr"},
        DestinationError,
        r"s3://bucket/out\.zarr.* is a URL; pass a local path",
    ),
    "a read-only store": ({"destination": MemoryStore(read_only=True)}, DestinationError, "read-only"),
    "a model that is none": ({"model": "model.pt"}, TypeError, "the model must be"),
    "a checkpoint that is missing": ({"model": "model.ckpt"}, FileNotFoundError, "there is no checkpoint"),
    "a missing source": ({"source": "nowhere.tif"}, SourceError, r"nowhere\.tif does not exist"),
    "a source that is a URL": ({"source": "https://host/raw.zarr"}, SourceError, "is a URL"),
}


# Of some the first tile says more.
UNFIT: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "shards in Zarr 2": ({"zarr_format": 2, "shards": (16, 16), "chunks": (8, 8)}, ValueError, "shard"),
    "too little memory": (
        {"memory_nbytes": 10, "chunks": (7, 7), "layout": "compact"},
        MemoryPlanError,
        r"\d+ bytes.*memory_nbytes allows 10 B \(10 bytes\); give more memory",
    ),
    "unknown compressors": ({"compressors": "nonsense"}, ValueError, "compressors"),
    "compressors of the other format": (
        {"zarr_format": 2, "compressors": zarr.codecs.ZstdCodec()},
        ValueError,
        "compressors",
    ),
    "a fill value of another type": ({"fill_value": "nothing"}, ValueError, "fill_value"),
    "a prediction of another size": (
        {"model": lambda batch: batch[:, :, 2:]},
        ModelOutputError,
        r"spatial size \(16, 16\) and returned \(14, 16\)",
    ),
    "a prediction of too few axes": (
        {"model": lambda batch: batch[:, 0]},
        ModelOutputError,
        r"tiles of shape \(1, 1, 16, 16\) and returned \(1, 16, 16\)",
    ),
    "a prediction of complex numbers": (
        {"model": lambda batch: batch.astype(complex)},
        ModelOutputError,
        "elements of type complex128 .*only numbers are stored",
    ),
    "a prediction of text": ({"model": lambda batch: batch.astype(str)}, ModelOutputError, "only numbers are stored"),
}


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("name", BAD_REQUESTS | UNFIT)
def test_a_request_that_is_wrong_or_does_not_fit_creates_nothing_and_what_is_there_stays(
    name: str, is_there: bool, predict: Callable[..., Any], tmp_path: Path
) -> None:
    options, error, message = (BAD_REQUESTS | UNFIT)[name]
    if is_there:
        predict()
    before = tree(tmp_path)
    model = CallCounter(str(tmp_path / "calls"))
    with pytest.raises(error, match=message):
        predict(**{"model": model, "if_exists": "overwrite" if is_there else "fail"} | options)
    if name in BAD_REQUESTS:
        assert noted(tmp_path / "calls") == 0
    (tmp_path / "calls").unlink(missing_ok=True)
    assert tree(tmp_path) == before
    assert bool(before) == is_there == (tmp_path / "out.zarr").exists()


def test_a_destination_that_exists_is_left_as_it_is(predict: Callable[..., Any], tmp_path: Path) -> None:
    predict()
    before = tree(tmp_path)
    with pytest.raises(DestinationExistsError, match=r"out\.zarr exists .*if_exists='overwrite'") as caught:
        predict(CallCounter(str(tmp_path / "calls")))
    assert isinstance(caught.value, FileExistsError)
    assert noted(tmp_path / "calls") == 0
    assert tree(tmp_path) == before
    store = MemoryStore()
    predict(destination=store)
    with pytest.raises(DestinationExistsError, match="exists"):
        predict(destination=store)


def test_overwriting_replaces_the_whole_group_and_leaves_the_neighbours_alone(
    predict: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    predict(destination=tmp_path / "other.zarr")
    before = tree(tmp_path)
    predict(chunks=(4, 4), zarr_format=2)
    report = predict(np.positive, if_exists="overwrite", chunks=(16, 16))
    np.testing.assert_array_equal(report.array[...], IMAGE)
    assert sorted(path.name for path in (tmp_path / "out.zarr").iterdir()) == ["0", "zarr.json"]
    assert sorted(path.name for path in (tmp_path / "out.zarr" / "0").iterdir()) == ["c", "zarr.json"]
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before


NO_ZARR: list[tuple[str, str, str, type[Exception], str]] = [
    # What is there, the destination, what is said of an existing one, and what that is.
    ("out.zarr/thesis.tex", "out.zarr", "overwrite", DestinationExistsError, "is no Zarr group or array, so it is not"),
    ("out.zarr", "out.zarr", "overwrite", DestinationError, r"out\.zarr is a file"),
    ("file", "file/deep/out.zarr", "fail", DestinationError, "file is a file, not a folder"),
]


@pytest.mark.parametrize(("there", "destination", "if_exists", "error", "message"), NO_ZARR)
def test_what_is_no_zarr_is_not_overwritten(
    there: str,
    destination: str,
    if_exists: str,
    error: type[Exception],
    message: str,
    predict: Callable[..., Any],
    tmp_path: Path,
) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("years of work")
    with pytest.raises(error, match=message):
        predict(destination=tmp_path / destination, if_exists=if_exists)
    assert tree(tmp_path) == {there: b"years of work"}


@pytest.mark.parametrize("if_exists", ["fail", "overwrite"])
@pytest.mark.parametrize("is_there", [False, True], ids=["nothing", "an empty folder"])
def test_where_nothing_is_an_output_is_created(
    is_there: bool, if_exists: str, predict: Callable[..., Any], tmp_path: Path
) -> None:
    if is_there:
        (tmp_path / "out.zarr").mkdir()
    np.testing.assert_array_equal(predict(np.positive, if_exists=if_exists).array[...], IMAGE)


def test_a_folder_is_refused_just_where_this_user_may_not_write(predict: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    destination = tmp_path / "locked" / "out.zarr"
    if os.access(destination.parent, os.W_OK):
        # The superuser may write everywhere.
        predict(destination=destination)
        assert destination.is_dir()
    else:
        with pytest.raises(DestinationError, match="no permission to write"):
            predict(destination=destination)


def test_a_store_that_is_the_source_is_refused(predict: Callable[..., Any]) -> None:
    store = MemoryStore()
    zarr.create_group(store).create_array("0", shape=IMAGE.shape, dtype="uint8", chunks=(8, 8))[...] = IMAGE
    with pytest.raises(DestinationError):
        predict(np.positive, store, store, if_exists="overwrite")
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["0"][...], IMAGE)


def test_overwriting_a_store_replaces_it(predict: Callable[..., Any]) -> None:
    store = MemoryStore()
    predict(destination=store, chunks=(4, 4))
    report = predict(np.positive, destination=store, if_exists="overwrite", chunks=(16, 16))
    np.testing.assert_array_equal(report.array[...], IMAGE)
    assert sum(key.startswith("0/c/") for key in store._store_dict) == 9


# --- What the model does wrong.


def test_another_number_of_channels_for_a_later_tile_is_an_error(predict: Callable[..., Any]) -> None:
    def model(batch: np.ndarray) -> np.ndarray:
        return np.repeat(batch, 1 + int(batch.max() > 0), axis=1)

    image = IMAGE.copy()
    image[:20, :20] = 0
    with pytest.raises(ModelOutputError, match=r"returned 2 channels for tiles .* but 1 for the first tile"):
        predict(model, image)


# --- What comes out.


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_nan_and_infinity_pass_through_unchanged(dtype: str, predict: Callable[..., Any]) -> None:
    image = IMAGE.astype(dtype)
    image[3, 4], image[20, 30], image[39, 47] = np.nan, np.inf, -np.inf
    array = predict(np.positive, image).array
    assert array.dtype == dtype
    assert array[...].tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("source", "target", "values", "expected"),
    [
        ("float64", "uint8", [0.4, 0.5, 1.5, 2.6, -3.0, 300.0], [0, 0, 2, 3, 0, 255]),
        ("float64", "uint8", [np.nan, np.inf, -np.inf, -1.0, 1.0, 2.0], [0, 255, 0, 0, 1, 2]),
        ("float64", "int32", [1e30, -1e30, 2.0**31, -(2.0**31), 7.49], [2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 7]),
        ("float64", "int64", [1e30, -1e30, 2.0**63, 2.0**62, -1], [2**63 - 1, -(2**63), 2**63 - 1, 2**62, -1]),
        ("float64", "uint64", [1e30, -1e30, 2.0**64, 2.0**63, -1], [2**64 - 1, 0, 2**64 - 1, 2**63, 0]),
        ("float64", "float32", [0.1, 1e5, -1e5, 65504.0], [0.1, 1e5, -1e5, 65504.0]),
        ("int32", "uint8", [-5, 0, 255, 256], [0, 0, 255, 255]),
        ("uint64", "int8", [0, 127, 128, 2**64 - 1], [0, 127, 127, 127]),
        ("int64", "uint64", [-1, 0, 1, 2**63 - 1], [0, 0, 1, 2**63 - 1]),
        ("uint16", "int64", [0, 1, 2, 65535], [0, 1, 2, 65535]),
        ("int32", "float64", [-1, 0, 2**24 + 1, 2**31 - 1], [-1, 0, 2**24 + 1, 2**31 - 1]),
        ("bool", "uint8", [0, 1, 1, 0], [0, 1, 1, 0]),
    ],
)
def test_values_become_others_by_rounding_within_limits(
    source: str, target: str, values: list[Any], expected: list[Any], predict: Callable[..., Any]
) -> None:
    image = np.array([values] * 4, source)
    array = predict(lambda tiles: tiles.copy(), image, dtype=target, tile_size=(4, 4), overlap=(0, 0)).array
    assert array.dtype == target
    np.testing.assert_array_equal(array[...], np.array([expected] * 4, target))


@pytest.mark.parametrize("layout", ["compact", "auto"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_output_is_a_plain_stitching(layout: str, batch_size: int, predict: Callable[..., Any]) -> None:
    image = np.random.default_rng(8).integers(0, 255, (40, 3, 48, 2)).astype("uint8")
    model = PositionModel(2, "float32")
    report = predict(model, image, axes="XSYT", layout=layout, batch_size=batch_size, chunks=(12, 12), shards="auto")
    if report.plan.layout == "compact":
        np.testing.assert_array_equal(report.array[...], stitched(image, "XSYT", (16, 16), (4, 4), model))
    # Whatever the order of the axes of the source.
    assert report.plan.axes == "STCYX"
    assert report.array.shape == (3, 2, 2, 48, 40)


def test_the_array_has_the_type_of_the_model_the_names_of_its_axes_and_its_fill_value(
    predict: Callable[..., Any],
) -> None:
    array = predict(PositionModel(3, "float16"), fill_value=7).array
    assert array.dtype == "float16"
    assert array.metadata.dimension_names == ("c", "y", "x")
    assert array.fill_value == 7


def test_the_report_counts_what_was_done(predict: Callable[..., Any], tmp_path: Path) -> None:
    report = predict(chunks=(12, 12), compressors=None, layout="compact")
    files = [path for path in (tmp_path / "out.zarr" / "0" / "c").rglob("*") if path.is_file()]
    assert report.object_count == len(files) == 16
    assert report.stored_nbytes == sum(path.stat().st_size for path in files)
    assert (report.tile_count, report.unit_count) == (report.plan.tile_count, report.plan.unit_count)
    assert report.tile_count == 12
    assert report.output_nbytes == IMAGE.nbytes
    assert report.peak_live_nbytes <= report.plan.peak_live_nbytes
    assert "all complete" in str(report)


@pytest.mark.parametrize("batch_size", [1, 100])
def test_each_tile_is_predicted_once_and_of_a_batch_the_first_tile_alone_too(
    batch_size: int, predict: Callable[..., Any], tmp_path: Path
) -> None:
    report = predict(CallCounter(str(tmp_path / "calls")), batch_size=batch_size, layout="compact")
    batches = [unit for unit in range(report.plan.unit_count) if report.plan.tiles_starting_in(unit)]
    assert noted(tmp_path / "calls") == (report.tile_count if batch_size == 1 else len(batches) + 1)


def test_what_the_first_tile_became_is_kept_where_the_model_uses_its_memory_again(
    predict: Callable[..., Any],
) -> None:
    memory = np.zeros((1, 1, 16, 16), IMAGE.dtype)

    def negative(batch: np.ndarray) -> np.ndarray:
        return np.invert(batch, out=memory)

    np.testing.assert_array_equal(predict(negative).array[...], ~IMAGE)


def test_a_model_writes_to_its_memory_again_only_when_the_prediction_was_taken_from_it(
    predict: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = np.zeros((1, 1, 16, 16), IMAGE.dtype)
    predicted, taken = threading.Semaphore(0), itertools.count()

    def negative(batch: np.ndarray) -> np.ndarray:
        np.invert(batch, out=memory)
        predicted.release()
        return memory

    def crop_late(*arguments: Any) -> Any:
        if next(taken) < 5:
            # This prediction, and the next one, if the other thread gets to it.
            predicted.acquire(timeout=0.2)
            predicted.acquire(timeout=0.2)
        return assemble.crop(*arguments)

    monkeypatch.setattr(tile_prediction, "crop", crop_late)
    # With little memory units are small, and tiles that they share are predicted by all threads.
    report = predict(negative, chunks=(10, 10), layout="compact", memory_nbytes=2500)
    assert not report.plan.units_are_independent
    np.testing.assert_array_equal(report.array[...], ~IMAGE)


# --- Stores that fail.


def double_in_place(tiles: np.ndarray) -> np.ndarray:
    tiles *= 2
    return tiles


@pytest.mark.parametrize("kind", ["array", "memmap", "copy-on-write memmap"])
def test_a_model_may_write_into_its_tiles(kind: str, predict: Callable[..., Any], tmp_path: Path) -> None:
    image: Any = IMAGE // 4
    if kind != "array":
        image.tofile(tmp_path / "raw")
        image = np.memmap(tmp_path / "raw", image.dtype, "c" if "copy" in kind else "r", shape=image.shape)
    if "copy" in kind:
        image[:] = 5
    before = np.array(image)
    np.testing.assert_array_equal(predict(double_in_place, image).array[...], 2 * before)
    np.testing.assert_array_equal(image, before)


def test_a_torch_model_comes_back_as_it_was(predict: Callable[..., Any]) -> None:
    image = IMAGE.astype("float32") - 100.5
    before = image.copy()
    model = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Dropout()).train()
    np.testing.assert_array_equal(predict(model, image).array[...], np.maximum(before, 0))
    np.testing.assert_array_equal(image, before)
    assert model.training
    assert model[1].training


@pytest.mark.slow
def test_a_store_without_space_is_an_error_that_names_the_place(predict: Callable[..., Any]) -> None:
    store = FullStore(room=2)
    with pytest.raises(OSError, match="No space left on device") as caught:
        predict(np.positive, destination=store, chunks=(8, 8))
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "the unit at Y 0:" in text
    assert "0/c/" in text


@pytest.mark.slow
def test_a_folder_that_goes_away_is_an_error_that_names_the_file(predict: Callable[..., Any], tmp_path: Path) -> None:
    def model(batch: np.ndarray) -> np.ndarray:
        metadata = tmp_path / "out.zarr" / "0" / "zarr.json"
        if metadata.exists():
            # From now on there is a file where the folder of the chunks must be.
            (tmp_path / "out.zarr" / "0" / "c").touch()
        return batch

    with pytest.raises(OSError, match="could not write") as caught:
        predict(model, chunks=(8, 8))
    assert str(tmp_path / "out.zarr" / "0" / "c") in str(caught.value.filename)


def test_without_a_client_a_cluster_is_opened_and_closed_again(predict: Callable[..., Any]) -> None:
    np.testing.assert_array_equal(predict(np.positive, client=None).array[...], IMAGE)
    with pytest.raises(ValueError, match="No clients found"):
        default_client()
