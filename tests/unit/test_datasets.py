"""The tiled dataset cuts every tile once, whatever the number of workers, and reads no more than each tile needs."""

import pickle
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import compact_windows, reflected
from torch.utils.data import DataLoader

import tilewright as tw
from tilewright.errors import GeometryError, SourceError

RNG = np.random.default_rng(11)
IMAGE = RNG.integers(0, 60_000, (35, 40)).astype("uint16")
# Machines with few processors get the advice of torch.
MANY_WORKERS = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")


class Recording:
    """An array that is read lazily, and remembers what was read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.windows: list[tuple[tuple[int, int], ...]] = []

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        self.windows.append(tuple((part.start, part.stop) for part in slices))
        return self.array[slices]


def tiff(path: Path, image: np.ndarray = IMAGE, **options: Any) -> Path:
    tifffile.imwrite(path, image, photometric="minisblack", **options)
    return path


def stored(path: Path, image: np.ndarray = IMAGE) -> Path:
    zarr.create_array(path, shape=image.shape, dtype=image.dtype, chunks=(8,) * image.ndim)[...] = image
    return path


def tiles_of(dataset: tw.IterableTiledPredDataset) -> list[tuple[np.ndarray, tw.TileInformation]]:
    return [(tile.numpy(), information) for tile, information in dataset]


def pasted(
    dataset: tw.IterableTiledPredDataset, shape: tuple[int, ...], sample_count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Paste the valid region of every tile; also return how often each element was pasted."""
    image = np.zeros((sample_count, *shape), dataset.dtype)
    counts = np.zeros((sample_count, *shape), int)
    for tile, information in tiles_of(dataset):
        crop = [slice(*part) for part in information.overlap_crop_coords]
        place = [slice(*part) for part in information.stitch_coords]
        image[information.sample_id, :, *place] = tile[:, *crop]
        counts[information.sample_id, :, *place] += 1
    return image, counts


# --- Where tiles lie.


def test_tiles_have_the_coordinates_of_careamics() -> None:
    image = np.zeros((35, 32), "float32")
    _, (first, second) = zip(*tw.IterableTiledPredDataset(image, "YX", (32, 32), (24, 24)), strict=True)
    assert first == tw.TileInformation((1, 35, 32), False, ((0, 20), (0, 32)), ((0, 20), (0, 32)), 0)
    assert second == tw.TileInformation((1, 35, 32), True, ((17, 32), (0, 32)), ((20, 35), (0, 32)), 0)


@settings(max_examples=60)
@given(st.data())
def test_tiles_are_cut_as_the_specification_says(data: st.DataObject) -> None:
    spatial = data.draw(st.sampled_from(["YX", "ZYX"]))
    extents = [data.draw(st.integers(1, 14)) for _ in spatial]
    tile_size = [data.draw(st.integers(1, 9)) for _ in spatial]
    overlaps = [data.draw(st.integers(0, tile - 1)) for tile in tile_size]
    image = np.random.default_rng(1).integers(0, 255, extents).astype("uint8")
    windows = [compact_windows(*numbers) for numbers in zip(extents, tile_size, overlaps, strict=True)]
    cut = tiles_of(tw.IterableTiledPredDataset(image, spatial, tile_size, overlaps, dtype="uint8"))
    assert len(cut) == prod(map(len, windows))
    for (tile, information), position in zip(cut, np.ndindex(*map(len, windows)), strict=True):
        seen = image
        for axis, index in enumerate(position):
            start, valid_start, valid_stop = windows[axis][index]
            before = max(0, tile_size[axis] - extents[axis]) // 2
            first = start - before
            seen = np.take(seen, reflected(first, first + tile_size[axis], extents[axis]), axis=axis)
            assert information.stitch_coords[axis] == (valid_start, valid_stop)
            assert information.overlap_crop_coords[axis] == (valid_start - first, valid_stop - first)
        np.testing.assert_array_equal(tile[0], seen)
        assert information.array_shape == (1, *extents)


@pytest.mark.parametrize("borders", [None, (8, 6), (1, 5), (40, 40)])
def test_valid_regions_cover_every_element_once_and_hold_the_source(borders: tuple[int, int] | None) -> None:
    dataset = tw.IterableTiledPredDataset(IMAGE, "YX", (16, 13), (5, 4), borders=borders)
    image, counts = pasted(dataset, (1, 35, 40), 1)
    assert (counts == 1).all()
    np.testing.assert_array_equal(image[0, 0], IMAGE)


def test_valid_regions_end_on_borders_that_are_given() -> None:
    dataset = tw.IterableTiledPredDataset(IMAGE, "YX", (16, 16), (4, 4), borders=(6, 4))
    for _, information in dataset:
        for (_, stop), border, extent in zip(information.stitch_coords, (6, 4), IMAGE.shape, strict=True):
            assert stop % border == 0 or stop == extent


def test_an_image_smaller_than_the_tile_is_padded_by_reflection() -> None:
    image = np.arange(12, dtype="float32").reshape(3, 4)
    [(tile, information)] = tiles_of(tw.IterableTiledPredDataset(image, "YX", (6, 9), (1, 2)))
    np.testing.assert_array_equal(tile[0], np.pad(image, ((1, 2), (2, 3)), mode="reflect"))
    assert information == tw.TileInformation((1, 3, 4), True, ((1, 4), (2, 6)), ((0, 3), (0, 4)), 0)


def test_an_axis_of_one_element_is_padded_with_its_edge() -> None:
    image = np.full((1, 8, 8), 5.0, "float32")
    tiles = tiles_of(tw.IterableTiledPredDataset(image, "ZYX", (4, 8, 8), (0, 0, 0)))
    assert [tile.shape for tile, _ in tiles] == [(1, 4, 8, 8)]
    assert (tiles[0][0] == 5).all()


def test_samples_frames_and_channels_are_told_apart_in_any_order_of_axes() -> None:
    image = RNG.integers(0, 60_000, (20, 3, 2, 24, 4)).astype("uint16")
    dataset = tw.IterableTiledPredDataset(image, "YSCXT", (12, 16), (3, 4))
    pictures, counts = pasted(dataset, (2, 20, 24), 12)
    assert (counts == 1).all()
    np.testing.assert_array_equal(pictures.reshape(3, 4, 2, 20, 24), image.transpose(1, 4, 2, 0, 3))


# --- How samples are counted.


def test_samples_are_counted_through_all_images() -> None:
    images = [np.zeros((count, 10, 8), "uint8") for count in (2, 1, 3)]
    dataset = tw.IterableTiledPredDataset(images, "SYX", (8, 8), (2, 2))
    assert [image.first_sample for image in dataset.images] == [0, 2, 3]
    assert [information.sample_id for _, information in dataset] == [s for s in range(6) for _ in range(2)]


def test_one_tile_of_each_sample_is_the_last() -> None:
    dataset = tw.IterableTiledPredDataset([np.zeros((2, 20, 9), "uint8")] * 2, "SYX", (8, 8), (2, 2))
    infos = [information for _, information in dataset]
    ends = [position for position, info in enumerate(infos) if info.last_tile]
    assert [infos[position].sample_id for position in ends] == [0, 1, 2, 3]
    # It is the last that comes, too.
    assert all(end + 1 == len(infos) or infos[end + 1].sample_id == infos[end].sample_id + 1 for end in ends)


def test_images_of_several_sizes_go_together() -> None:
    images = [RNG.random((20, 30)), RNG.random((5, 7)), RNG.random((16, 16))]
    dataset = tw.IterableTiledPredDataset(images, "YX", (16, 16), (4, 4), dtype="float64")
    for sample, image in enumerate(images):
        again = np.empty_like(image)
        for tile, information in tiles_of(dataset):
            if information.sample_id == sample:
                crop, place = information.overlap_crop_coords, information.stitch_coords
                again[tuple(slice(*p) for p in place)] = tile[0][tuple(slice(*p) for p in crop)]
        np.testing.assert_array_equal(again, image)


# --- Data-loader workers.


@MANY_WORKERS
@pytest.mark.parametrize("num_workers", [0, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_tile_comes_exactly_once(num_workers: int, batch_size: int, tmp_path: Path) -> None:
    sources = [tiff(tmp_path / "a.tif"), IMAGE[:7, :9], stored(tmp_path / "b.zarr"), dask.array.from_array(IMAGE)]
    dataset = tw.IterableTiledPredDataset(sources, "YX", (16, 16), (4, 5))
    expected = {information: tile.tobytes() for tile, information in tiles_of(dataset)}
    loader = DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=tw.collate_tiles)
    seen: Counter[tw.TileInformation] = Counter()
    for tiles, infos in loader:
        assert tiles.shape[:2] == (len(infos), 1)
        seen.update(infos)
        for tile, information in zip(tiles, infos, strict=True):
            assert tile.numpy().tobytes() == expected[information]
    assert seen == Counter(expected.keys())


@MANY_WORKERS
def test_more_workers_than_tiles_do_no_harm() -> None:
    dataset = tw.IterableTiledPredDataset(IMAGE[:16, :20], "YX", (16, 16), (4, 4))
    loader = DataLoader(dataset, num_workers=3, collate_fn=tw.collate_tiles)
    assert len([infos for _, infos in loader]) == 2


def test_workers_give_their_tiles_in_about_the_order_of_the_image() -> None:
    dataset = tw.IterableTiledPredDataset(IMAGE, "YX", (8, 8), (2, 2))
    order = [information for _, information in dataset]
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=tw.collate_tiles)
    arrived = [order.index(information) for _, infos in loader for information in infos]
    assert max(abs(place - index) for place, index in enumerate(arrived)) <= 2


def test_it_can_be_iterated_again() -> None:
    dataset = tw.IterableTiledPredDataset(IMAGE, "YX", (16, 16), (4, 4))
    assert [info for _, info in dataset] == [info for _, info in dataset]


def test_it_travels_to_processes_that_are_spawned(tmp_path: Path) -> None:
    sources = [tiff(tmp_path / "a.tif"), stored(tmp_path / "b.zarr"), IMAGE]
    dataset = tw.IterableTiledPredDataset(sources, "YX", (16, 16), (4, 4))
    assert next(iter(dataset))[0].shape == (1, 16, 16)
    again = pickle.loads(pickle.dumps(dataset))
    for (tile, information), (tile_again, information_again) in zip(dataset, again, strict=True):
        assert information == information_again
        assert torch.equal(tile, tile_again)


# --- What is read.


def test_only_the_window_of_a_tile_is_read() -> None:
    source = Recording(RNG.integers(0, 255, (3, 35, 40)).astype("uint8"))
    dataset = tw.IterableTiledPredDataset(source, "SYX", (16, 16), (4, 4))
    assert source.windows == []
    for tile, information in dataset:
        [window] = source.windows
        source.windows.clear()
        (first, last), *spatial = window
        assert (first, last) == (information.sample_id, information.sample_id + 1)
        assert [stop - start for start, stop in spatial] == list(tile.shape[1:])


def test_nothing_is_read_ahead() -> None:
    source = Recording(IMAGE)
    tiles = iter(tw.IterableTiledPredDataset(source, "YX", (16, 16), (4, 4)))
    for count in range(1, 4):
        next(tiles)
        assert len(source.windows) == count


# --- Data types and memory.


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int32", "int64"])
def test_tiles_have_the_data_type_that_is_asked_for(dtype: str) -> None:
    image = np.arange(64).reshape(8, 8).astype("uint16")
    tile, _ = next(iter(tw.IterableTiledPredDataset(image, "YX", (8, 8), (0, 0), dtype=dtype)))
    assert tile.dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(tile[0].numpy(), image.astype(dtype))


def test_tiles_are_float32_by_default() -> None:
    assert next(iter(tw.IterableTiledPredDataset(IMAGE, "YX", (8, 8), (0, 0))))[0].dtype == torch.float32


def test_labels_above_the_limit_of_float32_survive() -> None:
    labels = np.arange(2**24 + 1, 2**24 + 65, dtype="int32").reshape(8, 8)
    tile, _ = next(iter(tw.IterableTiledPredDataset(labels, "YX", (8, 8), (0, 0), dtype="int32")))
    np.testing.assert_array_equal(tile[0].numpy(), labels)


def test_a_tile_is_a_copy_of_an_array_that_a_model_may_change() -> None:
    image = RNG.random((20, 16)).astype("float32")
    kept = image.copy()
    for tile, _ in tw.IterableTiledPredDataset(image, "YX", (8, 16), (0, 0)):
        tile.zero_()
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("kind", ["tiff", "memmap"])
def test_a_tile_is_a_copy_of_a_file_that_a_model_may_change(kind: str, tmp_path: Path) -> None:
    source: Any = tiff(tmp_path / "a.tif", RNG.random((20, 16)).astype("float32"))
    if kind == "memmap":
        source = np.memmap(tmp_path / "a.raw", "float32", "w+", shape=(20, 16))
    dataset = tw.IterableTiledPredDataset(source, "YX", (8, 16), (0, 0))
    # In a worker, since the end of who writes where it must not is sudden.
    loader = DataLoader(dataset, batch_size=None, num_workers=1, collate_fn=cleared)
    assert [float(tile.max()) for tile in loader] == [0, 0, 0]


def cleared(item: tuple[torch.Tensor, tw.TileInformation]) -> torch.Tensor:
    return item[0].zero_()


def test_a_compressed_tiff_gives_the_same_tiles(tmp_path: Path) -> None:
    plain = tw.IterableTiledPredDataset(tiff(tmp_path / "a.tif"), "YX", (16, 16), (4, 4))
    packed = tw.IterableTiledPredDataset(tiff(tmp_path / "b.tif", compression="zlib"), "YX", (16, 16), (4, 4))
    for (tile, _), (tile_again, _) in zip(plain, packed, strict=True):
        assert torch.equal(tile, tile_again)


def test_a_tiff_with_bytes_in_the_other_order_is_read_right(tmp_path: Path) -> None:
    dataset = tw.IterableTiledPredDataset(
        tiff(tmp_path / "a.tif", IMAGE.astype("float32"), byteorder=">"), "YX", (16, 16), (4, 4)
    )
    np.testing.assert_array_equal(pasted(dataset, (1, 35, 40), 1)[0][0, 0], IMAGE)


# --- What does not fit.


@pytest.mark.parametrize("broken", ["missing", "empty", "text"])
def test_a_source_that_cannot_be_opened_is_named(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.tif"
    if broken != "missing":
        path.write_text("" if broken == "empty" else "this is no TIFF")
    with pytest.raises(SourceError, match=r"broken\.tif"):
        tw.IterableTiledPredDataset([tiff(tmp_path / "a.tif"), path], "YX", (16, 16), (4, 4))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_source_that_breaks_later_is_named_and_never_skipped(num_workers: int, tmp_path: Path) -> None:
    broken = stored(tmp_path / "broken.zarr")
    dataset = tw.IterableTiledPredDataset([stored(tmp_path / "a.zarr"), broken], "YX", (16, 16), (4, 4))
    (broken / "c" / "1" / "1").write_bytes(b"short")
    with pytest.raises(SourceError, match=r"could not read Y 0:16, X 0:16 of .*broken\.zarr"):
        list(DataLoader(dataset, num_workers=num_workers, collate_fn=tw.collate_tiles))


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "no sources": ({"sources": []}, "no sources"),
    "other axes": ({"axes": "ZYX"}, "names 3 axes, but the source has 2"),
    "an overlap as large as the tile": ({"overlaps": (4, 16)}, "overlap"),
    "a negative overlap": ({"overlaps": (4, -1)}, "overlap"),
    "a tile of nothing": ({"tile_size": (0, 16)}, "tile"),
    "too few tile sizes": ({"tile_size": (16,)}, "tile_size must have one number for each spatial axis YX"),
    "too many overlaps": ({"overlaps": (4, 4, 4)}, "overlaps must have one number for each spatial axis YX"),
    "borders of nothing": ({"borders": (0, 8)}, "border"),
    "too few borders": ({"borders": (8,)}, "borders must have one number for each spatial axis YX"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_refused_when_it_is_made(name: str) -> None:
    changes, message = UNFIT[name]
    arguments = {"sources": IMAGE, "axes": "YX", "tile_size": (16, 16), "overlaps": (4, 4)}
    with pytest.raises(GeometryError, match=message):
        tw.IterableTiledPredDataset(**arguments | changes)


def test_the_image_that_does_not_fit_the_axes_is_named(tmp_path: Path) -> None:
    volume = tiff(tmp_path / "volume.tif", np.zeros((4, 8, 8), "uint8"))
    with pytest.raises(GeometryError, match=r"volume\.tif: .*names 2 axes, but the source has 3"):
        tw.IterableTiledPredDataset([tiff(tmp_path / "a.tif"), volume], "YX", (8, 8), (0, 0))


# --- Batches.


def test_collating_stacks_tiles_and_lists_where_they_belong() -> None:
    cut = list(tw.IterableTiledPredDataset(IMAGE, "YX", (16, 16), (4, 4)))[:3]
    tiles, infos = tw.collate_tiles(cut)
    assert tiles.shape == (3, 1, 16, 16)
    assert all(torch.equal(tile, cut[place][0]) for place, tile in enumerate(tiles))
    assert type(infos) is list
    assert infos == [information for _, information in cut]


def test_collating_takes_arrays_too() -> None:
    information = tw.TileInformation((1, 4, 4), True, ((0, 4), (0, 4)), ((0, 4), (0, 4)), 0)
    tiles, infos = tw.collate_tiles([(np.ones((1, 4, 4), "float32"), information)])
    assert torch.equal(tiles, torch.ones(1, 1, 4, 4))
    assert infos == [information]
