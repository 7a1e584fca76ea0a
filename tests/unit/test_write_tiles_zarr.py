"""Tiles that a trainer hands over, in whatever order, become one array per image, whole and exact, or an error."""

import copy
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import torch
import zarr
from distributed import Client
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import PositionModel, read_by_tensorstore, stitched, tree, windows_of
from torch.utils.data import DataLoader, TensorDataset

import tilewright as tw
from tilewright.errors import (
    DestinationError,
    DestinationExistsError,
    GeometryError,
    IncompleteImageError,
    ModelOutputError,
    TileMismatchError,
)
from tilewright.plan import group
from tilewright.transport import clients as cluster

RNG = np.random.default_rng(12)
IMAGE = RNG.integers(0, 60_000, (40, 48)).astype("uint16")
TILE, OVERLAP = (16, 16), (5, 4)
SHARED_CLUSTER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
Item = tuple[torch.Tensor, tw.TileInformation]


# --- What stands in for a trainer: it has data loaders, and hands over one batch after the other.


def dataset_of(sources: Any = IMAGE, axes: str = "YX", **options: Any) -> tw.IterableTiledPredDataset:
    return tw.IterableTiledPredDataset(sources, axes, **{"tile_size": TILE, "overlaps": OVERLAP} | options)


def trainer_of(*datasets: Any) -> SimpleNamespace:
    loaders = [DataLoader(dataset, collate_fn=tw.collate_tiles) for dataset in datasets]
    return SimpleNamespace(predict_dataloaders=loaders if len(loaders) > 1 else loaders[0])


def identity(tiles: Any) -> Any:
    return tiles


def predicted(model: Callable[[Any], Any], tiles: torch.Tensor) -> Any:
    return model(tiles) if model is identity else model(tiles.numpy())


def hand_over(
    writer: tw.WriteTilesZarr,
    dataset: tw.IterableTiledPredDataset,
    dirpath: Path | str,
    *,
    model: Callable[[Any], Any] = identity,
    batch_size: int = 3,
    items: Sequence[Item] | None = None,
) -> None:
    """Predict and hand over the tiles of a dataset, or those that are given."""
    items = list(dataset) if items is None else items
    trainer = trainer_of(dataset)
    for batch_idx, start in enumerate(range(0, len(items), batch_size)):
        tiles, infos = batch = tw.collate_tiles(items[start : start + batch_size])
        writer.write_batch(
            trainer=trainer,
            pl_module=None,
            prediction=(predicted(model, tiles), infos),
            batch_indices=None,
            batch=batch,
            batch_idx=batch_idx,
            dataloader_idx=0,
            dirpath=dirpath,
        )


def write(
    writer: tw.WriteTilesZarr, dataset: tw.IterableTiledPredDataset, dirpath: Path | str, **options: Any
) -> list[tw.Report]:
    hand_over(writer, dataset, dirpath, **options)
    return writer.finalize()


def write_prediction(
    writer: tw.WriteTilesZarr, dataset: Any, dirpath: Path | str, prediction: Any, batch: Any, dataloader_idx: int = 0
) -> None:
    writer.write_batch(trainer_of(dataset), None, prediction, None, batch, 0, dataloader_idx, dirpath)


def open_output(path: Path) -> np.ndarray:
    return zarr.open_group(path, mode="r")["0"][...]


@contextmanager
def small_units() -> Iterator[None]:
    """Write small images in many units, as large images are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "SMALL_UNIT_NBYTES", 1)
        yield


@pytest.fixture
def writer(embedded: Client) -> Iterator[tw.WriteTilesZarr]:
    made = tw.WriteTilesZarr(embedded, compressors=None)
    yield made
    made.abort()


@pytest.fixture
def make_writer(embedded: Client) -> Iterator[Callable[..., tw.WriteTilesZarr]]:
    made: list[tw.WriteTilesZarr] = []

    def make_writer(**options: Any) -> tw.WriteTilesZarr:
        made.append(tw.WriteTilesZarr(embedded, **options))
        return made[-1]

    yield make_writer
    for strategy in made:
        strategy.abort()


# --- One array per image, where its name says.


def tiff(path: Path, image: np.ndarray = IMAGE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, photometric="minisblack")
    return path


def stored(path: Path, image: np.ndarray = IMAGE) -> Path:
    zarr.create_array(path, shape=image.shape, dtype=image.dtype, chunks=(16,) * image.ndim)[...] = image
    return path


def stored_group(path: Path, image: np.ndarray = IMAGE) -> Path:
    array = zarr.create_group(path).create_array("0", shape=image.shape, dtype=image.dtype, chunks=(16,) * image.ndim)
    array[...] = image
    return path


def test_sources_that_are_arrays_are_numbered(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    images = [IMAGE, IMAGE[:20, :30], IMAGE[:7, :9]]
    reports = write(writer, dataset_of(images), tmp_path)
    assert len(reports) == 3
    group = zarr.open_group(tmp_path / "prediction.zarr", mode="r")
    for number, image in enumerate(images):
        np.testing.assert_array_equal(group[f"{number}/0"][...], image)
        np.testing.assert_array_equal(open_output(tmp_path / "prediction.zarr" / str(number)), image)


def test_sources_that_are_files_keep_their_names(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    sources = [
        tiff(tmp_path / "raw" / "cells.2024.tif", IMAGE),
        stored(tmp_path / "raw" / "brain.zarr", IMAGE[::-1]),
        stored_group(tmp_path / "raw" / "a.b.zarr", IMAGE[:, ::-1]),
        IMAGE[::-1, ::-1],
    ]
    write(writer, dataset_of(sources), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{name}.zarr{suffix}" for name in ("a.b", "brain", "cells.2024", "prediction") for suffix in ("", ".ledger")
    ]
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "cells.2024.zarr"), IMAGE)
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "brain.zarr"), IMAGE[::-1])
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "a.b.zarr"), IMAGE[:, ::-1])
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "prediction.zarr" / "3"), IMAGE[::-1, ::-1])


def test_sources_of_one_name_in_several_folders_keep_their_tree(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    sources = [tiff(tmp_path / "raw" / "a" / "x.tif"), tiff(tmp_path / "raw" / "b" / "x.tif", IMAGE[::-1])]
    write(writer, dataset_of(sources), tmp_path / "out")
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "a" / "x.zarr"), IMAGE)
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "b" / "x.zarr"), IMAGE[::-1])


def test_outputs_stay_in_the_folder_where_a_source_lies_beside_the_working_directory(
    writer: tw.WriteTilesZarr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tiff(tmp_path / "other" / "a.tif")
    tiff(tmp_path / "here" / "b.tif")
    before = tree(tmp_path)
    write(writer, dataset_of(["../other/a.tif", "b.tif"]), tmp_path / "out" / "deep")
    written = set(tree(tmp_path)) - set(before)
    assert all(name.startswith("out/deep/") for name in written)


def test_a_zarr_array_that_was_opened_by_a_relative_path_goes_with_files(
    writer: tw.WriteTilesZarr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "a.zarr")
    dataset = dataset_of([zarr.open_array("a.zarr", mode="r"), tiff(tmp_path / "b.tif")])
    write(writer, dataset, tmp_path / "out")
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "a.zarr"), IMAGE)


def test_a_folder_may_be_text_and_relative(
    writer: tw.WriteTilesZarr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(writer, dataset_of(), "out/deep")
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "deep" / "prediction.zarr" / "0"), IMAGE)


def test_two_sources_of_one_output_are_refused_before_anything_is_created(
    writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    dataset = dataset_of([tiff(tmp_path / "raw" / "x.tif"), stored(tmp_path / "raw" / "x.zarr")])
    with pytest.raises(DestinationError, match=r"x\.tif and .*x\.zarr would both be written to x\.zarr"):
        write(writer, dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_of_the_source_is_refused_where_the_output_would_replace_it(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    source = stored(tmp_path / "x.zarr")
    with pytest.raises(DestinationError, match="source"):
        write(make_writer(if_exists="overwrite"), dataset_of(source), tmp_path)
    np.testing.assert_array_equal(zarr.open_array(source, mode="r")[...], IMAGE)


# --- What is written is what was predicted.


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """Some images of the same axes, tiles, a model, and the order in which the tiles come."""
    spatial = draw(st.sampled_from(["YX", "ZYX"]))
    axes = "".join(draw(st.permutations(draw(st.sampled_from(["", "S", "T", "C", "ST", "SC"])) + spatial)))
    longest = 20 if spatial == "YX" else 10
    # Tiles of one batch have one number of channels.
    source_channels = draw(st.integers(1, 3))
    images = []
    for number in range(draw(st.integers(1, 3))):
        shape = [
            source_channels if name == "C" else draw(st.integers(1, 2 if name in "ST" else longest)) for name in axes
        ]
        images.append(np.random.default_rng(number).integers(0, 60_000, shape).astype("uint16"))
    tile_size = [draw(st.integers(1, 8)) for _ in spatial]
    overlaps = [draw(st.integers(0, tile - 1)) for tile in tile_size]
    borders = draw(st.sampled_from([None, [draw(st.integers(1, 6)) for _ in spatial]]))
    dataset = tw.IterableTiledPredDataset(images, axes, tile_size, overlaps, borders=borders)
    dtype = draw(st.sampled_from(["float32", "float16", "uint8", "int32"]))
    chunks = draw(st.sampled_from(["auto", [draw(st.integers(1, 7)) for _ in spatial]]))
    return {
        "images": images,
        "axes": axes,
        "dataset": dataset,
        "model": PositionModel(draw(st.integers(1, 3)), dtype),
        "dtype": dtype,
        "chunks": chunks,
        "shards": "auto" if draw(st.booleans()) else None,
        "batch_size": draw(st.integers(1, 5)),
    }


def check_run(made: dict[str, Any], client: Client, items: Sequence[Item], **options: Any) -> list[tw.Report]:
    """Write a run, and compare every image with a stitching in plain NumPy."""
    dataset, model, axes = made["dataset"], made["model"], made["axes"]
    writer = tw.WriteTilesZarr(client, chunks=made["chunks"], shards=made["shards"], compressors=None, **options)
    with tempfile.TemporaryDirectory() as folder, small_units():
        reports = write(writer, dataset, folder, model=model, batch_size=made["batch_size"], items=items)
        assert len(reports) == len(made["images"])
        for number, image in enumerate(made["images"]):
            place = Path(folder) / "prediction.zarr" / str(number)
            [report] = [report for report in reports if report.array.store.root == Path(folder) / "prediction.zarr"
                        and report.array.path == f"{number}/0"]  # fmt: skip
            # Tiles with borders have no words of their own in the specification: the plan says where they lie.
            windows = None if report.plan.layout == "compact" else windows_of(report.plan)
            expected = stitched(image, axes, dataset.tile_size, dataset.overlaps, model, windows)
            written = open_output(place)
            assert written.dtype == made["dtype"]
            np.testing.assert_array_equal(written, expected)
    return reports


@settings(max_examples=25, suppress_health_check=SHARED_CLUSTER)
@given(made=runs(), data=st.data())
def test_tiles_in_any_order_and_twice_give_a_plain_stitching(
    embedded: Client, made: dict[str, Any], data: st.DataObject
) -> None:
    items = list(made["dataset"])
    twice = data.draw(st.lists(st.sampled_from(range(len(items))), max_size=4), label="twice")
    order = np.random.default_rng(data.draw(st.integers(0, 99), label="seed")).permutation([*range(len(items)), *twice])
    check_run(made, embedded, [items[index] for index in order])


@settings(max_examples=25, suppress_health_check=SHARED_CLUSTER)
@given(made=runs(), window_nbytes=st.sampled_from([1, 300]))
def test_tiles_in_order_never_hold_more_than_the_plan_says(
    embedded: Client, made: dict[str, Any], window_nbytes: int
) -> None:
    items = list(made["dataset"])
    for report in check_run(made, embedded, items, window_nbytes=window_nbytes):
        assert report.peak_live_nbytes <= report.plan.peak_live_nbytes


@settings(max_examples=6, suppress_health_check=SHARED_CLUSTER)
@given(made=runs())
def test_two_processes_write_a_plain_stitching(two_processes: Client, made: dict[str, Any]) -> None:
    items = list(made["dataset"])
    for report in check_run(made, two_processes, items, window_nbytes=2000):
        assert report.peak_live_nbytes <= report.plan.peak_live_nbytes


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("executor", ["embedded", "two_processes"])
def test_little_in_flight_still_completes_within_the_plan(
    executor: str, batch_size: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    image = RNG.integers(0, 60_000, (14, 40, 44)).astype("uint16")
    dataset = dataset_of(image, "ZYX", tile_size=(3, 16, 16), overlaps=(1, 4, 5))
    client = request.getfixturevalue(executor)
    writer = tw.WriteTilesZarr(client, chunks=(2, 8, 8), compressors=None, window_nbytes=1)
    with small_units():
        [report] = write(writer, dataset, tmp_path, batch_size=batch_size)
    assert report.plan.unit_count > 20
    assert report.plan.peak_live_nbytes < report.plan.output_nbytes
    assert report.peak_live_nbytes <= report.plan.peak_live_nbytes
    np.testing.assert_array_equal(report.array[...], image)


@pytest.mark.parametrize("worker_count", [2, 3])
def test_images_that_come_interleaved_are_told_apart(
    worker_count: int, writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    images = [IMAGE, IMAGE[::-1], IMAGE[:20]]
    dataset = dataset_of(images)
    items = list(dataset)
    share = -(-len(items) // worker_count)
    shares = [items[start : start + share] for start in range(0, len(items), share)]
    mixed = [part[index] for index in range(share) for part in shares if index < len(part)]
    write(writer, dataset, tmp_path, items=mixed, batch_size=4)
    for number, image in enumerate(images):
        np.testing.assert_array_equal(open_output(tmp_path / "prediction.zarr" / str(number)), image)


def test_many_images_complete_in_one_batch(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    images = [RNG.random((9, 11)).astype("float32") for _ in range(12)]
    reports = write(writer, dataset_of(images), tmp_path, batch_size=100)
    assert len(reports) == 12
    for number, image in enumerate(images):
        np.testing.assert_array_equal(open_output(tmp_path / "prediction.zarr" / str(number)), image)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int16", "int32", "int64"])
def test_the_data_type_of_the_prediction_is_kept(dtype: str, writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    image = RNG.integers(0, 120, (20, 24)).astype(dtype)
    [report] = write(writer, dataset_of(image, dtype=dtype), tmp_path)
    assert report.array.dtype == dtype
    np.testing.assert_array_equal(report.array[...], image)


def test_labels_above_the_limit_of_float32_survive(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    labels = (2**24 + np.arange(40 * 48)).reshape(40, 48).astype("int32")
    [report] = write(writer, dataset_of(labels, dtype="int32"), tmp_path)
    np.testing.assert_array_equal(report.array[...], labels)


def test_bfloat16_becomes_float32_without_loss(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    image = torch.from_numpy(RNG.random((40, 48)).astype("float32")).bfloat16()
    dataset = dataset_of(image.float().numpy())
    [report] = write(writer, dataset, tmp_path, items=[(tile.bfloat16(), info) for tile, info in dataset])
    assert report.array.dtype == "float32"
    np.testing.assert_array_equal(report.array[...], image.float().numpy())


def test_a_tensor_that_knows_its_gradient_is_written(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = dataset_of()
    [report] = write(writer, dataset, tmp_path, items=[(tile.requires_grad_(), info) for tile, info in dataset])
    np.testing.assert_array_equal(report.array[...], IMAGE)


def test_not_a_number_passes_through_unchanged(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    image = IMAGE.astype("float32")
    image[3, 4], image[20, 30], image[39, 47] = np.nan, np.inf, -np.inf
    [report] = write(writer, dataset_of(image), tmp_path)
    assert report.array[...].tobytes() == image.tobytes()


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("axes", ["CYX", "YX", "YXC"])
def test_a_model_may_return_another_number_of_channels(
    axes: str, channels: int, writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    image = RNG.integers(0, 60_000, [{"C": 3, "Y": 21, "X": 26}[name] for name in axes]).astype("uint16")
    model = PositionModel(channels, "float32")
    [report] = write(writer, dataset_of(image, axes), tmp_path, model=model)
    assert report.plan.axes == ("CYX" if "C" in axes or channels > 1 else "YX")
    np.testing.assert_array_equal(report.array[...], stitched(image, axes, TILE, OVERLAP, model))


@pytest.mark.parametrize("axes", ["SYX", "TYX", "XTYS", "TCSYX"])
def test_samples_and_frames_are_axes_of_the_output(axes: str, writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    extents = {"S": 2, "T": 3, "C": 2, "Y": 21, "X": 26}
    image = RNG.integers(0, 60_000, [extents[name] for name in axes]).astype("uint16")
    [report] = write(writer, dataset_of(image, axes), tmp_path)
    assert report.plan.axes == "".join(name for name in "STCYX" if name in axes)
    np.testing.assert_array_equal(report.array[...], image.transpose([axes.index(name) for name in report.plan.axes]))


@pytest.mark.parametrize("shape", [(1, 1), (3, 48), (16, 16), (15, 17)])
def test_images_smaller_than_the_tile_lose_their_padding_again(
    shape: tuple[int, int], writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    model = PositionModel(1, "float32")
    [report] = write(writer, dataset_of(IMAGE[: shape[0], : shape[1]]), tmp_path, model=model)
    np.testing.assert_array_equal(
        report.array[...], stitched(IMAGE[: shape[0], : shape[1]], "YX", TILE, OVERLAP, model)
    )


@pytest.mark.parametrize("borders", [(8, 8), (12, 5)])
def test_tiles_with_borders_are_written_too(
    borders: tuple[int, int], writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    [report] = write(writer, dataset_of(borders=borders), tmp_path)
    np.testing.assert_array_equal(report.array[...], IMAGE)


def test_a_prediction_that_is_changed_after_it_was_handed_over_is_written_as_it_was(
    writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    # A model may use the memory of its output again, as CUDA graphs do.
    dataset = dataset_of(chunks=None) if False else dataset_of()
    tiles, infos = batch = tw.collate_tiles(list(dataset))
    output = tiles.numpy().copy()
    for start in range(len(infos)):
        output[0] = tiles[start]
        write_prediction(writer, dataset, tmp_path, (output[:1], infos[start : start + 1]), batch)
    [report] = writer.finalize()
    np.testing.assert_array_equal(report.array[...], IMAGE)


# --- What a prediction step may return.


@pytest.mark.parametrize("form", ["tuple", "list", "tensor", "array", "infos of other batch"])
def test_tile_information_comes_from_the_prediction_or_else_from_the_batch(
    form: str, writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    dataset = dataset_of()
    tiles, infos = tw.collate_tiles(list(dataset))
    prediction, batch = {
        "tuple": ((tiles, infos), (tiles, infos)),
        "list": ([tiles, tuple(infos)], None),
        "tensor": (tiles, (tiles, infos)),
        "array": (tiles.numpy(), [tiles, infos]),
        "infos of other batch": ((tiles, infos), (tiles, infos[::-1])),
    }[form]
    write_prediction(writer, dataset, tmp_path, prediction, batch)
    [report] = writer.finalize()
    np.testing.assert_array_equal(report.array[...], IMAGE)


def test_tile_information_of_another_class_is_taken_too(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = dataset_of()
    tiles, infos = tw.collate_tiles(list(dataset))
    foreign = [SimpleNamespace(**info._asdict()) for info in infos]
    write_prediction(writer, dataset, tmp_path, (tiles, foreign), None)
    np.testing.assert_array_equal(writer.finalize()[0].array[...], IMAGE)


def test_nowhere_any_tile_information_is_an_error_that_says_so(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    tiles, _ = tw.collate_tiles(list(dataset_of()))
    with pytest.raises(TypeError, match="neither the prediction nor the batch has tile information"):
        write_prediction(writer, dataset_of(), tmp_path, tiles, tiles)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("more", ["tiles", "infos"])
def test_more_of_one_than_of_the_other_is_an_error_with_both_numbers(
    more: str, writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    dataset = dataset_of()
    tiles, infos = tw.collate_tiles(list(dataset)[:3])
    prediction = (tiles, infos[:2]) if more == "tiles" else (tiles[:2], infos)
    with pytest.raises(ValueError, match=r"there are [23] predicted tiles, but tile information of [23]"):
        write_prediction(writer, dataset, tmp_path, prediction, None)
    assert tree(tmp_path) == {}


def test_several_tensors_for_one_batch_are_refused(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    tiles, infos = tw.collate_tiles(list(dataset_of()))
    with pytest.raises(TypeError, match="must be one tensor"):
        write_prediction(writer, dataset_of(), tmp_path, [tiles, tiles], (tiles, infos))


# --- Clusters.


def running_clusters() -> set[SpecCluster]:
    return {made for made in SpecCluster._instances if made.status is Status.running}


@pytest.mark.parametrize("ending", ["finalize", "incomplete", "abort", "error"])
def test_a_cluster_that_was_opened_is_closed_at_the_end(ending: str, tmp_path: Path) -> None:
    clusters, threads = running_clusters(), set(threading.enumerate())
    writer, dataset = tw.WriteTilesZarr(), dataset_of()
    items = list(dataset)
    hand_over(writer, dataset, tmp_path, items=items if ending == "finalize" else items[:3])
    assert len(running_clusters() - clusters) == 1
    if ending == "finalize":
        np.testing.assert_array_equal(writer.finalize()[0].array[...], IMAGE)
    elif ending == "incomplete":
        with pytest.raises(IncompleteImageError):
            writer.finalize()
    elif ending == "abort":
        writer.abort()
    else:
        with pytest.raises(ModelOutputError):
            hand_over(writer, dataset, tmp_path, model=lambda tiles: tiles[:, :, 1:])
    assert running_clusters() <= clusters
    for thread in set(threading.enumerate()) - threads:
        if not thread.name.startswith("Dask-Offload"):
            # That one is shared by all clusters of a process, and stays.
            thread.join(timeout=10)
            assert not thread.is_alive(), thread.name
    writer.abort()


def test_only_one_cluster_is_opened_for_all_images(tmp_path: Path) -> None:
    clusters = running_clusters()
    writer, dataset = tw.WriteTilesZarr(), dataset_of([IMAGE] * 4)
    hand_over(writer, dataset, tmp_path, items=list(dataset)[::2])
    assert len(running_clusters() - clusters) == 1
    hand_over(writer, dataset, tmp_path, items=list(dataset)[1::2])
    assert len(writer.finalize()) == 4


def test_the_current_client_is_used_and_left_open(embedded: Client, tmp_path: Path) -> None:
    clusters = running_clusters()
    writer, dataset = tw.WriteTilesZarr(), dataset_of()
    with embedded.as_current():
        hand_over(writer, dataset, tmp_path)
        assert running_clusters() == clusters
    writer.finalize()
    assert embedded.submit(sum, (1, 2), pure=False).result(timeout=20) == 3


@pytest.mark.parametrize("executor", ["embedded", "two_processes"])
def test_a_client_that_is_given_is_of_use_afterwards(
    executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = request.getfixturevalue(executor)
    clusters = running_clusters()
    writer, dataset = tw.WriteTilesZarr(client), dataset_of([IMAGE, IMAGE[::-1]])
    hand_over(writer, dataset, tmp_path)
    assert running_clusters() == clusters
    for report, image in zip(writer.finalize(), [IMAGE, IMAGE[::-1]], strict=True):
        np.testing.assert_array_equal(report.array[...], image)
    assert client.submit(sum, (1, 2), pure=False).result(timeout=20) == 3


def test_both_clusters_store_the_same_bytes(embedded: Client, two_processes: Client, tmp_path: Path) -> None:
    with small_units():
        for name, client in (("embedded", embedded), ("two_processes", two_processes)):
            writer = tw.WriteTilesZarr(client, chunks=(12, 10), shards=(24, 20))
            write(writer, dataset_of([IMAGE, IMAGE[::-1]]), tmp_path / name, model=PositionModel(2, "float32"))
    name = "prediction.zarr"
    assert tree(tmp_path / "embedded" / name) == tree(tmp_path / "two_processes" / name)


# --- Options.


def test_chunks_shards_and_data_type_are_those_that_are_asked_for(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    writer = make_writer(chunks=(6, 8), shards=(12, 16), dtype="uint16")
    [report] = write(writer, dataset_of(), tmp_path)
    assert (report.array.chunks, report.array.shards, report.array.dtype) == ((6, 8), (12, 16), np.dtype("uint16"))
    np.testing.assert_array_equal(report.array[...], IMAGE)


def test_one_number_per_spatial_axis_is_one_sample_and_all_channels(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    image = RNG.integers(0, 9, (2, 40, 48)).astype("uint8")
    [report] = write(make_writer(chunks=(6, 8)), dataset_of(image, "SYX"), tmp_path, model=PositionModel(3, "uint8"))
    assert report.array.chunks == (1, 3, 6, 8)


def test_zarr_2_is_written_and_read_by_tensorstore(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    blosc = numcodecs.Blosc("zstd", 1, numcodecs.Blosc.BITSHUFFLE)
    [report] = write(make_writer(zarr_format=2, compressors=blosc, chunks=(9, 9)), dataset_of(), tmp_path)
    assert report.array.metadata.zarr_format == 2
    place = tmp_path / "prediction.zarr" / "0"
    assert (place / ".zgroup").is_file()
    np.testing.assert_array_equal(read_by_tensorstore(place / "0", 2), IMAGE)
    np.testing.assert_array_equal(
        zarr.open_group(tmp_path / "prediction.zarr", mode="r", zarr_format=2)["0/0"][...], IMAGE
    )


def test_zarr_3_is_read_by_tensorstore(make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path) -> None:
    write(make_writer(chunks=(9, 9), shards=(18, 18)), dataset_of(), tmp_path)
    np.testing.assert_array_equal(read_by_tensorstore(tmp_path / "prediction.zarr" / "0" / "0", 3), IMAGE)


def test_compressors_are_those_that_are_asked_for(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    zeros = np.zeros((64, 64), "float32")
    [plain] = write(make_writer(compressors=None), dataset_of(zeros), tmp_path / "plain")
    [packed] = write(make_writer(compressors=zarr.codecs.ZstdCodec()), dataset_of(zeros), tmp_path / "packed")
    assert plain.array.compressors == ()
    assert packed.array.compressors == (zarr.codecs.ZstdCodec(),)
    assert packed.stored_nbytes < plain.stored_nbytes == zeros.nbytes


def test_the_fill_value_is_that_of_the_array(make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path) -> None:
    [report] = write(make_writer(fill_value=7), dataset_of(), tmp_path)
    assert report.array.fill_value == 7


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a broken limit": ({"window_nbytes": "2GB"}, ValueError, "window_nbytes must be .*'2GB'"),
    "no bytes in flight": ({"window_nbytes": 0}, ValueError, "window_nbytes must be at least 1, got 0"),
    "an unknown data type": ({"dtype": "float33"}, GeometryError, "unknown data type 'float33'"),
    "an unknown format": ({"zarr_format": 4}, ValueError, "zarr_format must be 2 or 3, got 4"),
    "shards in Zarr 2": ({"zarr_format": 2, "shards": (8, 8)}, GeometryError, "Zarr format 2 has no shards"),
    "unknown if_exists": ({"if_exists": "append"}, ValueError, "if_exists must be one of .*'append'"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_that_mean_nothing_are_refused_at_once(name: str) -> None:
    options, error, message = BAD_OPTIONS[name]
    with pytest.raises(error, match=message):
        tw.WriteTilesZarr(**options)


def test_chunks_that_do_not_fit_the_image_are_refused_before_anything_is_created(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    with pytest.raises(GeometryError, match="chunks must have one number for each output axis"):
        write(make_writer(chunks=(8,)), dataset_of(), tmp_path)
    assert tree(tmp_path) == {}


# --- Outputs that exist.


def test_an_output_that_exists_is_left_as_it_is(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    write(writer, dataset_of(), tmp_path)
    before = tree(tmp_path)
    with pytest.raises(DestinationExistsError, match=r"prediction\.zarr/0 exists .*if_exists='overwrite'"):
        write(writer, dataset_of(), tmp_path)
    assert tree(tmp_path) == before


def test_all_outputs_are_checked_before_the_first_one_is_created(
    writer: tw.WriteTilesZarr, make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    sources = [tiff(tmp_path / "raw" / "a.tif"), tiff(tmp_path / "raw" / "b.tif")]
    write(writer, dataset_of(sources[1:]), tmp_path / "out")
    with pytest.raises(DestinationExistsError, match=r"b\.zarr exists"):
        write(make_writer(), dataset_of(sources), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.zarr", "b.zarr.ledger"]


def test_overwriting_replaces_the_outputs_and_leaves_their_neighbours(
    writer: tw.WriteTilesZarr, make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    write(writer, dataset_of([IMAGE, IMAGE]), tmp_path)
    write(make_writer(if_exists="overwrite", chunks=(20, 20)), dataset_of(IMAGE[:21]), tmp_path)
    np.testing.assert_array_equal(open_output(tmp_path / "prediction.zarr" / "0"), IMAGE[:21])
    np.testing.assert_array_equal(open_output(tmp_path / "prediction.zarr" / "1"), IMAGE)


def test_one_strategy_writes_several_runs(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    for run in range(3):
        [report] = write(writer, dataset_of(IMAGE[run:]), tmp_path / str(run))
        np.testing.assert_array_equal(report.array[...], IMAGE[run:])


# --- Several data loaders.


def test_several_data_loaders_write_one_array_per_image(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    first = dataset_of([tiff(tmp_path / "raw" / "a.tif"), IMAGE[:20]])
    second = dataset_of([IMAGE[::-1], IMAGE[:, ::-1]], tile_size=(12, 20), overlaps=(3, 8))
    trainer = trainer_of(first, second)
    for loader, dataset in enumerate((first, second)):
        for batch_idx, item in enumerate(dataset):
            tiles, infos = batch = tw.collate_tiles([item])
            writer.write_batch(trainer, None, (tiles, infos), None, batch, batch_idx, loader, tmp_path / "out")
    assert len(writer.finalize()) == 4
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "a.zarr"), IMAGE)
    for name, image in {"1": IMAGE[:20], "2": IMAGE[::-1], "3": IMAGE[:, ::-1]}.items():
        np.testing.assert_array_equal(open_output(tmp_path / "out" / "prediction.zarr" / name), image)


def test_a_data_loader_of_which_nothing_came_is_incomplete(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    first, second = dataset_of(tiff(tmp_path / "a.tif")), dataset_of(tiff(tmp_path / "b.tif"))
    tiles, infos = batch = tw.collate_tiles(list(first))
    writer.write_batch(trainer_of(first, second), None, (tiles, infos), None, batch, 0, 0, tmp_path / "out")
    with pytest.raises(IncompleteImageError, match=r"b\.tif is missing: none of its tiles was predicted"):
        writer.finalize()
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "a.zarr"), IMAGE)


def test_two_data_loaders_of_one_source_are_refused(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    source = tiff(tmp_path / "a.tif")
    tiles, infos = batch = tw.collate_tiles(list(dataset_of(source)))
    with pytest.raises(DestinationError, match="is given twice, as number 0 and 1"):
        writer.write_batch(
            trainer_of(dataset_of(source), dataset_of(source)), None, tiles, None, (tiles, infos), 0, 0, tmp_path / "o"
        )
    assert batch[1] == infos
    assert not (tmp_path / "o").exists()


# --- The end.


def test_the_end_waits_until_all_is_written(embedded: Client, tmp_path: Path) -> None:
    with small_units():
        writer = tw.WriteTilesZarr(embedded, chunks=(4, 4), compressors=None)
        [report] = write(writer, dataset_of(), tmp_path, batch_size=100)
    files = [path for path in (tmp_path / "prediction.zarr" / "0" / "0" / "c").rglob("*") if path.is_file()]
    assert len(files) == report.object_count == report.plan.object_count == 120
    assert report.unit_count == report.plan.unit_count > 1


def test_the_report_counts_what_was_written(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    [report] = write(writer, dataset_of(), tmp_path)
    assert report.tile_count == report.plan.tile_count == len(list(dataset_of()))
    assert report.output_nbytes == report.stored_nbytes == IMAGE.size * 4
    assert report.array.store_path.store.root / report.array.path == tmp_path / "prediction.zarr" / "0" / "0"
    assert "all complete" in str(report)


def test_a_second_end_does_nothing_and_returns_the_same(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    reports = write(writer, dataset_of([IMAGE, IMAGE[:20]]), tmp_path)
    before = tree(tmp_path)
    assert writer.finalize() == reports
    assert len(reports) == 2
    assert tree(tmp_path) == before


def test_a_strategy_that_has_not_begun_travels_and_is_copied() -> None:
    strategy = tw.WriteTilesZarr(chunks=(8, 8))
    for other in (pickle.loads(pickle.dumps(strategy)), copy.deepcopy(strategy)):
        assert other.chunks == (8, 8)


def test_an_end_without_a_beginning_does_nothing() -> None:
    clusters = running_clusters()
    assert tw.WriteTilesZarr().finalize() == []
    assert running_clusters() == clusters


@pytest.mark.parametrize("executor", ["embedded", "two_processes"])
def test_an_incomplete_image_is_named_with_what_it_misses_and_where(
    executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    dataset = dataset_of([tiff(tmp_path / "whole.tif"), tiff(tmp_path / "torn.tif")])
    items = [
        (tile, info)
        for tile, info in dataset
        if not (info.sample_id == 1 and info.stitch_coords == ((35, 40), (14, 26)))
    ]
    assert len(items) == len(list(dataset)) - 1
    writer = tw.WriteTilesZarr(request.getfixturevalue(executor))
    with pytest.raises(IncompleteImageError) as caught:
        write(writer, dataset, tmp_path / "out", items=items)
    message = str(caught.value)
    assert "torn.tif misses 60 elements of 1 tiles of 16" in message
    assert "(Y 35:40, X 14:26)" in message
    assert str(tmp_path / "out" / "torn.zarr") in message
    assert "whole" not in message
    np.testing.assert_array_equal(open_output(tmp_path / "out" / "whole.zarr"), IMAGE)


def test_missing_tiles_are_counted_tile_by_tile_where_units_share_them(embedded: Client, tmp_path: Path) -> None:
    dataset = dataset_of()
    items = list(dataset)
    missing = [items.pop(5), items.pop(2)]
    writer = tw.WriteTilesZarr(embedded, chunks=(4, 4), compressors=None)
    with small_units():
        hand_over(writer, dataset, tmp_path, items=items)
    with pytest.raises(IncompleteImageError) as caught:
        writer.finalize()
    elements = sum(np.prod([stop - start for start, stop in info.stitch_coords]) for _, info in missing)
    assert f"misses {elements} elements of 2 tiles of 16" in str(caught.value)


def test_many_missing_tiles_are_counted_and_some_are_shown(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = dataset_of()
    with pytest.raises(IncompleteImageError, match=r"of 15 tiles of 16 .*\(Y .*\), \(Y .*\), \(Y .*\) and 12 more$"):
        write(writer, dataset, tmp_path, items=list(dataset)[:1])


def test_an_image_of_which_no_tile_came_is_named(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = dataset_of([tiff(tmp_path / "first.tif"), tiff(tmp_path / "second.tif")])
    items = [(tile, info) for tile, info in dataset if info.sample_id == 0]
    with pytest.raises(
        IncompleteImageError, match=r"second\.tif is missing: none of its tiles was predicted"
    ) as caught:
        write(writer, dataset, tmp_path / "out", items=items)
    assert "first.tif" not in str(caught.value)


def test_all_incomplete_images_are_named_at_once(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = dataset_of([tiff(tmp_path / f"{name}.tif") for name in "abc"])
    items = [(tile, info) for tile, info in dataset if not (info.last_tile and info.sample_id != 1)]
    with pytest.raises(IncompleteImageError, match=r"a\.tif misses .*; image .*c\.tif misses"):
        write(writer, dataset, tmp_path / "out", items=items)


def test_a_run_after_an_incomplete_one_is_a_new_one(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    writer, dataset = make_writer(if_exists="overwrite"), dataset_of()
    with pytest.raises(IncompleteImageError):
        write(writer, dataset, tmp_path, items=list(dataset)[:5])
    with pytest.raises(IncompleteImageError):
        # What the first run had is not what the second one has.
        write(writer, dataset, tmp_path, items=list(dataset)[5:])
    [report] = write(writer, dataset, tmp_path)
    np.testing.assert_array_equal(report.array[...], IMAGE)


# --- What is wrong is said, and costs nothing but this run.


def test_a_prediction_of_another_spatial_size_is_refused_by_both_sizes_before_anything_is_created(
    writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    with pytest.raises(ModelOutputError, match=r"spatial size \(16, 16\), .* has \(14, 16\)"):
        write(writer, dataset_of(), tmp_path, model=lambda tiles: tiles[:, :, 2:])
    assert tree(tmp_path) == {}


def test_a_prediction_without_channels_is_refused_before_anything_is_created(
    writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    with pytest.raises(ModelOutputError):
        write(writer, dataset_of(), tmp_path, model=lambda tiles: tiles[:, 0])
    assert tree(tmp_path) == {}


def test_a_single_number_for_a_batch_is_refused(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = dataset_of()
    batch = tw.collate_tiles(list(dataset)[:1])
    with pytest.raises((ModelOutputError, ValueError)):
        write_prediction(writer, dataset, tmp_path, torch.tensor(1.0), batch)


@pytest.mark.parametrize("dtype", [complex, str])
def test_what_is_no_number_is_refused_before_anything_is_created(
    dtype: type, writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    with pytest.raises(ModelOutputError, match="only numbers are stored"):
        write(writer, dataset_of(), tmp_path, model=lambda tiles: tiles.astype(dtype))
    assert tree(tmp_path) == {}


def test_what_exists_stays_where_the_first_prediction_is_wrong(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    writer = make_writer(if_exists="overwrite")
    write(writer, dataset_of(), tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ModelOutputError):
        write(writer, dataset_of(), tmp_path, model=lambda tiles: tiles[:, :, 2:])
    assert tree(tmp_path) == before


def test_another_number_of_channels_later_is_an_error_with_both_numbers(
    writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    dataset = dataset_of()
    hand_over(writer, dataset, tmp_path, items=list(dataset)[:3])
    with pytest.raises(ModelOutputError, match="has 2 channels, that of its first tile had 1"):
        hand_over(writer, dataset, tmp_path, items=list(dataset)[3:], model=PositionModel(2, "float32"))


def test_a_data_type_later_that_the_array_does_not_hold_is_refused(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = dataset_of()
    hand_over(writer, dataset, tmp_path, items=list(dataset)[:3])
    with pytest.raises(ModelOutputError, match=r"tile 3 .* is float64, but that of the first tile was float32.*dtype="):
        write(writer, dataset, tmp_path, items=list(dataset)[3:], model=lambda tiles: tiles.astype("float64"))


def test_a_narrower_data_type_later_is_held_exactly(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = dataset_of()
    hand_over(writer, dataset, tmp_path, items=list(dataset)[:3])
    [report] = write(writer, dataset, tmp_path, items=list(dataset)[3:], model=lambda tiles: tiles.astype("uint16"))
    assert (report.array.dtype, report.lost_count) == ("float32", 0)
    np.testing.assert_array_equal(report.array[...], IMAGE)


def test_what_a_chosen_data_type_cannot_hold_is_counted(embedded: Client, tmp_path: Path) -> None:
    dataset = dataset_of()
    [report] = write(tw.WriteTilesZarr(embedded, dtype="uint8"), dataset, tmp_path, model=lambda tiles: tiles - 1000)
    assert report.array.dtype == "uint8"
    values = IMAGE.astype(int) - 1000
    assert report.lost_count == np.count_nonzero((values < 0) | (values > 255)) > 0
    assert f"{report.lost_count:,} predicted elements do not fit uint8" in str(report)


FOREIGN: dict[str, dict[str, Any]] = {
    "another tile size": {"tile_size": (20, 16)},
    "another overlap": {"overlaps": (7, 4)},
    "borders": {"borders": (8, 8)},
    "another image": {"sources": IMAGE[:33]},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_tile_of_another_tiling_is_refused_with_both_places(
    name: str, writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    dataset = dataset_of()
    known = {info.stitch_coords for _, info in dataset}
    foreign = next(info for _, info in dataset_of(**FOREIGN[name]) if info.stitch_coords not in known)
    tile = torch.zeros(1, 1, 16, 16)
    with pytest.raises(TileMismatchError, match="predict with the tiles of this dataset") as caught:
        write_prediction(writer, dataset, tmp_path, (tile, [foreign]), None)
    assert str(foreign.stitch_coords) in str(caught.value)


def test_a_tile_of_three_spatial_axes_is_refused_for_an_image_of_two(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    volume = dataset_of(np.zeros((4, 40, 48)), "ZYX", tile_size=(4, 16, 16), overlaps=(0, 5, 4))
    tile = torch.zeros(1, 1, 16, 16)
    with pytest.raises(TileMismatchError):
        write_prediction(writer, dataset_of(), tmp_path, (tile, [next(iter(volume))[1]]), None)


@pytest.mark.parametrize("crop", [((1, 12), (0, 14)), ((8, 19), (0, 14))])
def test_a_tile_that_is_cropped_elsewhere_is_refused(
    crop: tuple[tuple[int, int], ...], writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    # The place is that of a tile, but what would be written there is not: shifted by some elements, or not there.
    dataset = dataset_of()
    tile, info = next(iter(dataset))
    assert info.stitch_coords == ((0, 13), (0, 14))
    crop = ((crop[0][0], crop[0][0] + 13), crop[1])
    foreign = tw.TileInformation(info.array_shape, False, crop, info.stitch_coords, 0)
    with pytest.raises(TileMismatchError):
        write_prediction(writer, dataset, tmp_path, (tile[None], [foreign]), None)


@pytest.mark.parametrize("sample_id", [2, 100])
def test_a_sample_that_no_image_has_is_refused(sample_id: int, writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    tile, info = next(iter(dataset_of()))
    foreign = info._replace(sample_id=sample_id)
    with pytest.raises(TileMismatchError, match=f"there is no sample {sample_id} in the dataset of 2 images"):
        write_prediction(writer, dataset_of([IMAGE, IMAGE]), tmp_path, (tile[None], [foreign]), None)


@pytest.mark.parametrize("prediction", ["tiles and infos", "tensor"])
def test_a_dataset_of_another_type_is_refused(prediction: str, writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    foreign = TensorDataset(torch.zeros(3, 1, 16, 16))
    tiles, infos = batch = tw.collate_tiles(list(dataset_of())[:3])
    given_, batch = ((tiles, infos), batch) if prediction == "tiles and infos" else (tiles, [tiles])
    with pytest.raises(TypeError, match=r"^Prediction dataset is not `IterableTiledPredDataset`\.$"):
        write_prediction(writer, foreign, tmp_path, given_, batch)
    assert tree(tmp_path) == {}


def test_one_dataset_of_another_type_among_several_is_refused(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    batch = tw.collate_tiles(list(dataset_of()))
    trainer = trainer_of(dataset_of(), TensorDataset(torch.zeros(3, 1, 16, 16)))
    with pytest.raises(TypeError, match="Prediction dataset is not `IterableTiledPredDataset`"):
        writer.write_batch(trainer, None, batch, None, batch, 0, 0, tmp_path)


ERRORS: dict[str, Callable[[Any], Any]] = {
    "another spatial size": lambda tiles: tiles[:, :, 2:],
    "another number of channels": PositionModel(2, "float32"),
    "too few tiles": lambda tiles: tiles[:-1],
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("executor", ["embedded", "two_processes", None])
def test_after_an_error_the_strategy_writes_a_new_run(
    name: str, executor: str | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    clusters = running_clusters()
    client = None if executor is None else request.getfixturevalue(executor)
    clusters |= running_clusters()
    writer, dataset = tw.WriteTilesZarr(client, if_exists="overwrite"), dataset_of([IMAGE, IMAGE[:20]])
    request.addfinalizer(writer.abort)
    items = list(dataset)
    hand_over(writer, dataset, tmp_path, items=items[:4])
    with pytest.raises((ModelOutputError, ValueError)):
        hand_over(writer, dataset, tmp_path, items=items[4:], model=ERRORS[name])
    # Nothing of the broken run is left: not its cluster, and not what it had.
    assert running_clusters() == clusters
    with pytest.raises(IncompleteImageError):
        write(writer, dataset, tmp_path, items=items[4:])
    reports = write(writer, dataset, tmp_path)
    for report, image in zip(reports, [IMAGE, IMAGE[:20]], strict=True):
        np.testing.assert_array_equal(report.array[...], image)


@pytest.mark.parametrize("executor", ["embedded", "two_processes"])
def test_an_output_that_cannot_be_written_is_an_error_that_names_the_file(
    executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    writer, dataset = tw.WriteTilesZarr(request.getfixturevalue(executor), chunks=(8, 8)), dataset_of()
    items = list(dataset)
    hand_over(writer, dataset, tmp_path, items=items[:1], batch_size=1)
    # From now on there is a file where the folder of the chunks must be.
    (tmp_path / "prediction.zarr" / "0" / "0" / "c").touch()
    with pytest.raises(OSError, match="could not write") as caught:
        write(writer, dataset, tmp_path, items=items[1:])
    assert str(tmp_path / "prediction.zarr" / "0" / "0" / "c") in str(caught.value.filename)


def test_a_cluster_that_cannot_be_opened_is_an_error_and_no_half_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> Any:
        raise OSError("no ports left")

    writer, dataset = tw.WriteTilesZarr(compressors=None), dataset_of()
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "LocalCluster", refused)
        patch.setattr(cluster, "open_embedded_cluster", refused)
        with pytest.raises(OSError, match="no ports left"):
            hand_over(writer, dataset, tmp_path)
    assert tree(tmp_path) == {}
    np.testing.assert_array_equal(write(writer, dataset, tmp_path)[0].array[...], IMAGE)


def test_the_ledgers_of_all_images_lie_where_they_were_asked_for(embedded: Client, tmp_path: Path) -> None:
    dataset = tw.IterableTiledPredDataset([IMAGE, IMAGE + 1], "YX", (32, 32), (8, 8))
    trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset, batch_size=1))
    for written in (True, False):
        writer = tw.WriteTilesZarr(embedded, ledger=tmp_path / "ledgers", if_exists="resume")
        writer.prepare(trainer, tmp_path / "out")
        for number, (tile, information) in enumerate(dataset):
            tiles = (np.asarray(tile)[np.newaxis], [information])
            writer.write_batch(trainer, None, tiles, None, None, number, 0, tmp_path / "out")
        assert all((report.unit_count > 0) == written for report in writer.finalize())
    assert not list((tmp_path / "out").rglob("*.ledger/*.ledger"))
    for image in ("0", "1"):
        ledger = tmp_path / "ledgers" / "prediction.zarr" / image
        assert tw.verify(tmp_path / "out" / "prediction.zarr" / image, ledger=ledger, progress=False).is_complete
