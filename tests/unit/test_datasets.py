"""The tiled dataset cuts tiles as the specification says; `test_pred_datasets` tests what both datasets share."""

from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import compact_windows, reflected
from torch.utils.data import DataLoader

import tilewright as tw
from tilewright.errors import GeometryError

RNG = np.random.default_rng(11)
IMAGE = RNG.integers(0, 60_000, (35, 40)).astype("uint16")


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


def test_workers_give_their_tiles_in_about_the_order_of_the_image() -> None:
    dataset = tw.IterableTiledPredDataset(IMAGE, "YX", (8, 8), (2, 2))
    order = [information for _, information in dataset]
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=tw.collate_tiles)
    arrived = [order.index(information) for _, infos in loader for information in infos]
    assert max(abs(place - index) for place, index in enumerate(arrived)) <= 2


# --- What does not fit.


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
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
