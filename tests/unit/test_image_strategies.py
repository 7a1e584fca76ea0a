"""What `CacheTiles` and `WriteImage` alone have: functions that write, the cache, and datasets of other libraries."""

import functools
import gc
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from distributed import Client, Future
from tests.conformance.strategy_cases import (
    CACHE,
    CLIENTS,
    IMAGE,
    OVERLAP,
    RNG,
    TILE,
    WHOLE,
    Item,
    Kind,
    give,
    hand_over,
    save,
    save_lazily,
    trainer_of,
    write,
)
from tests.support import tree

import tilewright as tw
from tilewright.errors import DestinationExistsError, IncompleteImageError


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client | None:
    """No cluster, one in this process, one of other processes."""
    return request.param and request.getfixturevalue(request.param)


def name_of_thread(*, file_path: Path, img: Any) -> None:
    file_path.write_text(threading.current_thread().name)


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


@pytest.mark.parametrize("kind", [CACHE, WHOLE], ids=["CacheTiles", "WriteImage"])
@pytest.mark.parametrize(("extension", "output"), [(".npy", "prediction_0.npy"), (".zarr", "prediction.zarr/0")])
def test_a_folder_of_others_is_not_replaced_by_an_image(
    extension: str, output: str, kind: Kind, tmp_path: Path
) -> None:
    (tmp_path / output).mkdir(parents=True)
    (tmp_path / output / "notes.txt").write_text("of others")
    with pytest.raises(DestinationExistsError, match=re.escape(output)):
        kind.make(extension=extension).prepare(trainer_of(kind.dataset()), tmp_path)
    assert tree(tmp_path) == {f"{output}/notes.txt": b"of others"}


# --- Tiles: what is written is a plain stitching of what was predicted.


def test_a_lazy_image_of_many_chunks_is_the_same(client: Client | None, tmp_path: Path) -> None:
    image, tile = RNG.random((3200, 3000)).astype("float32"), (512, 640)
    dataset = CACHE.dataset(image, tile_size=tile)
    for number, scheduler in enumerate(["synchronous", None]):
        folder = tmp_path / str(number)
        lazily = functools.partial(save_lazily, scheduler=scheduler, chunked=True)
        write(CACHE.make(client, write_func=lazily), dataset, folder, batch_size=9)
        np.testing.assert_array_equal(np.load(folder / "prediction_0.npy")[0], image)


def test_valid_regions_that_overlap_do_not_make_an_image_complete_too_early(
    client: Client | None, tmp_path: Path
) -> None:
    # Those of CAREamics do, for odd overlaps: its seams come twice.
    image = IMAGE[:10, :9]
    dataset = ForeignTiled([tmp_path / "a.tif"])
    rows = [(0, 6), (4, 8), (8, 10)]
    strategy = CACHE.make(client)
    for start, stop in rows:
        information = tw.TileInformation(
            (1, 10, 9), stop == 10, ((0, stop - start), (0, 9)), ((start, stop), (0, 9)), 0
        )
        give(strategy, dataset, tmp_path / "out", (image[np.newaxis, np.newaxis, start:stop], [information]), None)
    strategy.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy")[0], image)


# --- The cache, and when an image is written.


def test_the_cache_holds_the_tiles_of_images_that_are_not_covered(client: Client | None, tmp_path: Path) -> None:
    image = RNG.integers(0, 60_000, (2, 40, 48)).astype("uint16")
    dataset, strategy = CACHE.dataset([image, image[:, ::-1]], "CYX"), CACHE.make(client)
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
    assert len(CACHE.read(tmp_path)) == 2


def test_the_last_tile_may_come_first_and_is_told_in_the_cache(client: Client | None, tmp_path: Path) -> None:
    dataset, strategy = CACHE.dataset(), CACHE.make(client)
    items = list(dataset)[::-1]
    hand_over(strategy, dataset, tmp_path, items=items[:3])
    assert strategy.last_tiles == [True, False, False]
    hand_over(strategy, dataset, tmp_path, items=items[3:])
    assert strategy.last_tiles == []
    strategy.finalize()
    CACHE.check(tmp_path, {0: CACHE.expected(dataset, IMAGE)})


def test_tiles_in_three_dimensions_are_cached_with_all_their_axes(client: Client | None, tmp_path: Path) -> None:
    image = RNG.random((6, 20, 20)).astype("float32")
    dataset = CACHE.dataset(image, "ZYX", tile_size=(4, 16, 16), overlaps=(1, 4, 4))
    strategy = CACHE.make(client)
    hand_over(strategy, dataset, tmp_path, items=list(dataset)[:2])
    arrays = [tile.result(timeout=20) if isinstance(tile, Future) else tile for tile in strategy.tile_cache]
    assert [array.ndim for array in arrays] == [5, 5]
    assert all(array.shape[:2] == (1, 1) for array in arrays)
    # What it holds would stay on the cluster of all tests.
    strategy.abort()


def test_a_tile_that_comes_twice_is_held_once(client: Client | None, tmp_path: Path) -> None:
    dataset, strategy = CACHE.dataset(), CACHE.make(client)
    items = list(dataset)
    # Not the same values: the first of both counts.
    hand_over(strategy, dataset, tmp_path, items=items[:4])
    hand_over(strategy, dataset, tmp_path, items=[(tile + 1, information) for tile, information in items[:4]])
    assert len(strategy.tile_cache) == 4
    hand_over(strategy, dataset, tmp_path, items=items[4:])
    hand_over(strategy, dataset, tmp_path, items=items[:7])
    assert strategy.tile_cache == []
    strategy.finalize()
    CACHE.check(tmp_path, {0: CACHE.expected(dataset, IMAGE)})


def test_without_a_cluster_an_image_is_written_before_its_last_batch_returns(tmp_path: Path) -> None:
    dataset, strategy = CACHE.dataset([IMAGE, IMAGE[::-1]]), CACHE.make()
    items = list(dataset)
    hand_over(strategy, dataset, tmp_path, items=items[:15])
    assert CACHE.read(tmp_path) == {}
    hand_over(strategy, dataset, tmp_path, items=items[15:17])
    CACHE.check(tmp_path, {0: CACHE.expected(dataset, IMAGE)})
    assert len(strategy.tile_cache) == 1


def test_without_a_cluster_threads_of_dask_write(tmp_path: Path) -> None:
    write(CACHE.make(write_func=name_of_thread), CACHE.dataset(), tmp_path)
    assert (tmp_path / "prediction_0.npy").read_text() != threading.current_thread().name


def test_a_cluster_writes_while_prediction_goes_on(two_processes: Client, tmp_path: Path) -> None:
    dataset, strategy = CACHE.dataset([IMAGE, IMAGE[::-1]]), CACHE.make(two_processes, write_func=wait_for_go)
    hand_over(strategy, dataset, tmp_path)
    # All is handed over, and nothing is written yet.
    assert CACHE.read(tmp_path) == {}
    (go := tmp_path / "go").touch()
    strategy.finalize()
    go.unlink()
    CACHE.check(tmp_path, {0: CACHE.expected(dataset, IMAGE), 1: CACHE.expected(dataset, IMAGE[::-1])})


def wait_for_go(*, file_path: Path, img: Any) -> None:
    for _ in range(1000):
        if (file_path.parent / "go").exists():
            return save(file_path=file_path, img=img)
        threading.Event().wait(0.02)
    raise TimeoutError("the file that was waited for never came")


def test_nothing_stays_on_the_cluster_afterwards(two_processes: Client, tmp_path: Path) -> None:
    # The traceback of an error before this test may hold futures of its own.
    gc.collect()
    for name, ending in (("whole", "finalize"), ("torn", "finalize"), ("aborted", "abort")):
        dataset, strategy = CACHE.dataset([IMAGE, IMAGE[::-1]]), CACHE.make(two_processes)
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


# --- Datasets of other libraries.


class ForeignTiled:
    def __init__(self, data_files: Sequence[Path]) -> None:
        self.data_files = data_files


class ForeignUntiled(ForeignTiled):
    pass


tw.IterableTiledPredDataset.register(ForeignTiled)
tw.IterablePredDataset.register(ForeignUntiled)


def test_a_foreign_dataset_that_is_registered_needs_only_its_files(client: Client | None, tmp_path: Path) -> None:
    images = [IMAGE, IMAGE[::-1, :31], IMAGE[:12, :9]]
    dataset = ForeignTiled([tmp_path / "a.tif", str(tmp_path / "b.c.tif"), tmp_path / "d.tif"])
    items = []
    for number, image in enumerate(images):
        for tile, information in tw.extract_tiles(image[np.newaxis, np.newaxis], TILE, OVERLAP):
            items.append((tile.astype("float32"), information._replace(sample_id=number)))
    write(CACHE.make(client), dataset, tmp_path / "out", items=items, batch_size=4)
    whole = [image[np.newaxis].astype("float32") for image in images]
    CACHE.check(tmp_path / "out", dict(zip(["a", "b.c", "d"], whole, strict=True)))


# --- Whole samples.


def give_without_ids(strategy: Any, dataset: Any, folder: Path, samples: Sequence[np.ndarray], workers: int) -> None:
    for start in range(0, len(samples), 2):
        batch = torch.as_tensor(np.stack(samples[start : start + 2])[:, np.newaxis])
        strategy.write_batch(trainer_of(dataset, num_workers=workers), None, batch, None, batch, start // 2, 0, folder)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_without_numbers_are_taken_in_order_from_one_worker(
    num_workers: int, client: Client | None, tmp_path: Path
) -> None:
    images = [IMAGE[index : index + 20].astype("float32") for index in range(5)]
    dataset = ForeignUntiled([tmp_path / f"{name}.tif" for name in "ecabd"])
    strategy = WHOLE.make(client)
    for run in range(2):
        give_without_ids(strategy, dataset, tmp_path / str(run), images, num_workers)
        strategy.finalize()
        WHOLE.check(tmp_path / str(run), {name: image[np.newaxis] for name, image in zip("ecabd", images, strict=True)})


def test_samples_without_numbers_from_two_workers_are_a_type_error(tmp_path: Path) -> None:
    dataset = ForeignUntiled([tmp_path / "a.tif", tmp_path / "b.tif"])
    with pytest.raises(TypeError, match=r"2 data-loader workers .*num_workers=1"):
        give_without_ids(WHOLE.make(), dataset, tmp_path / "out", [IMAGE.astype("float32")] * 2, 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", [2, -2])
def test_a_prediction_of_another_spatial_size_is_written_as_it_is(
    step: int, client: Client | None, tmp_path: Path
) -> None:
    def resized(batch: np.ndarray) -> np.ndarray:
        return batch[..., ::2, ::2] if step < 0 else batch.repeat(2, -1).repeat(2, -2)

    stack = np.stack([IMAGE, IMAGE[::-1]])
    write(WHOLE.make(client), WHOLE.dataset(stack, "SYX"), tmp_path, model=resized)
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy")[:, 0], resized(stack))


def test_what_is_appended_to_the_caches_is_part_of_the_image(client: Client | None, tmp_path: Path) -> None:
    dataset = CACHE.dataset(IMAGE)
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
    strategy.tile_info_cache.append(next(iter(CACHE.dataset(IMAGE)))[1])
    with pytest.raises(IncompleteImageError, match="1 tiles were appended to tile_cache"):
        strategy.finalize()
    dataset = CACHE.dataset(IMAGE)
    strategy.tile_cache.append(np.zeros((1, 1, 8, 8)))
    with pytest.raises(ValueError, match="1 tiles were appended to tile_cache, but 0 to tile_info_cache"):
        give(strategy, dataset, tmp_path, *2 * (tw.collate_tiles(list(dataset)[:1]),))
    give(strategy, dataset, tmp_path, *2 * (tw.collate_tiles(list(dataset)[:2]),))
    strategy.tile_cache.pop()
    with pytest.raises(TypeError, match="may be appended to, and in no other way"):
        give(strategy, dataset, tmp_path, *2 * (tw.collate_tiles(list(dataset)[2:3]),))
