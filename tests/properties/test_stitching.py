"""Whatever is cut into tiles is put together again: every element once, bit for bit, or an error counts what misses."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from math import prod
from typing import Any

import dask
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import Window, compact_windows, reflected

import tilewright as tw
from tilewright.errors import IncompleteImageError
from tilewright.images.stitch_lazily import stitched_lazily
from tilewright.images.stitching import ImageStitching

DTYPES = ["float32", "float16", "float64", "uint8", "int32", "int64", "bool"]
LIMITS = st.sampled_from([1, 7, 24, 60, 150, 1000, 32 * 2**20])
"""Bytes of a chunk: of no tile, of one, of several, of the image."""


@dataclass(frozen=True)
class Cut:
    """An array SC(Z)YX, and how it is cut."""

    arr: np.ndarray
    tile_size: tuple[int, ...]
    overlaps: tuple[int, ...]

    @property
    def windows(self) -> list[list[Window]]:
        return [
            compact_windows(*numbers) for numbers in zip(self.arr.shape[2:], self.tile_size, self.overlaps, strict=True)
        ]

    def tiles(self) -> list[tuple[np.ndarray, tw.TileInformation]]:
        return list(tw.extract_tiles(self.arr, self.tile_size, self.overlaps))


@st.composite
def cuts(draw: st.DrawFn, dtypes: Sequence[str] = ("uint8",)) -> Cut:
    """Small arrays of any bits, tiles that may be larger than an axis, and any overlap that fits."""
    volume = draw(st.booleans())
    longest, largest = (6, 8) if volume else (14, 9)
    count = 3 if volume else 2
    shape = [draw(st.integers(1, 3)), draw(st.integers(1, 3)), *(draw(st.integers(1, longest)) for _ in range(count))]
    tile_size = tuple(draw(st.integers(1, largest)) for _ in range(count))
    overlaps = tuple(draw(st.integers(0, tile - 1)) for tile in tile_size)
    return Cut(any_bits(shape, draw(st.sampled_from(dtypes)), draw(st.integers(0, 9))), tile_size, overlaps)


def any_bits(shape: Sequence[int], dtype: str, seed: int) -> np.ndarray:
    """Every bit is drawn: labels that floats cannot hold, infinities, and numbers that are none."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    return np.frombuffer(rng.bytes(prod(shape) * np.dtype(dtype).itemsize), dtype).reshape(shape).copy()


def with_channels(array: np.ndarray, axis: int, channels: int | None) -> np.ndarray:
    """What a model with another number of channels makes of an image, or of a tile of it."""
    return array if channels is None else np.take(array, np.arange(channels) % array.shape[axis], axis)


def formed(tile: np.ndarray, form: str) -> Any:
    """A tile as models and strategies hand them on."""
    if "batch of one" in form:
        tile = tile[np.newaxis]
    return torch.from_numpy(tile.copy()) if "tensor" in form else tile


FORMS = st.sampled_from(["array", "array, batch of one", "tensor", "tensor, batch of one"])


def assert_same_bits(stitched: np.ndarray, expected: np.ndarray) -> None:
    assert stitched.dtype == expected.dtype
    assert stitched.shape == expected.shape
    assert stitched.tobytes() == expected.tobytes()


# --- Cutting.


@given(cuts(["uint8", "int32", "bool"]))
def test_tiles_come_in_order_and_are_those_of_the_specification(cut: Cut) -> None:
    samples, *sample_shape = cut.arr.shape
    extents = sample_shape[1:]
    # Valid regions follow one another, so that they hold each element of the image exactly once.
    for axis, windows in enumerate(cut.windows):
        borders = [border for _, *valid in windows for border in valid]
        assert borders[::2] + borders[-1:] == [0, *borders[1::2]]
        assert borders[-1] == extents[axis]
    positions = list(product(*cut.windows))
    expected = [(sample, position) for sample in range(samples) for position in positions]
    tiles = cut.tiles()
    assert len(tiles) == len(expected)
    for (tile, information), (sample, position) in zip(tiles, expected, strict=True):
        seen, crop = cut.arr[sample], []
        for axis, (start, valid_start, valid_stop) in enumerate(position):
            size = cut.tile_size[axis]
            first = start - max(0, size - extents[axis]) // 2
            seen = np.take(seen, reflected(first, first + size, extents[axis]), axis=axis + 1)
            crop.append((valid_start - first, valid_stop - first))
        assert_same_bits(tile, np.ascontiguousarray(seen))
        assert information == tw.TileInformation(
            array_shape=tuple(sample_shape),
            last_tile=position == positions[-1],
            overlap_crop_coords=tuple(crop),
            stitch_coords=tuple(window[1:] for window in position),
            sample_id=sample,
        )


def test_the_example_of_the_specification_has_the_coordinates_of_careamics() -> None:
    arr = np.zeros((1, 1, 35, 32), "uint8")
    infos = [information for _, information in tw.extract_tiles(arr, (32, 32), (24, 0))]
    assert [information.stitch_coords[0] for information in infos] == [(0, 20), (20, 35)]
    assert [information.overlap_crop_coords[0] for information in infos] == [(0, 20), (17, 32)]


# --- Stitching.


@given(cuts(DTYPES), FORMS, st.sampled_from([None, 1, 2, 4]), st.data())
def test_tiles_in_any_order_and_twice_give_the_array_back_bit_for_bit(
    cut: Cut, form: str, channels: int | None, data: st.DataObject
) -> None:
    tiles = [(formed(with_channels(tile, 0, channels), form), information) for tile, information in cut.tiles()]
    again = data.draw(st.lists(st.sampled_from(range(len(tiles))), max_size=3))
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation([*range(len(tiles)), *again])
    images = tw.stitch_prediction([tiles[i][0] for i in order], [tiles[i][1] for i in order])
    assert type(images) is list
    assert len(images) == len(cut.arr)
    for number, (image, sample) in enumerate(zip(images, with_channels(cut.arr, 1, channels), strict=True)):
        assert_same_bits(image, sample[np.newaxis])
        own = zip(*[tiles[i] for i in order if tiles[i][1].sample_id == number], strict=True)
        assert_same_bits(tw.stitch_prediction_single(*own), sample[np.newaxis])


@given(cuts(), st.data())
def test_tiles_that_miss_are_counted_by_their_elements(cut: Cut, data: st.DataObject) -> None:
    sample = data.draw(st.integers(0, len(cut.arr) - 1))
    tiles = cut.tiles()
    own = [number for number, (_, information) in enumerate(tiles) if information.sample_id == sample]
    if len(own) == 1:
        # Of a sample without any tile nothing is known.
        return
    left_out = data.draw(st.sets(st.sampled_from(own), min_size=1, max_size=len(own) - 1))
    # A tile that comes as often as all of them stands in for none.
    left = [item for number, item in enumerate(tiles) if number not in left_out]
    left += [item for item in left if item[1].sample_id == sample][:1] * len(left_out)
    missing = sum(prod(stop - start for start, stop in tiles[number][1].stitch_coords) for number in left_out)
    message = rf"sample {sample} misses {missing} elements of {prod(cut.arr.shape[2:])}\b"
    with pytest.raises(IncompleteImageError, match=message):
        tw.stitch_prediction(*zip(*left, strict=True))
    of_sample = [item for item in left if item[1].sample_id == sample]
    with pytest.raises(IncompleteImageError, match=message):
        tw.stitch_prediction_single(*zip(*of_sample, strict=True))


# --- Stitching where it is looked at.


@dataclass
class Fetching:
    """Tiles by their numbers, and how often each was fetched."""

    tiles: list[np.ndarray]

    def __post_init__(self) -> None:
        self.fetched: Counter[int] = Counter()

    def __call__(self, numbers: Sequence[int]) -> list[np.ndarray]:
        self.fetched.update(numbers)
        return [self.tiles[number] for number in numbers]


def lazily(
    tiles: Sequence[tuple[np.ndarray, tw.TileInformation]], dtype: Any, limit: int
) -> tuple[ImageStitching, Any, Fetching]:
    """The image of these tiles: how it is stitched, the lazy image, and what was fetched for it."""
    arrays = [tile for tile, _ in tiles]
    infos = [information for _, information in tiles]
    samples = {information.sample_id for information in infos}
    how = ImageStitching(
        "raw.tif", min(samples), len(samples), infos, arrays[0].shape[-len(infos[0].array_shape)], dtype
    )
    fetching = Fetching(arrays)
    return how, stitched_lazily(how, range(len(arrays)), fetching, chunk_nbytes=limit), fetching


def shuffled_tiles(cut: Cut, data: st.DataObject) -> list[tuple[np.ndarray, tw.TileInformation]]:
    """In any order, with or without an axis of batches, of an image that is not the first of its dataset."""
    batched, first = data.draw(st.booleans()), data.draw(st.sampled_from([0, 5]))
    tiles = [
        (tile[np.newaxis] if batched else tile, information._replace(sample_id=information.sample_id + first))
        for tile, information in cut.tiles()
    ]
    return [tiles[i] for i in np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(tiles))]


def chunk_regions(image: Any, spatial_count: int) -> list[tuple[tuple[int, ...], int, tuple[tuple[int, int], ...]]]:
    """Each chunk: its index, its sample, and its region."""
    chunks = []
    for index in np.ndindex(*image.numblocks):
        ends = [list(accumulate(extents)) for extents in image.chunks]
        region = tuple(
            (stops[at] - extents[at], stops[at]) for stops, extents, at in zip(ends, image.chunks, index, strict=True)
        )
        sample = region[0][0] if image.ndim == spatial_count + 2 else 0
        chunks.append((index, sample, region[-spatial_count:]))
    return chunks


def meets(stitch: Sequence[tuple[int, int]], region: Sequence[tuple[int, int]]) -> bool:
    return all(max(a, c) < min(b, d) for (a, b), (c, d) in zip(stitch, region, strict=True))


@given(cuts(DTYPES), LIMITS, st.data())
def test_a_lazy_image_is_the_stitched_one_and_fetches_each_tile_once(cut: Cut, limit: int, data: st.DataObject) -> None:
    tiles = shuffled_tiles(cut, data)
    how, image, fetching = lazily(tiles, cut.arr.dtype, limit)
    expected = cut.arr[0] if len(cut.arr) == 1 else cut.arr
    assert_same_bits(how.stitch(fetching.tiles), expected)
    assert fetching.fetched == {}
    assert (image.shape, image.dtype) == (expected.shape, expected.dtype)
    assert_same_bits(image.compute(scheduler="synchronous"), expected)
    # Chunks end where tiles end.
    assert fetching.fetched == Counter(range(len(tiles)))


@settings(max_examples=50)
@given(cuts(), LIMITS, st.data())
def test_a_chunk_is_stitched_from_the_tiles_that_reach_it_and_no_others(
    cut: Cut, limit: int, data: st.DataObject
) -> None:
    tiles = shuffled_tiles(cut, data)
    _, image, fetching = lazily(tiles, cut.arr.dtype, limit)
    first = min(information.sample_id for _, information in tiles)
    chunks = chunk_regions(image, cut.arr.ndim - 2)
    for index, sample, region in data.draw(st.lists(st.sampled_from(chunks), min_size=1, max_size=5)):
        fetching.fetched.clear()
        chunk = dask.get(image.__dask_graph__(), (image.name, *index))
        place = tuple(slice(*part) for part in region)
        assert (
            chunk.reshape(chunk.shape[-cut.arr.ndim + 1 :]).tobytes()
            == cut.arr[(sample, slice(None), *place)].tobytes()
        )
        assert fetching.fetched == Counter(
            number
            for number, (_, information) in enumerate(tiles)
            if information.sample_id == first + sample and meets(information.stitch_coords, region)
        )


@given(cuts(["uint8", "int32"]), LIMITS, st.data())
def test_a_chunk_is_as_large_as_the_limit_allows_or_as_what_one_tile_keeps(
    cut: Cut, limit: int, data: st.DataObject
) -> None:
    tiles = shuffled_tiles(cut, data)
    _, image, _ = lazily(tiles, cut.arr.dtype, limit)
    valid = {information.stitch_coords for _, information in tiles}
    for _, _, region in chunk_regions(image, cut.arr.ndim - 2):
        nbytes = prod(stop - start for start, stop in region) * cut.arr.shape[1] * cut.arr.itemsize
        assert nbytes <= limit or region in valid, f"{region} takes {nbytes} bytes"
    if cut.arr[0].nbytes <= limit:
        assert image.npartitions == len(cut.arr)


@st.composite
def bricks(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[np.ndarray, tw.TileInformation]]]:
    """An image, and tiles in rows of which each has its own borders: no chunk ends where all tiles end."""

    def partition(extent: int) -> list[tuple[int, int]]:
        inner = draw(st.sets(st.integers(1, extent - 1), max_size=4)) if extent > 1 else set()
        return list(pairwise([0, *sorted(inner), extent]))

    height, width = draw(st.integers(1, 10)), draw(st.integers(1, 10))
    image = any_bits((2, height, width), "int32", draw(st.integers(0, 9)))
    coords = [(rows, columns) for rows in partition(height) for columns in partition(width)]
    if draw(st.booleans()):
        coords = [(columns, rows) for rows, columns in coords]
        image = image.transpose(0, 2, 1)
    tiles = []
    for rows, columns in draw(st.permutations(coords)):
        crop = tuple((0, stop - start) for start, stop in (rows, columns))
        tile = image[:, slice(*rows), slice(*columns)]
        tiles.append((tile, tw.TileInformation(image.shape, False, crop, (rows, columns), 0)))
    return image, tiles


@given(bricks(), LIMITS)
def test_tiles_that_lie_like_bricks_are_stitched_all_the_same(
    wall: tuple[np.ndarray, list[tuple[np.ndarray, tw.TileInformation]]], limit: int
) -> None:
    image, tiles = wall
    how, lazy, fetching = lazily(tiles, "int32", limit)
    np.testing.assert_array_equal(how.stitch(fetching.tiles), image)
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), image)
    assert set(fetching.fetched) == set(range(len(tiles)))


@settings(max_examples=50)
@given(cuts(), LIMITS, st.data())
def test_any_part_of_a_lazy_image_can_be_taken(cut: Cut, limit: int, data: st.DataObject) -> None:
    _, image, _ = lazily(shuffled_tiles(cut, data), cut.arr.dtype, limit)
    expected = cut.arr[0] if len(cut.arr) == 1 else cut.arr
    part = tuple(data.draw(st.slices(extent)) for extent in expected.shape)
    np.testing.assert_array_equal(image[part].compute(scheduler="synchronous"), expected[part])


@given(cuts(), LIMITS, st.data())
def test_a_lazy_image_that_misses_tiles_is_an_error_where_it_is_looked_at(
    cut: Cut, limit: int, data: st.DataObject
) -> None:
    tiles = shuffled_tiles(cut, data)
    if len(tiles) == len(cut.arr):
        return
    gone = data.draw(st.sampled_from(range(len(tiles))))
    _, image, _ = lazily(tiles[:gone] + tiles[gone + 1 :], cut.arr.dtype, limit)
    with pytest.raises(IncompleteImageError, match=r"raw\.tif.* misses \d+ elements"):
        image.compute(scheduler="synchronous")
