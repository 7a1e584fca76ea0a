"""Tiles or samples that are handed over in whatever order are written once per image, whole, or an error names it."""

import functools
import gc
import json
import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
import torch
import zarr
from distributed import Client, Future
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import PositionModel, note, noted, stitched, tree
from torch.utils.data import DataLoader, TensorDataset

import tilewright as tw
from tilewright.errors import (
    DestinationError,
    ImageWriteError,
    IncompleteImageError,
    ModelOutputError,
    TileMismatchError,
)
from tilewright.images.lazy_image import takes_lazy_image

RNG = np.random.default_rng(12)
IMAGE = RNG.integers(0, 60_000, (40, 48)).astype("uint16")
TILE, OVERLAP = (16, 16), (5, 4)
SHARED_CLUSTER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
Item = tuple[torch.Tensor, Any]
Model = Callable[[np.ndarray], Any]


# --- Functions that write. They reach other processes by the name of this module.


def save(*, file_path: Path, img: Any, **options: Any) -> None:
    """Write an image and the options, and note the call."""
    note(f"{file_path}.calls")
    assert isinstance(file_path, Path)
    assert type(img) is np.ndarray
    with file_path.open("wb") as file:
        np.save(file, img)
    if options:
        file_path.with_name(f"{file_path.name}.json").write_text(json.dumps(options, sort_keys=True))


@takes_lazy_image
def save_lazily(*, file_path: Path, img: Any, scheduler: str | None = "synchronous", calls: bool = True) -> None:
    """Compute an image, by that scheduler or by the one that is there, and write it."""
    if calls:
        note(f"{file_path}.calls")
    assert isinstance(img, dask.array.Array)
    if scheduler is None and multiprocessing.parent_process() is None:
        # A worker in this process would make its client that of all tests to come.
        scheduler = "synchronous"
    computed = img.compute() if scheduler is None else img.compute(scheduler=scheduler)
    assert computed.shape == img.shape
    assert computed.dtype == img.dtype
    with file_path.open("wb") as file:
        np.save(file, computed)


def save_eagerly_or_lazily(*, file_path: Path, img: Any) -> None:
    with file_path.open("wb") as file:
        np.save(file, np.asarray(img))


def fail_for_b(*, file_path: Path, img: Any) -> None:
    if file_path.stem == "b":
        raise ValueError("no ink left")
    save(file_path=file_path, img=img)


def name_of_thread(*, file_path: Path, img: Any) -> None:
    file_path.write_text(threading.current_thread().name)


WRITERS: dict[str, Any] = {
    "eager": save,
    "lazy, synchronous": save_lazily,
    "lazy, as it comes": functools.partial(save_lazily, scheduler=None),
    "lazy, through two partials": functools.partial(functools.partial(save_lazily, calls=True), scheduler="threads"),
}


def calls_of(path: Path) -> int:
    return noted(f"{path}.calls")


def images_in(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): np.load(path) for path in sorted(folder.rglob("*.npy"))}


# --- What stands in for a trainer: it has data loaders, and hands over one batch after the other.


def tiled(sources: Any = IMAGE, axes: str = "YX", **options: Any) -> tw.IterableTiledPredDataset:
    return tw.IterableTiledPredDataset(sources, axes, **{"tile_size": TILE, "overlaps": OVERLAP} | options)


def untiled(sources: Any = IMAGE, axes: str = "YX", **options: Any) -> tw.IterablePredDataset:
    return tw.IterablePredDataset(sources, axes, **options)


def trainer_of(*datasets: Any, num_workers: int = 0) -> SimpleNamespace:
    # Foreign datasets may be of any class, and nothing is asked of a loader but its dataset and its workers.
    loaders = [SimpleNamespace(dataset=dataset, num_workers=num_workers) for dataset in datasets]
    return SimpleNamespace(predict_dataloaders=loaders if len(loaders) > 1 else loaders[0])


def identity(batch: np.ndarray) -> np.ndarray:
    return batch


def hand_over(
    strategy: Any,
    dataset: Any,
    dirpath: Path | str,
    *,
    model: Model = identity,
    batch_size: int = 3,
    items: Sequence[Item] | None = None,
    trainer: Any = None,
    dataloader_idx: int = 0,
) -> None:
    """Predict and hand over what a dataset yields, or what is given."""
    items = list(dataset) if items is None else items
    for batch_idx, start in enumerate(range(0, len(items), batch_size)):
        inputs, where = zip(*items[start : start + batch_size], strict=True)
        inputs, where = torch.stack([torch.as_tensor(one) for one in inputs]), list(where)
        # What an untiled dataset yields is collated to a tensor of numbers.
        numbered = where if hasattr(where[0], "stitch_coords") else torch.tensor(where)
        strategy.write_batch(
            trainer=trainer or trainer_of(dataset),
            pl_module=None,
            prediction=(model(inputs.numpy()), where) if numbered is where else model(inputs.numpy()),
            batch_indices=None,
            batch=[inputs, numbered],
            batch_idx=batch_idx,
            dataloader_idx=dataloader_idx,
            dirpath=dirpath,
        )


def write(strategy: Any, dataset: Any, dirpath: Path | str, **options: Any) -> None:
    hand_over(strategy, dataset, dirpath, **options)
    strategy.finalize()


def give(strategy: Any, dataset: Any, dirpath: Path | str, prediction: Any, batch: Any, loader: int = 0) -> None:
    """Hand over one batch, all arguments by their place."""
    strategy.write_batch(trainer_of(dataset), None, prediction, None, batch, 0, loader, dirpath)


def whole(image: np.ndarray, axes: str, model: Model, dtype: str = "float32", tiles: Any = (TILE, OVERLAP)) -> Any:
    """Return C(Z)YX or SC(Z)YX of what must be written, by a stitching in plain NumPy."""
    extents = dict(zip(axes, image.shape, strict=True))
    samples = extents.get("S", 1) * extents.get("T", 1)
    spatial = [extents[name] for name in "ZYX" if name in extents]
    result = stitched(image.astype(dtype), axes, *tiles, model).reshape(samples, -1, *spatial)
    return result[0] if samples == 1 else result


def tiff(path: Path, image: np.ndarray = IMAGE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, photometric="minisblack")
    return path


CLIENTS = [None, "embedded", "two_processes"]


def client_of(name: str | None, request: pytest.FixtureRequest) -> Client | None:
    return None if name is None else request.getfixturevalue(name)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client | None:
    """No cluster, one in this process, one of other processes."""
    return client_of(request.param, request)


@pytest.fixture(params=["embedded", "two_processes"])
def cluster(request: pytest.FixtureRequest) -> Client:
    return request.getfixturevalue(request.param)


@pytest.fixture
def cache() -> Iterator[Callable[..., tw.CacheTiles]]:
    made: list[tw.CacheTiles] = []

    def make(write_func: Any = save, client: Client | None = None, **options: Any) -> tw.CacheTiles:
        made.append(tw.CacheTiles(write_func, ".npy", options.pop("kwargs", {}), client=client, **options))
        return made[-1]

    yield make
    for strategy in made:
        strategy.abort()


@pytest.fixture
def untiled_writer() -> Iterator[Callable[..., tw.WriteImage]]:
    made: list[tw.WriteImage] = []

    def make(write_func: Any = save, client: Client | None = None, **options: Any) -> tw.WriteImage:
        made.append(tw.WriteImage(write_func, ".npy", options.pop("kwargs", {}), client=client, **options))
        return made[-1]

    yield make
    for strategy in made:
        strategy.abort()


BOTH = pytest.mark.parametrize(("strategy_type", "dataset_of"), [(tw.CacheTiles, tiled), (tw.WriteImage, untiled)])


# --- What they are made of.


@pytest.mark.parametrize("strategy_type", [tw.CacheTiles, tw.WriteImage])
def test_what_a_strategy_is_made_of_can_be_read_from_it(strategy_type: Any) -> None:
    strategy = strategy_type(save, ".npy", {"level": 3})
    assert strategy.write_func is save
    assert strategy.write_extension == ".npy"
    assert strategy.write_func_kwargs == {"level": 3}
    assert isinstance(strategy, tw.WriteStrategy)
    by_keyword = strategy_type(write_func=save, write_extension=".npy", write_func_kwargs={}, client=None)
    assert by_keyword.write_func_kwargs == {}


def test_a_cache_is_empty_at_first() -> None:
    strategy = tw.CacheTiles(save, ".npy", {})
    assert (strategy.tile_cache, strategy.tile_info_cache, strategy.last_tiles) == ([], [], [])


BAD_ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "no function": (("tiff", ".tiff", {}), {}, TypeError, "write_func must be a function of .*'tiff'"),
    "an extension without dot": ((save, "tiff", {}), {}, ValueError, "write_extension must be .*'tiff'"),
    "an extension that is a dot": ((save, ".", {}), {}, ValueError, "write_extension must be"),
    "no extension": ((save, None, {}), {}, ValueError, "write_extension must be .*None"),
    "a broken limit": ((save, ".a", {}), {"memory_nbytes": "2GB"}, ValueError, "memory_nbytes .*'2GB'"),
    "no bytes in flight": ((save, ".a", {}), {"memory_nbytes": 0}, ValueError, "memory_nbytes .* got 0"),
    "an address": ((save, ".a", {}), {"client": "tcp://node:8786"}, TypeError, "client must be a distributed.Client"),
    "a client by place": ((save, ".a", {}, None), {}, TypeError, "positional"),
}


@pytest.mark.parametrize("strategy_type", [tw.CacheTiles, tw.WriteImage])
@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_arguments_that_mean_nothing_are_refused_at_once(name: str, strategy_type: Any) -> None:
    arguments, options, error, message = BAD_ARGUMENTS[name]
    with pytest.raises(error, match=message):
        strategy_type(*arguments, **options)


# --- Tiles: what is written is a plain stitching of what was predicted.


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """Some images of the same axes, tiles, a model, and a function that writes."""
    spatial = draw(st.sampled_from(["YX", "ZYX"]))
    axes = "".join(draw(st.permutations(draw(st.sampled_from(["", "S", "T", "C", "ST", "SC"])) + spatial)))
    longest = 20 if spatial == "YX" else 9
    channels = draw(st.integers(1, 3))
    images = []
    for number in range(draw(st.integers(1, 4))):
        shape = [channels if name == "C" else draw(st.integers(1, 2 if name in "ST" else longest)) for name in axes]
        images.append(np.random.default_rng(number).integers(0, 60_000, shape).astype("uint16"))
    tile_size = [draw(st.integers(1, 8)) for _ in spatial]
    overlaps = [draw(st.integers(0, tile - 1)) for tile in tile_size]
    return {
        "images": images,
        "axes": axes,
        "dataset": tw.IterableTiledPredDataset(images, axes, tile_size, overlaps),
        "model": PositionModel(draw(st.integers(1, 3)), draw(st.sampled_from(["float32", "uint8", "int32"]))),
        "batch_size": draw(st.integers(1, 9)),
        "write_func": WRITERS[draw(st.sampled_from(["eager", "lazy, synchronous"]))],
        "seed": draw(st.integers(0, 99)),
        "twice": draw(st.integers(0, 4)),
    }


def check_run(made: dict[str, Any], client: Client | None) -> None:
    dataset, model = made["dataset"], made["model"]
    items = list(dataset)
    rng = np.random.default_rng(made["seed"])
    # Half of the runs in order.
    order = [*range(len(items)), *rng.integers(0, len(items), made["twice"])]
    if made["seed"] % 2:
        order = list(rng.permutation(order))
    strategy = tw.CacheTiles(made["write_func"], ".npy", {}, client=client)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ordered = [items[index] for index in order]
        write(strategy, dataset, folder, model=model, batch_size=made["batch_size"], items=ordered)
        assert (strategy.tile_cache, strategy.tile_info_cache, strategy.last_tiles) == ([], [], [])
        written = images_in(folder)
        assert len(written) == len(made["images"])
        for number, image in enumerate(made["images"]):
            path = f"prediction_{number}.npy"
            expected = whole(image, made["axes"], model, tiles=(dataset.tile_size, dataset.overlaps))
            assert written[path].dtype == model.dtype
            np.testing.assert_array_equal(written[path], expected)
            assert calls_of(folder / path) == 1


@settings(max_examples=40, suppress_health_check=SHARED_CLUSTER)
@given(made=runs())
def test_tiles_in_any_order_and_twice_give_a_plain_stitching(made: dict[str, Any]) -> None:
    check_run(made, None)


@settings(max_examples=20, suppress_health_check=SHARED_CLUSTER)
@given(made=runs())
def test_a_cluster_here_gives_a_plain_stitching(embedded: Client, made: dict[str, Any]) -> None:
    check_run(made, embedded)


@settings(max_examples=10, suppress_health_check=SHARED_CLUSTER)
@given(made=runs())
def test_other_processes_give_a_plain_stitching(two_processes: Client, made: dict[str, Any]) -> None:
    check_run(made, two_processes)


@pytest.mark.parametrize("writer", WRITERS)
def test_an_image_that_is_lazy_is_the_same_as_one_that_is_not(
    writer: str, client: Client | None, cache: Any, tmp_path: Path
) -> None:
    image = RNG.integers(0, 60_000, (2, 40, 3, 48)).astype("uint16")
    model = PositionModel(2, "int32")
    dataset = tiled([image, image[..., ::-1]], "SYCX")
    write(cache(WRITERS[writer], client), dataset, tmp_path, model=model)
    for number, one in enumerate([image, image[..., ::-1]]):
        np.testing.assert_array_equal(
            np.load(tmp_path / f"prediction_{number}.npy"), whole(one, "SYCX", model), strict=True
        )
        assert calls_of(tmp_path / f"prediction_{number}.npy") == 1


def test_a_lazy_image_of_many_chunks_is_the_same(client: Client | None, cache: Any, tmp_path: Path) -> None:
    image, tile = RNG.random((3200, 3000)).astype("float32"), (512, 640)
    dataset = tiled(image, tile_size=tile)
    for number, scheduler in enumerate(["synchronous", None]):
        folder = tmp_path / str(number)
        write(cache(functools.partial(assert_many_chunks, scheduler=scheduler), client), dataset, folder, batch_size=9)
        np.testing.assert_array_equal(np.load(folder / "prediction_0.npy")[0], image)


@takes_lazy_image
def assert_many_chunks(*, file_path: Path, img: Any, scheduler: str | None) -> None:
    assert img.npartitions > 1
    save_lazily(file_path=file_path, img=img, scheduler=scheduler)


def test_the_keywords_reach_the_function_that_writes(client: Client | None, cache: Any, tmp_path: Path) -> None:
    write(cache(save, client, kwargs={"compression": "zlib", "level": [1, 2]}), tiled(), tmp_path)
    assert json.loads((tmp_path / "prediction_0.npy.json").read_text()) == {"compression": "zlib", "level": [1, 2]}


def test_all_arguments_may_come_by_their_place_and_the_folder_as_text(
    client: Client | None, cache: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset, strategy = tiled(), cache(save, client)
    tiles, infos = tw.collate_tiles(list(dataset))
    give(strategy, dataset, "some/folder", (tiles, infos), None)
    strategy.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "some" / "folder" / "prediction_0.npy")[0], IMAGE)


def test_many_images_complete_in_one_batch(client: Client | None, cache: Any, tmp_path: Path) -> None:
    images = [RNG.integers(0, 9, (20, 9 + number)).astype("uint8") for number in range(7)]
    write(cache(save, client), tiled(images), tmp_path, batch_size=1000)
    for number, image in enumerate(images):
        np.testing.assert_array_equal(np.load(tmp_path / f"prediction_{number}.npy")[0], image)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_images_of_one_tile_are_all_written(batch_size: int, client: Client | None, cache: Any, tmp_path: Path) -> None:
    images = [IMAGE[:16, number : number + 16] for number in range(5)]
    write(cache(save, client), tiled(images), tmp_path, batch_size=batch_size)
    assert sorted(images_in(tmp_path)) == [f"prediction_{number}.npy" for number in range(5)]
    for number, image in enumerate(images):
        np.testing.assert_array_equal(np.load(tmp_path / f"prediction_{number}.npy")[0], image)


@pytest.mark.parametrize("worker_count", [2, 3])
def test_tiles_of_several_images_may_come_interleaved(
    worker_count: int, client: Client | None, cache: Any, tmp_path: Path
) -> None:
    images = [IMAGE, IMAGE[::-1], IMAGE[:20]]
    dataset = tiled(images)
    items = list(dataset)
    share = -(-len(items) // worker_count)
    shares = [items[start : start + share] for start in range(0, len(items), share)]
    mixed = [part[index] for index in range(share) for part in shares if index < len(part)]
    write(cache(save, client), dataset, tmp_path, items=mixed, batch_size=4)
    for number, image in enumerate(images):
        np.testing.assert_array_equal(np.load(tmp_path / f"prediction_{number}.npy")[0], image)


@pytest.mark.parametrize("axes", ["SYX", "TYX", "XTYS", "TCSYX", "SZYX"])
def test_samples_and_frames_are_written_together(axes: str, client: Client | None, cache: Any, tmp_path: Path) -> None:
    extents = {"S": 2, "T": 3, "C": 2, "Z": 5, "Y": 21, "X": 26}
    image = RNG.integers(0, 60_000, [extents[name] for name in axes]).astype("uint16")
    tiles = (TILE, OVERLAP) if "Z" not in axes else ((3, *TILE), (1, *OVERLAP))
    model = PositionModel(3, "float32")
    dataset = tiled(image, axes, tile_size=tiles[0], overlaps=tiles[1])
    write(cache(save, client), dataset, tmp_path, model=model, batch_size=5)
    written = np.load(tmp_path / "prediction_0.npy")
    assert written.shape[1] == 3
    np.testing.assert_array_equal(written, whole(image, axes, model, tiles=tiles), strict=True)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_model_may_return_another_number_of_channels(
    channels: int, client: Client | None, cache: Any, tmp_path: Path
) -> None:
    image = RNG.integers(0, 60_000, (21, 26, 3)).astype("uint16")
    model = PositionModel(channels, "float32")
    write(cache(save, client), tiled(image, "YXC"), tmp_path, model=model)
    np.testing.assert_array_equal(
        np.load(tmp_path / "prediction_0.npy"), whole(image, "YXC", model).reshape(channels, 21, 26), strict=True
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 48), (16, 16), (15, 17)])
def test_images_smaller_than_the_tile_lose_their_padding_again(
    shape: tuple[int, int], client: Client | None, cache: Any, tmp_path: Path
) -> None:
    image, model = IMAGE[: shape[0], : shape[1]], PositionModel(1, "float32")
    write(cache(save, client), tiled(image), tmp_path, model=model)
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy"), whole(image, "YX", model), strict=True)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int16", "int32", "int64", "bool"])
def test_the_data_type_of_the_prediction_is_kept(dtype: str, cache: Any, tmp_path: Path) -> None:
    image = RNG.integers(0, 120, (20, 24)).astype("uint8")
    write(cache(), tiled(image), tmp_path, model=lambda batch: (batch % 2 if dtype == "bool" else batch).astype(dtype))
    expected = (image % 2 if dtype == "bool" else image).astype(dtype)
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy"), expected[np.newaxis], strict=True)


def test_labels_above_the_limit_of_float32_survive(client: Client | None, tmp_path: Path) -> None:
    labels = (2**24 + np.arange(40 * 48)).reshape(40, 48).astype("int32")
    strategy = tw.CacheTiles(tw.write_tiff, ".tif", client=client)
    write(strategy, tiled(labels, dtype="int32"), tmp_path)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "prediction_0.tif"), labels[np.newaxis], strict=True)


def test_tensors_of_half_precision_and_those_with_a_gradient_are_taken(cache: Any, tmp_path: Path) -> None:
    dataset, strategy = tiled(IMAGE // 256), cache()
    for item in dataset:
        tiles, infos = tw.collate_tiles([item])
        prediction = tiles.bfloat16().requires_grad_()
        give(strategy, dataset, tmp_path, prediction, (tiles, infos))
    strategy.finalize()
    np.testing.assert_array_equal(
        np.load(tmp_path / "prediction_0.npy"), (IMAGE // 256)[np.newaxis].astype("float32"), strict=True
    )


def test_a_prediction_that_is_changed_after_it_was_handed_over_is_written_as_it_was(
    client: Client | None, cache: Any, tmp_path: Path
) -> None:
    # A model may use the memory of its output again, as CUDA graphs do.
    dataset, strategy = tiled(), cache(save, client)
    tiles, infos = tw.collate_tiles(list(dataset))
    output = tiles[:2].clone()
    for start in range(0, len(infos), 2):
        output[...] = tiles[start : start + 2]
        give(strategy, dataset, tmp_path, (output, infos[start : start + 2]), None)
        output[...] = -1
    strategy.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy")[0], IMAGE)


@pytest.mark.parametrize("form", ["tuple", "list", "tensor", "array", "another class"])
def test_tile_information_comes_from_the_prediction_or_else_from_the_batch(
    form: str, client: Client | None, cache: Any, tmp_path: Path
) -> None:
    dataset, strategy = tiled(), cache(save, client)
    tiles, infos = tw.collate_tiles(list(dataset))
    prediction, batch = {
        "tuple": ((tiles, infos), (tiles, infos[::-1])),
        "list": ([tiles, tuple(infos)], None),
        "tensor": (tiles, (tiles, infos)),
        "array": (tiles.numpy(), [tiles, infos]),
        "another class": ((tiles, [SimpleNamespace(**information._asdict()) for information in infos]), None),
    }[form]
    give(strategy, dataset, tmp_path, prediction, batch)
    strategy.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy")[0], IMAGE)


def test_valid_regions_that_overlap_do_not_make_an_image_complete_too_early(
    client: Client | None, cache: Any, tmp_path: Path
) -> None:
    # Those of CAREamics do, for odd overlaps: its seams come twice.
    image = IMAGE[:10, :9]
    dataset = ForeignTiled([tmp_path / "a.tif"])
    rows = [(0, 6), (4, 8), (8, 10)]
    strategy = cache(save, client)
    for start, stop in rows:
        information = tw.TileInformation(
            (1, 10, 9), stop == 10, ((0, stop - start), (0, 9)), ((start, stop), (0, 9)), 0
        )
        give(strategy, dataset, tmp_path / "out", (image[np.newaxis, np.newaxis, start:stop], [information]), None)
    strategy.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy")[0], image)


# --- The cache, and when an image is written.


def test_the_cache_holds_the_tiles_of_images_that_are_not_covered(
    client: Client | None, cache: Any, tmp_path: Path
) -> None:
    image = RNG.integers(0, 60_000, (2, 40, 48)).astype("uint16")
    dataset, strategy = tiled([image, image[:, ::-1]], "CYX"), cache(save, client)
    items = list(dataset)
    per_image = len(items) // 2
    held: list[Item] = []
    for number, item in enumerate(items):
        hand_over(strategy, dataset, tmp_path, items=[item])
        held = [] if (number + 1) % per_image == 0 else [*held, item]
        assert len(strategy.tile_cache) == len(strategy.tile_info_cache) == len(held)
        assert isinstance(strategy.tile_cache, list)
        assert isinstance(strategy.tile_info_cache, list)
        assert strategy.last_tiles == [information.last_tile for _, information in held]
        if number not in (0, 3, per_image + 2):
            continue
        for cached, information, (tile, original) in zip(
            strategy.tile_cache, strategy.tile_info_cache, held, strict=True
        ):
            array = cached.result(timeout=20) if isinstance(cached, Future) else cached
            assert array.ndim == 4
            assert array.shape[:2] == (1, 2)
            assert isinstance(information, tw.TileInformation)
            assert (information.stitch_coords, information.sample_id) == (original.stitch_coords, original.sample_id)
            if client is None:
                assert information == original
                np.testing.assert_array_equal(array[0], tile)
            crops = [[slice(*part) for part in one.overlap_crop_coords] for one in (information, original)]
            np.testing.assert_array_equal(array[0][:, *crops[0]], tile[:, *crops[1]])
    strategy.finalize()
    assert len(images_in(tmp_path)) == 2


def test_the_last_tile_may_come_first_and_is_told_in_the_cache(
    client: Client | None, cache: Any, tmp_path: Path
) -> None:
    dataset, strategy = tiled(), cache(save, client)
    items = list(dataset)[::-1]
    hand_over(strategy, dataset, tmp_path, items=items[:3])
    assert strategy.last_tiles == [True, False, False]
    hand_over(strategy, dataset, tmp_path, items=items[3:])
    assert strategy.last_tiles == []
    strategy.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy")[0], IMAGE)


def test_tiles_in_three_dimensions_are_cached_with_all_their_axes(
    client: Client | None, cache: Any, tmp_path: Path
) -> None:
    image = RNG.random((6, 20, 20)).astype("float32")
    dataset = tiled(image, "ZYX", tile_size=(4, 16, 16), overlaps=(1, 4, 4))
    strategy = cache(save, client)
    hand_over(strategy, dataset, tmp_path, items=list(dataset)[:2])
    arrays = [tile.result(timeout=20) if isinstance(tile, Future) else tile for tile in strategy.tile_cache]
    assert [array.ndim for array in arrays] == [5, 5]
    assert all(array.shape[:2] == (1, 1) for array in arrays)


def test_a_tile_that_comes_twice_is_held_once(client: Client | None, cache: Any, tmp_path: Path) -> None:
    dataset, strategy = tiled(), cache(save, client)
    items = list(dataset)
    # Not the same values: the first of both counts.
    hand_over(strategy, dataset, tmp_path, items=items[:4])
    hand_over(strategy, dataset, tmp_path, items=[(tile + 1, information) for tile, information in items[:4]])
    assert len(strategy.tile_cache) == 4
    hand_over(strategy, dataset, tmp_path, items=items[4:])
    hand_over(strategy, dataset, tmp_path, items=items[:7])
    assert strategy.tile_cache == []
    strategy.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy")[0], IMAGE)
    assert calls_of(tmp_path / "prediction_0.npy") == 1


def test_a_duplicate_does_not_stand_for_a_tile_that_is_missing(
    client: Client | None, cache: Any, tmp_path: Path
) -> None:
    dataset, strategy = tiled(IMAGE[:16]), cache(save, client)
    items = list(dataset)
    hand_over(strategy, dataset, tmp_path, items=[*items[:-1], *items[:-1]])
    with pytest.raises(IncompleteImageError):
        strategy.finalize()
    assert images_in(tmp_path) == {}


def test_without_a_cluster_an_image_is_written_before_its_last_batch_returns(cache: Any, tmp_path: Path) -> None:
    dataset, strategy = tiled([IMAGE, IMAGE[::-1]]), cache()
    items = list(dataset)
    hand_over(strategy, dataset, tmp_path, items=items[:15])
    assert images_in(tmp_path) == {}
    hand_over(strategy, dataset, tmp_path, items=items[15:17])
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy")[0], IMAGE)
    assert len(strategy.tile_cache) == 1


def test_without_a_cluster_threads_of_dask_write(cache: Any, tmp_path: Path) -> None:
    write(cache(name_of_thread), tiled(), tmp_path)
    assert (tmp_path / "prediction_0.npy").read_text() != threading.current_thread().name


def test_a_cluster_writes_while_prediction_goes_on(two_processes: Client, cache: Any, tmp_path: Path) -> None:
    dataset, strategy = tiled([IMAGE, IMAGE[::-1]]), cache(wait_for_go, two_processes)
    hand_over(strategy, dataset, tmp_path)
    # All is handed over, and nothing is written yet.
    assert images_in(tmp_path) == {}
    (tmp_path / "go").touch()
    strategy.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy")[0], IMAGE)
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_1.npy")[0], IMAGE[::-1])


def wait_for_go(*, file_path: Path, img: Any) -> None:
    for _ in range(1000):
        if (file_path.parent / "go").exists():
            return save(file_path=file_path, img=img)
        threading.Event().wait(0.02)
    raise TimeoutError("nobody said go")


def test_nothing_stays_on_the_cluster_afterwards(two_processes: Client, cache: Any, tmp_path: Path) -> None:
    # The traceback of an error before this test may hold futures of its own.
    gc.collect()
    for name, ending in (("whole", "finalize"), ("torn", "finalize"), ("aborted", "abort")):
        dataset, strategy = tiled([IMAGE, IMAGE[::-1]]), cache(save, two_processes)
        items = list(dataset)
        hand_over(strategy, dataset, tmp_path / name, items=items if name == "whole" else items[:-3])
        try:
            getattr(strategy, ending)()
        except IncompleteImageError:
            assert name == "torn"
        for _ in range(500):
            left = two_processes.run_on_scheduler(keys_of_strategies)
            if not left:
                break
            threading.Event().wait(0.02)
        assert left == [], name


def keys_of_strategies(dask_scheduler: Any) -> list[str]:
    return [str(key) for key in dask_scheduler.tasks if str(key).startswith(("stitch-", "write-", "ndarray-"))]


# --- The end.


def test_an_image_that_is_incomplete_is_named_with_what_it_misses(
    client: Client | None, cache: Any, tmp_path: Path
) -> None:
    dataset = tiled([tiff(tmp_path / f"{name}.tif") for name in ("whole", "torn", "also")])
    items = [
        (tile, info)
        for tile, info in dataset
        if not (info.sample_id == 1 and info.stitch_coords == ((35, 40), (14, 26)))
    ]
    assert len(items) == len(list(dataset)) - 1
    strategy = cache(save, client)
    with pytest.raises(IncompleteImageError) as caught:
        write(strategy, dataset, tmp_path / "out", items=items)
    message = str(caught.value)
    assert "torn.tif misses 60 elements" in message
    assert "whole.tif" not in message
    assert "also.tif" not in message
    assert sorted(images_in(tmp_path / "out")) == ["also.npy", "whole.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "whole.npy")[0], IMAGE)


def test_all_incomplete_images_are_named_at_once_and_those_that_never_came(
    client: Client | None, cache: Any, tmp_path: Path
) -> None:
    dataset = tiled([tiff(tmp_path / f"{name}.tif") for name in "abcd"])
    items = [(tile, info) for tile, info in dataset if info.sample_id != 3 and not (info.last_tile and info.sample_id)]
    with pytest.raises(IncompleteImageError, match=r"b\.tif misses .*c\.tif misses .*d\.tif is missing") as caught:
        write(cache(save, client), dataset, tmp_path / "out", items=items)
    assert "a.tif" not in str(caught.value)
    assert sorted(images_in(tmp_path / "out")) == ["a.npy"]


def test_a_sample_that_never_came_makes_its_image_incomplete(client: Client | None, cache: Any, tmp_path: Path) -> None:
    dataset = tiled(np.stack([IMAGE, IMAGE[::-1]]), "SYX")
    items = [(tile, info) for tile, info in dataset if info.sample_id == 0]
    with pytest.raises(IncompleteImageError, match=f"misses {IMAGE.size} elements"):
        write(cache(save, client), dataset, tmp_path, items=items)
    assert images_in(tmp_path) == {}


@BOTH
def test_a_run_of_which_nothing_came_is_incomplete(strategy_type: Any, dataset_of: Any, tmp_path: Path) -> None:
    strategy = strategy_type(save, ".npy", {})
    strategy.prepare(trainer_of(dataset_of(tiff(tmp_path / "a.tif"))), tmp_path / "out")
    with pytest.raises(IncompleteImageError, match=r"a\.tif is missing"):
        strategy.finalize()


@BOTH
def test_a_second_end_does_nothing(strategy_type: Any, dataset_of: Any, client: Client | None, tmp_path: Path) -> None:
    strategy = strategy_type(save, ".npy", {}, client=client)
    strategy.finalize()
    write(strategy, dataset_of([IMAGE, IMAGE[::-1]]), tmp_path, batch_size=1)
    before = tree(tmp_path)
    assert len(images_in(tmp_path)) == 2
    strategy.finalize()
    strategy.abort()
    strategy.finalize()
    assert tree(tmp_path) == before


@BOTH
def test_a_second_end_after_an_incomplete_one_does_nothing(
    strategy_type: Any, dataset_of: Any, client: Client | None, tmp_path: Path
) -> None:
    dataset = dataset_of([IMAGE, IMAGE[::-1]])
    strategy = strategy_type(save, ".npy", {}, client=client)
    with pytest.raises(IncompleteImageError):
        write(strategy, dataset, tmp_path, items=list(dataset)[:-1], batch_size=1)
    strategy.finalize()


@BOTH
def test_a_strategy_writes_several_runs(
    strategy_type: Any, dataset_of: Any, client: Client | None, tmp_path: Path
) -> None:
    strategy = strategy_type(save, ".npy", {}, client=client)
    dataset = dataset_of(IMAGE)
    write(strategy, dataset, tmp_path / "whole", batch_size=1)
    strategy.prepare(trainer_of(dataset), tmp_path / "torn")
    with pytest.raises(IncompleteImageError):
        strategy.finalize()
    hand_over(strategy, dataset_of([IMAGE, IMAGE]), tmp_path / "aborted", items=list(dataset), batch_size=1)
    strategy.abort()
    write(strategy, dataset_of(IMAGE[::-1]), tmp_path / "again", batch_size=1)
    np.testing.assert_array_equal(np.load(tmp_path / "whole" / "prediction_0.npy")[0], IMAGE)
    np.testing.assert_array_equal(np.load(tmp_path / "again" / "prediction_0.npy")[0], IMAGE[::-1])


@BOTH
def test_an_output_that_exists_is_replaced(
    strategy_type: Any, dataset_of: Any, client: Client | None, tmp_path: Path
) -> None:
    for image in (IMAGE, IMAGE[::-1]):
        write(strategy_type(tw.write_tiff, ".tiff", {}, client=client), dataset_of(image), tmp_path, batch_size=1)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "prediction_0.tiff")[0], image)


# --- Images that cannot be written.


@BOTH
def test_an_image_that_cannot_be_written_is_named_and_the_others_are_on_disk(
    strategy_type: Any, dataset_of: Any, cluster: Client, tmp_path: Path
) -> None:
    dataset = dataset_of([tiff(tmp_path / f"{name}.tif") for name in "abcd"])
    strategy = strategy_type(fail_for_b, ".npy", {}, client=cluster)
    with pytest.raises(ImageWriteError) as caught:
        write(strategy, dataset, tmp_path / "out", batch_size=1)
    message = str(caught.value)
    assert str(tmp_path / "b.tif") in message
    assert str(tmp_path / "out" / "b.npy") in message
    assert "no ink left" in message
    assert isinstance(caught.value.__cause__, ValueError)
    assert not any(f"{name}.tif" in message for name in "acd")
    assert sorted(images_in(tmp_path / "out")) == ["a.npy", "c.npy", "d.npy"]


@BOTH
def test_without_a_cluster_the_batch_that_completes_it_raises(
    strategy_type: Any, dataset_of: Any, tmp_path: Path
) -> None:
    dataset = dataset_of([tiff(tmp_path / f"{name}.tif") for name in "abc"])
    strategy = strategy_type(fail_for_b, ".npy", {})
    with pytest.raises(ImageWriteError, match=r"b\.tif could not be written to .*b\.npy: ValueError: no ink left"):
        hand_over(strategy, dataset, tmp_path / "out", batch_size=1)
    assert sorted(images_in(tmp_path / "out")) == ["a.npy"]
    # It has let go of that run.
    strategy.finalize()


def test_failed_and_incomplete_images_are_named_together(cluster: Client, cache: Any, tmp_path: Path) -> None:
    dataset = tiled([tiff(tmp_path / f"{name}.tif") for name in "abc"])
    with pytest.raises(ImageWriteError, match=r"b\.tif could not be written to .*no ink left.*c\.tif misses"):
        write(cache(fail_for_b, cluster), dataset, tmp_path / "out", items=list(dataset)[:-1])
    assert sorted(images_in(tmp_path / "out")) == ["a.npy"]


# --- Names.


def test_names_keep_their_dots_and_arrays_are_numbered(client: Client | None, cache: Any, tmp_path: Path) -> None:
    sources = [tiff(tmp_path / "raw" / "cells.2024.tif"), IMAGE[::-1], tiff(tmp_path / "raw" / "a.b.tif", IMAGE[:21])]
    strategy = tw.CacheTiles(tw.write_tiff, ".tiff", {}, client=client)
    write(strategy, tiled(sources), tmp_path / "out")
    written = {path.name: tifffile.imread(path)[0] for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["a.b.tiff", "cells.2024.tiff", "prediction_1.tiff"]
    np.testing.assert_array_equal(written["a.b.tiff"], IMAGE[:21])
    np.testing.assert_array_equal(written["cells.2024.tiff"], IMAGE)
    np.testing.assert_array_equal(written["prediction_1.tiff"], IMAGE[::-1])


def test_sources_in_several_folders_keep_their_tree(client: Client | None, cache: Any, tmp_path: Path) -> None:
    sources = [tiff(tmp_path / "raw" / "a" / "x.tif"), tiff(tmp_path / "raw" / "b" / "c" / "x.tif", IMAGE[::-1])]
    write(cache(save, client), tiled(sources), tmp_path / "out")
    written = images_in(tmp_path / "out")
    assert sorted(written) == ["a/x.npy", "b/c/x.npy"]
    np.testing.assert_array_equal(written["b/c/x.npy"][0], IMAGE[::-1])


def test_four_files_of_one_sample_have_four_outputs(client: Client | None, cache: Any, tmp_path: Path) -> None:
    images = {name: IMAGE[index:] for index, name in enumerate("abcd")}
    write(cache(save, client), tiled([tiff(tmp_path / f"{n}.tif", one) for n, one in images.items()]), tmp_path / "o")
    for name, image in images.items():
        np.testing.assert_array_equal(np.load(tmp_path / "o" / f"{name}.npy")[0], image)


def stored(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    zarr.create_array(path, shape=IMAGE.shape, dtype=IMAGE.dtype, chunks=(16, 16))[...] = IMAGE
    return path


@BOTH
@pytest.mark.parametrize("kind", ["two names", "an array and a file", "the source", "a store around", "inside a store"])
def test_names_that_collide_are_an_error_before_anything_is_predicted(
    kind: str, strategy_type: Any, dataset_of: Any, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    sources, extension, folder, message = {
        "two names": (
            lambda: [tiff(raw / "x.tif"), tiff(raw / "x.tiff")],
            ".tiff",
            tmp_path / "out",
            r"x\.tif and .*x\.tiff would both be written to x\.tiff",
        ),
        "an array and a file": (
            lambda: [IMAGE, tiff(raw / "prediction_0.tif")],
            ".tiff",
            tmp_path / "out",
            r"would both be written to prediction_0\.tiff",
        ),
        "the source": (lambda: [tiff(raw / "x.tif"), IMAGE], ".tif", raw, r"x\.tif is the source"),
        # The output would replace raw/x.zarr, in which the source lies.
        "a store around": (lambda: [stored(raw / "x.zarr" / "0")], ".zarr", raw, r"x\.zarr"),
        "inside a store": (lambda: [stored(raw / "x.zarr")], ".tiff", raw / "x.zarr", r"x\.tiff"),
    }[kind]
    dataset = dataset_of(sources())
    before = tree(tmp_path)
    strategy = strategy_type(tw.write_zarr if extension == ".zarr" else tw.write_tiff, extension, {})
    with pytest.raises(DestinationError, match=message):
        strategy.prepare(trainer_of(dataset), folder)
    assert tree(tmp_path) == before
    # A trainer that asks nobody before finds out with its first batch.
    with pytest.raises(DestinationError, match=message):
        hand_over(strategy, dataset, folder, batch_size=1)
    assert tree(tmp_path) == before


# --- Data loaders and datasets.


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
@BOTH
def test_several_data_loaders_are_told_apart_by_their_number(
    strategy_type: Any, dataset_of: Any, kind: str, client: Client | None, tmp_path: Path
) -> None:
    datasets = [dataset_of([tiff(tmp_path / "a.tif"), IMAGE[:20]]), dataset_of([IMAGE[::-1], IMAGE[:, ::-1]])]
    loaders = [DataLoader(dataset) for dataset in datasets]
    named = {"list": loaders, "tuple": tuple(loaders), "dict": dict(zip("ab", loaders, strict=True))}[kind]
    trainer = SimpleNamespace(predict_dataloaders=named)
    strategy = strategy_type(save, ".npy", {}, client=client)
    # In turns, as some trainers do.
    shares = [list(dataset) for dataset in datasets]
    half = len(shares[0]) // 2
    for part in (slice(0, half), slice(half, None)):
        for number, dataset in enumerate(datasets):
            hand_over(
                strategy,
                dataset,
                tmp_path / "out",
                items=shares[number][part],
                trainer=trainer,
                dataloader_idx=number,
                batch_size=1,
            )
    strategy.finalize()
    written = images_in(tmp_path / "out")
    expected = {"a": IMAGE, "prediction_1": IMAGE[:20], "prediction_2": IMAGE[::-1], "prediction_3": IMAGE[:, ::-1]}
    assert sorted(written) == [f"{name}.npy" for name in expected]
    for name, image in expected.items():
        np.testing.assert_array_equal(written[f"{name}.npy"][0], image)


def test_any_other_dataset_is_a_type_error_of_these_words(tmp_path: Path) -> None:
    tiles, infos = batch = tw.collate_tiles(list(tiled()))
    for dataset in (untiled(), TensorDataset(tiles), None):
        with pytest.raises(TypeError) as caught:
            give(tw.CacheTiles(save, ".npy", {}), dataset, tmp_path, (tiles, infos), batch)
        assert str(caught.value) == "Prediction dataset is not `IterableTiledPredDataset`."
    for dataset in (tiled(), TensorDataset(tiles), None):
        with pytest.raises(TypeError) as caught:
            give(tw.WriteImage(save, ".npy", {}), dataset, tmp_path, tiles, batch)
        assert str(caught.value) == "Prediction dataset is not `IterablePredDataset`."
    assert tree(tmp_path) == {}


def test_one_dataset_of_several_that_is_another_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tiled(), untiled())
    with pytest.raises(TypeError, match="Prediction dataset is not `IterableTiledPredDataset`"):
        tw.CacheTiles(save, ".npy", {}).prepare(trainer, tmp_path)


class ForeignTiled:
    def __init__(self, data_files: Sequence[Path]) -> None:
        self.data_files = data_files


class ForeignUntiled(ForeignTiled):
    pass


class ForeignWithoutFiles:
    pass


tw.IterableTiledPredDataset.register(ForeignTiled)
tw.IterableTiledPredDataset.register(ForeignWithoutFiles)
tw.IterablePredDataset.register(ForeignUntiled)


def test_a_foreign_dataset_that_is_registered_needs_only_its_files(
    client: Client | None, cache: Any, tmp_path: Path
) -> None:
    images = [IMAGE, IMAGE[::-1, :31], IMAGE[:12, :9]]
    dataset = ForeignTiled([tmp_path / "a.tif", str(tmp_path / "b.c.tif"), tmp_path / "d.tif"])
    items = []
    for number, image in enumerate(images):
        for tile, information in tw.extract_tiles(image[np.newaxis, np.newaxis], TILE, OVERLAP):
            items.append((tile.astype("float32"), information._replace(sample_id=number)))
    write(cache(save, client), dataset, tmp_path / "out", items=items, batch_size=4)
    for name, image in zip(["a", "b.c", "d"], images, strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / "out" / f"{name}.npy")[0], image)


def test_a_foreign_dataset_without_files_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="ForeignWithoutFiles has neither `images` nor `data_files`"):
        tw.CacheTiles(save, ".npy", {}).prepare(trainer_of(ForeignWithoutFiles()), tmp_path)


# --- Predictions that do not fit.


def check_refused(dataset: Any, folder: Path, prediction: Any, message: str, client: Client | None) -> None:
    strategy = tw.CacheTiles(save, ".npy", {}, client=client)
    with pytest.raises(ModelOutputError, match=message):
        give(strategy, dataset, folder, prediction, tw.collate_tiles(list(dataset)))
    strategy.finalize()
    assert tree(folder) == {}


@pytest.mark.parametrize("kind", ["text", "objects", "complex", "three axes"])
def test_predictions_that_are_no_numbers_or_have_too_few_axes_are_refused(
    kind: str, client: Client | None, tmp_path: Path
) -> None:
    tiles, _ = tw.collate_tiles(list(tiled()))
    prediction = {
        "text": tiles.numpy().astype("U8"),
        "objects": tiles.numpy().astype(object),
        "complex": tiles.numpy().astype("complex64"),
        "three axes": tiles[:, 0],
    }[kind]
    message = r"and shape" if kind == "three axes" else "only numbers are stored"
    check_refused(tiled(), tmp_path, prediction, message, client)


@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_predictions_with_another_number_of_spatial_axes_are_refused(
    axes: str, client: Client | None, tmp_path: Path
) -> None:
    if axes == "YX":
        dataset = tiled()
        prediction = np.zeros((16, 1, 1, *TILE), "float32")
    else:
        dataset = tiled(IMAGE[np.newaxis], "ZYX", tile_size=(1, *TILE), overlaps=(0, *OVERLAP))
        prediction = np.zeros((16, 1, *TILE), "float32")
    check_refused(dataset, tmp_path, prediction, "axes|shape", client)


@pytest.mark.parametrize("extents", [(15, 16), (32, 32)])
def test_predictions_of_another_spatial_size_than_their_tiles_are_refused(
    extents: tuple[int, int], client: Client | None, tmp_path: Path
) -> None:
    check_refused(tiled(), tmp_path, np.zeros((16, 1, *extents), "float32"), "spatial size|extents", client)


@pytest.mark.parametrize("change", ["channels", "data type"])
def test_predictions_of_one_image_must_be_alike(change: str, client: Client | None, tmp_path: Path) -> None:
    dataset, strategy = tiled(tiff(tmp_path / "a.tif")), tw.CacheTiles(save, ".npy", {}, client=client)
    items = list(dataset)
    hand_over(strategy, dataset, tmp_path / "out", items=items[:3])
    other = PositionModel(2, "float32") if change == "channels" else PositionModel(1, "uint8")
    with pytest.raises(ModelOutputError, match=r"a\.tif"):
        hand_over(strategy, dataset, tmp_path / "out", items=items[3:6], model=other)
    assert strategy.tile_cache == []


def test_a_tile_of_no_image_is_refused(client: Client | None, cache: Any, tmp_path: Path) -> None:
    tiles, infos = tw.collate_tiles(list(tiled([IMAGE, IMAGE])))
    with pytest.raises(TileMismatchError, match="there is no sample 1"):
        give(cache(save, client), tiled(), tmp_path, (tiles, infos), None)


def test_nowhere_any_tile_information_is_an_error_that_says_so(cache: Any, tmp_path: Path) -> None:
    tiles, _ = tw.collate_tiles(list(tiled()))
    with pytest.raises(TypeError, match="neither the prediction nor the batch has tile information"):
        give(cache(), tiled(), tmp_path, tiles, tiles)


# --- Whole samples.


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_each_item_of_a_batch_goes_to_the_name_of_its_own_sample(
    batch_size: int, client: Client | None, untiled_writer: Any, tmp_path: Path
) -> None:
    images = {name: RNG.integers(0, 60_000, (20, 24)).astype("uint16") for name in "dbca"}
    dataset = untiled([tiff(tmp_path / f"{name}.tif", image) for name, image in images.items()])
    write(untiled_writer(save, client, kwargs={"level": 1}), dataset, tmp_path / "out", batch_size=batch_size)
    for name, image in images.items():
        path = tmp_path / "out" / f"{name}.npy"
        np.testing.assert_array_equal(np.load(path), image[np.newaxis].astype("float32"), strict=True)
        assert calls_of(path) == 1
        assert json.loads(path.with_name(f"{name}.npy.json").read_text()) == {"level": 1}


@pytest.mark.parametrize("writer", WRITERS)
def test_samples_in_any_order_are_written_under_their_names(
    writer: str, client: Client | None, untiled_writer: Any, tmp_path: Path
) -> None:
    image = RNG.integers(0, 60_000, (2, 3, 20, 24)).astype("uint16")
    dataset = untiled([image, image[::-1]], "STYX")
    items = [list(dataset)[index] for index in (7, 0, 11, 3, 3, 5, 1, 2, 9, 4, 6, 8, 10, 0)]
    model = PositionModel(2, "int32")
    write(untiled_writer(WRITERS[writer], client), dataset, tmp_path, items=items, model=model, batch_size=4)
    for number, one in enumerate([image, image[::-1]]):
        written = np.load(tmp_path / f"prediction_{number}.npy")
        np.testing.assert_array_equal(written, model(one.reshape(6, 1, 20, 24).astype("float32")), strict=True)
        assert calls_of(tmp_path / f"prediction_{number}.npy") == 1


@pytest.mark.parametrize("form", ["tensor", "list", "tuple", "array", "labels from the model"])
def test_sample_numbers_come_from_the_batch(
    form: str, client: Client | None, untiled_writer: Any, tmp_path: Path
) -> None:
    dataset, strategy = untiled([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]]), untiled_writer(save, client)
    samples = torch.stack([sample for sample, _ in dataset])[[2, 0, 1]]
    ids = [2, 0, 1]
    prediction, batch = {
        "tensor": (samples, [samples, torch.tensor(ids)]),
        "list": (samples, (samples, ids)),
        "tuple": (samples.numpy(), (samples, tuple(ids))),
        "array": (samples, (samples, np.array(ids))),
        # Which look like numbers of samples, and are none.
        "labels from the model": ([samples, torch.tensor([0, 1, 2])], [samples, ids]),
    }[form]
    give(strategy, dataset, tmp_path, prediction, batch)
    strategy.finalize()
    for number, image in enumerate([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]]):
        np.testing.assert_array_equal(np.load(tmp_path / f"prediction_{number}.npy")[0], image)


def give_without_ids(strategy: Any, dataset: Any, folder: Path, samples: Sequence[np.ndarray], workers: int) -> None:
    for start in range(0, len(samples), 2):
        batch = torch.as_tensor(np.stack(samples[start : start + 2])[:, np.newaxis])
        strategy.write_batch(trainer_of(dataset, num_workers=workers), None, batch, None, batch, start // 2, 0, folder)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_without_numbers_are_taken_in_order_from_one_worker(
    num_workers: int, client: Client | None, untiled_writer: Any, tmp_path: Path
) -> None:
    images = [IMAGE[index : index + 20].astype("float32") for index in range(5)]
    dataset = ForeignUntiled([tmp_path / f"{name}.tif" for name in "ecabd"])
    strategy = untiled_writer(save, client)
    for run in range(2):
        give_without_ids(strategy, dataset, tmp_path / str(run), images, num_workers)
        strategy.finalize()
        for name, image in zip("ecabd", images, strict=True):
            np.testing.assert_array_equal(np.load(tmp_path / str(run) / f"{name}.npy")[0], image)


def test_samples_without_numbers_from_two_workers_are_a_type_error(untiled_writer: Any, tmp_path: Path) -> None:
    dataset = ForeignUntiled([tmp_path / "a.tif", tmp_path / "b.tif"])
    with pytest.raises(TypeError, match=r"2 data-loader workers .*num_workers=1"):
        give_without_ids(untiled_writer(), dataset, tmp_path / "out", [IMAGE.astype("float32")] * 2, 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", [2, -2])
def test_a_prediction_of_another_spatial_size_is_written_as_it_is(
    step: int, client: Client | None, untiled_writer: Any, tmp_path: Path
) -> None:
    def resized(batch: np.ndarray) -> np.ndarray:
        return batch[..., ::2, ::2] if step < 0 else batch.repeat(2, -1).repeat(2, -2)

    stack = np.stack([IMAGE, IMAGE[::-1]])
    write(untiled_writer(save, client), untiled(stack, "SYX"), tmp_path, model=resized)
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy")[:, 0], resized(stack))


def test_volumes_and_channels_are_written_whole(client: Client | None, untiled_writer: Any, tmp_path: Path) -> None:
    image = RNG.integers(0, 60_000, (4, 2, 9, 10)).astype("uint16")
    write(untiled_writer(save, client), untiled(image, "ZCYX"), tmp_path)
    np.testing.assert_array_equal(
        np.load(tmp_path / "prediction_0.npy"), image.transpose(1, 0, 2, 3).astype("float32"), strict=True
    )


def test_whole_images_as_tiff_and_as_zarr(client: Client | None, tmp_path: Path) -> None:
    stack = np.stack([IMAGE, IMAGE[::-1]])
    for function, extension in ((tw.write_tiff, ".tiff"), (tw.write_zarr, ".zarr")):
        strategy = tw.WriteImage(function, extension, {}, client=client)
        write(strategy, untiled([tiff(tmp_path / "a.b.tif", stack), stack[::-1]], "SYX"), tmp_path / "out")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.b.tiff")[:, 0], stack)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "prediction_1.tiff")[:, 0], stack[::-1])
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "out" / "a.b.zarr", mode="r")["0"][:, 0], stack)
    np.testing.assert_array_equal(
        zarr.open_group(tmp_path / "out" / "prediction.zarr", mode="r")["1/0"][:, 0], stack[::-1]
    )


def test_a_whole_prediction_may_be_changed_after_it_was_handed_over(
    client: Client | None, untiled_writer: Any, tmp_path: Path
) -> None:
    stack = np.stack([IMAGE, IMAGE[::-1], IMAGE // 2]).astype("float32")
    dataset, strategy = untiled(stack, "SYX"), untiled_writer(save, client)
    output = torch.empty(1, 1, *IMAGE.shape)
    for number, image in enumerate(stack):
        output[...] = torch.as_tensor(image)
        give(strategy, dataset, tmp_path, output, [output, torch.tensor([number])])
        output[...] = -1
    strategy.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy")[:, 0], stack)


def test_a_sample_that_is_missing_makes_its_image_incomplete(
    client: Client | None, untiled_writer: Any, tmp_path: Path
) -> None:
    stack = np.stack([IMAGE, IMAGE[::-1]])
    dataset = untiled([tiff(tmp_path / f"{name}.tif", stack) for name in "abc"], "SYX")
    items = [list(dataset)[index] for index in (0, 1, 2)]
    with pytest.raises(
        IncompleteImageError, match=rf"b\.tif misses {IMAGE.size} elements.*c\.tif is missing"
    ) as caught:
        write(untiled_writer(save, client), dataset, tmp_path / "out", items=items)
    assert "a.tif" not in str(caught.value)
    assert sorted(images_in(tmp_path / "out")) == ["a.npy"]


@pytest.mark.parametrize("kind", ["text", "complex", "three axes", "six axes"])
def test_whole_predictions_that_are_no_numbers_or_have_other_axes_are_refused(
    kind: str, untiled_writer: Any, tmp_path: Path
) -> None:
    samples = np.zeros((1, 1, 40, 48), "float32")
    prediction = {
        "text": samples.astype("U8"),
        "complex": samples.astype("complex64"),
        "three axes": samples[0],
        "six axes": samples[np.newaxis, np.newaxis],
    }[kind]
    message = "one tensor of numbers" if kind in ("text", "complex") else r"must be \(batch, channel, \(Z\), Y, X\)"
    with pytest.raises(ModelOutputError, match=message):
        give(untiled_writer(), untiled(), tmp_path, prediction, [samples, torch.tensor([0])])
    assert tree(tmp_path) == {}


def test_a_channel_is_not_taken_for_a_sample_where_there_are_no_batches(untiled_writer: Any, tmp_path: Path) -> None:
    # As from a data loader with batch_size=None.
    volumes = RNG.random((2, 3, 4, 20, 24)).astype("float32")
    dataset, strategy = untiled(list(volumes), "CZYX"), untiled_writer()
    sample, number = next(iter(dataset))
    with pytest.raises(ModelOutputError, match=r"with 5 axes, got the shape .*must make batches"):
        give(strategy, dataset, tmp_path, sample, (sample, number))
    assert tree(tmp_path) == {}


def test_more_predictions_than_numbers_are_refused(untiled_writer: Any, tmp_path: Path) -> None:
    samples = np.zeros((2, 1, 40, 48), "float32")
    with pytest.raises(ModelOutputError, match="2 predictions, but 1 sample_ids"):
        give(untiled_writer(), untiled([IMAGE, IMAGE]), tmp_path, samples, [samples, torch.tensor([0])])


def test_samples_of_one_image_must_be_alike(untiled_writer: Any, tmp_path: Path) -> None:
    dataset, strategy = untiled(np.stack([IMAGE, IMAGE]), "SYX"), untiled_writer()
    items = list(dataset)
    hand_over(strategy, dataset, tmp_path, items=items[:1])
    with pytest.raises(ModelOutputError, match="must be alike"):
        hand_over(strategy, dataset, tmp_path, items=items[1:], model=lambda batch: batch[..., 1:])


def test_what_is_appended_to_the_caches_is_part_of_the_image(client: Client | None, tmp_path: Path) -> None:
    dataset = tiled(IMAGE)
    strategy = tw.CacheTiles(tw.write_tiff, ".tif", client=client)
    items = list(dataset)
    give(strategy, dataset, tmp_path, *2 * (tw.collate_tiles(items[:1]),))
    for tile, information in items[1:3]:
        strategy.tile_cache.append(tile.numpy()[np.newaxis])
        strategy.tile_info_cache.append(information)
    assert len(strategy.tile_cache) == len(strategy.tile_info_cache) == 3
    for item in items[3:]:
        give(strategy, dataset, tmp_path, *2 * (tw.collate_tiles([item]),))
    strategy.finalize()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "prediction_0.tif"), IMAGE[np.newaxis].astype("float32"))


def test_caches_take_nothing_that_would_be_lost(tmp_path: Path) -> None:
    strategy = tw.CacheTiles(tw.write_tiff, ".tif")
    strategy.tile_cache.append(np.zeros((1, 1, 8, 8)))
    strategy.tile_info_cache.append(next(iter(tiled(IMAGE)))[1])
    with pytest.raises(IncompleteImageError, match="1 tiles were appended to tile_cache"):
        strategy.finalize()
    dataset = tiled(IMAGE)
    strategy.tile_cache.append(np.zeros((1, 1, 8, 8)))
    with pytest.raises(ValueError, match="1 tiles were appended to tile_cache, but 0 to tile_info_cache"):
        give(strategy, dataset, tmp_path, *2 * (tw.collate_tiles(list(dataset)[:1]),))
    give(strategy, dataset, tmp_path, *2 * (tw.collate_tiles(list(dataset)[:2]),))
    strategy.tile_cache.pop()
    with pytest.raises(TypeError, match="may be appended to, and in no other way"):
        give(strategy, dataset, tmp_path, *2 * (tw.collate_tiles(list(dataset)[2:3]),))
