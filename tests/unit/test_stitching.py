"""What does not make a whole image is an error that says why; what does is written once, by a graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import torch
import zarr
from tests.support import Recording
from zarr.storage import MemoryStore

import tilewright as tw
from tilewright.errors import GeometryError, ImageWriteError, IncompleteImageError, ModelOutputError
from tilewright.images.image_writer import ImageWriter
from tilewright.images.lazy_image import takes_lazy_image
from tilewright.images.stitching import ImageStitching

RNG = np.random.default_rng(17)
IMAGE = RNG.integers(0, 60_000, (1, 2, 20, 23)).astype("uint16")
TILE_SIZE, OVERLAPS = (9, 8), (3, 2)


def cut(arr: Any = IMAGE, tile_size: Any = TILE_SIZE, overlaps: Any = OVERLAPS) -> tuple[list[Any], list[Any]]:
    tiles, infos = zip(*tw.extract_tiles(arr, tile_size, overlaps), strict=True)
    return list(tiles), list(infos)


def whole(stitch: tuple[tuple[int, int], ...], shape: tuple[int, ...], sample_id: int = 0) -> tw.TileInformation:
    """A tile of which everything is kept."""
    return tw.TileInformation(shape, False, tuple((0, stop - start) for start, stop in stitch), stitch, sample_id)


# --- Cutting.


@pytest.mark.parametrize("kind", ["zarr", "dask"])
def test_lazy_arrays_are_cut_into_the_tiles_of_their_elements(kind: str) -> None:
    arr: Any = dask.array.from_array(IMAGE, chunks=(1, 1, 7, 7))
    if kind == "zarr":
        arr = zarr.create_array(MemoryStore(), shape=IMAGE.shape, dtype=IMAGE.dtype, chunks=(1, 1, 7, 7))
        arr[...] = IMAGE
    tiles, infos = cut(arr)
    expected, expected_infos = cut()
    assert infos == expected_infos
    np.testing.assert_array_equal(np.stack(tiles), np.stack(expected))


def test_only_the_window_of_the_next_tile_is_read() -> None:
    arr = Recording(RNG.random((2, 3, 20, 23)))
    tiles = tw.extract_tiles(arr, TILE_SIZE, OVERLAPS)
    assert arr.windows == []
    for tile, information in tiles:
        [window] = arr.windows
        arr.windows.clear()
        assert window[:2] == ((information.sample_id, information.sample_id + 1), (0, 3))
        assert tuple(stop - start for start, stop in window[2:]) == tile.shape[1:]


@pytest.mark.parametrize("kind", ["numpy", "dask", "dask in memory"])
def test_what_is_done_to_a_tile_is_not_done_to_the_array(kind: str) -> None:
    kept = RNG.random((1, 1, 8, 16))
    arr: Any = kept.copy()
    if kind != "numpy":
        arr = dask.array.from_array(arr, chunks=(1, 1, 8, 8))
    if kind == "dask in memory":
        arr = arr.persist(scheduler="synchronous")
    for tile, _ in tw.extract_tiles(arr, (8, 8), (0, 0)):
        tile[...] = -1
    np.testing.assert_array_equal(arr, kept)


UNFIT: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str]] = {
    "an array of three axes": ((2, 20, 20), (8, 8), (2, 2), r"SC\(Z\)YX"),
    "an array of six axes": ((1, 1, 1, 2, 8, 8), (8, 8), (2, 2), r"SC\(Z\)YX"),
    "tiles of a volume for a picture": ((1, 1, 20, 20), (8, 8, 8), (2, 2, 2), "tile_size must have one number"),
    "too few overlaps": ((1, 1, 20, 20), (8, 8), (2,), "overlaps must have one number"),
    "an overlap as large as the tile": ((1, 1, 20, 20), (8, 8), (2, 8), "overlap"),
    "a negative overlap": ((1, 1, 20, 20), (8, 8), (2, -1), "overlap"),
    "a tile of nothing": ((1, 1, 20, 20), (8, 0), (2, 0), "tile"),
    "an image without elements": ((1, 1, 0, 20), (8, 8), (2, 2), "no elements"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_cut_is_refused(name: str) -> None:
    shape, tile_size, overlaps, message = UNFIT[name]
    with pytest.raises(GeometryError, match=message):
        list(tw.extract_tiles(np.zeros(shape, "uint8"), tile_size, overlaps))


# --- What is stitched.


def test_a_batch_of_predictions_needs_not_be_taken_apart() -> None:
    tiles, infos = cut(IMAGE.astype("float32"))
    [image] = tw.stitch_prediction(torch.from_numpy(np.stack(tiles)).requires_grad_(), infos)
    np.testing.assert_array_equal(image, IMAGE.astype("float32"))


def test_brain_floats_become_the_floats_that_numpy_has() -> None:
    tiles, infos = cut(IMAGE.astype("float32"))
    image = tw.stitch_prediction_single([torch.from_numpy(tile).bfloat16() for tile in tiles], infos)
    assert image.dtype == "float32"
    np.testing.assert_array_equal(image, torch.from_numpy(IMAGE.astype("float32")).bfloat16().float().numpy())


def test_samples_come_in_the_order_of_their_numbers_whatever_these_are() -> None:
    tiles, infos = cut(np.concatenate([IMAGE, IMAGE + 1, IMAGE + 2]))
    infos = [information._replace(sample_id=(7, 11, 2)[information.sample_id]) for information in infos]
    images = tw.stitch_prediction(tiles, infos)
    for image, added in zip(images, (2, 0, 1), strict=True):
        np.testing.assert_array_equal(image, IMAGE + added)


def test_samples_of_different_extents_become_images_of_theirs() -> None:
    tiles, infos = cut()
    more, more_infos = cut(IMAGE[:, :, :5, :3])
    first, second = tw.stitch_prediction(
        more + tiles, [information._replace(sample_id=1) for information in more_infos] + infos
    )
    np.testing.assert_array_equal(first, IMAGE)
    np.testing.assert_array_equal(second, IMAGE[:, :, :5, :3])


def test_the_tiles_are_left_as_they_are_and_share_nothing_with_the_image() -> None:
    tile, information = np.ones((1, 4, 4)), whole(((0, 4), (0, 4)), (1, 4, 4))
    image = tw.stitch_prediction_single([tile], [information])
    image[...] = 5
    assert (tile == 1).all()


# --- What is refused.


def test_tiles_of_several_samples_are_not_one_image() -> None:
    with pytest.raises(GeometryError, match=r"samples \[0, 1\].*stitch_prediction"):
        tw.stitch_prediction_single(*cut(np.concatenate([IMAGE, IMAGE])))


@pytest.mark.parametrize("stitch", [tw.stitch_prediction, tw.stitch_prediction_single])
@pytest.mark.parametrize(("tiles", "infos"), [(0, 0), (1, 0), (0, 1), (3, 2), (2, 3)])
def test_there_must_be_tiles_and_as_much_tile_information(stitch: Any, tiles: int, infos: int) -> None:
    all_tiles, all_infos = cut()
    with pytest.raises(GeometryError, match=f"got {tiles} tiles and {infos}"):
        stitch(all_tiles[:tiles], all_infos[:infos])


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        (4, (2, 9, 4), r"sample 0 .*extents \(9, 4\)"),
        (0, (9, 8), r"C\(Z\)YX"),
        (0, (2, 2, 9, 8), r"C\(Z\)YX"),
        (0, (1, 1, 2, 9, 8), r"C\(Z\)YX"),
    ],
)
def test_a_tile_smaller_than_what_is_kept_or_of_other_axes_is_refused(
    place: int, shape: tuple[int, ...], message: str
) -> None:
    tiles, infos = cut()
    tiles[place] = np.zeros(shape, "uint16")
    with pytest.raises(GeometryError, match=message):
        tw.stitch_prediction(tiles, infos)


def test_tiles_of_images_of_different_extents_are_no_sample() -> None:
    tiles, infos = cut()
    infos[2] = tw.TileInformation((2, 20, 24), False, infos[2].overlap_crop_coords, infos[2].stitch_coords, 0)
    with pytest.raises(GeometryError, match=r"sample 0.*different extents.*\(20, 23\).*\(20, 24\)"):
        tw.stitch_prediction(tiles, infos)


UNLIKE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "channels cut": lambda tile: tile[:1],
    "channels added": lambda tile: np.concatenate([tile] * 2),
    "data type": lambda tile: tile.astype("float32"),
}


@pytest.mark.parametrize("place", [0, 3, -1])
@pytest.mark.parametrize("change", UNLIKE)
def test_a_tile_or_a_sample_unlike_the_others_is_neither_broadcast_nor_cast(change: str, place: int) -> None:
    tiles, infos = cut()
    tiles[place] = UNLIKE[change](tiles[place])
    with pytest.raises(ModelOutputError, match=r"sample 0 has .*others have"):
        tw.stitch_prediction(tiles, infos)
    how, tiles = stitching_of(np.concatenate([IMAGE, IMAGE]))
    others = zip(tiles, how.tile_infos, strict=True)
    changed = [tile if information.sample_id == 0 else UNLIKE[change](tile) for tile, information in others]
    with pytest.raises(ModelOutputError):
        how.stitch(changed)


def test_tiles_that_overlap_do_not_make_up_for_a_hole() -> None:
    infos = [whole(((0, 1), interval), (1, 1, 6)) for interval in ((0, 4), (2, 4))]
    with pytest.raises(IncompleteImageError, match="misses 2 elements of 6"):
        tw.stitch_prediction([np.ones((1, 1, 4)), np.ones((1, 1, 2))], infos)


# --- How one image of several samples is stitched.


def stitching_of(arr: np.ndarray = IMAGE, tile_count: int | None = None) -> tuple[ImageStitching, list[np.ndarray]]:
    """How an image is stitched, of all its tiles or some, and these tiles."""
    tiles, infos = cut(arr)
    return ImageStitching("raw.tif", 0, len(arr), infos[:tile_count], arr.shape[1], arr.dtype), tiles[:tile_count]


def test_a_sample_that_is_incomplete_is_named_by_its_image_and_its_place() -> None:
    how, tiles = stitching_of(np.concatenate([IMAGE] * 3), -1)
    with pytest.raises(IncompleteImageError, match=r"image raw\.tif, sample 2 misses \d+ elements"):
        how.stitch(tiles)


# --- The writer of an image.


class Written:
    """A write function that remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.folder_was_there: list[bool] = []

    def __call__(self, **kwargs: Any) -> str:
        self.calls.append(kwargs)
        self.folder_was_there.append(kwargs["file_path"].parent.is_dir())
        return "what a write function returns is ignored"


class WrittenLazily(Written):
    """The same, for an image that is not in memory."""

    @takes_lazy_image
    def __call__(self, **kwargs: Any) -> str:
        assert isinstance(kwargs["img"], dask.array.Array)
        return super().__call__(**kwargs | {"img": kwargs["img"].compute(scheduler="synchronous")})


@pytest.mark.parametrize("kind", [Written, WrittenLazily])
@pytest.mark.parametrize("samples", [1, 3])
def test_the_writer_of_an_image_calls_the_function_once_with_the_keywords_given(
    samples: int, kind: type[Written], tmp_path: Path
) -> None:
    written, path, fetched = kind(), tmp_path / "not" / "yet" / "there.tiff", []
    arr = np.concatenate([IMAGE] * samples)
    how, tiles = stitching_of(arr)

    def fetch(numbers: Any) -> list[np.ndarray]:
        fetched.extend(numbers)
        return [tiles[number] for number in numbers]

    keywords = {"compression": "zlib", "level": 3}
    writer = ImageWriter(written, keywords, {7: (how, path)}, fetch)
    writer.write_tiles(7, dict(enumerate(range(len(tiles)) if writer.is_lazy else tiles)))
    [call] = written.calls
    image = call.pop("img")
    assert call == keywords | {"file_path": path}
    assert isinstance(call["file_path"], Path)
    assert isinstance(image, np.ndarray)
    np.testing.assert_array_equal(image, arr[0] if samples == 1 else arr)
    assert sorted(fetched) == (list(range(len(tiles))) if kind is WrittenLazily else [])
    assert written.folder_was_there == [True]


@pytest.mark.parametrize("kind", [Written, WrittenLazily])
def test_an_image_that_misses_tiles_is_not_written(kind: type[Written], tmp_path: Path) -> None:
    written = kind()
    how, tiles = stitching_of(tile_count=-1)
    with pytest.raises(ImageWriteError, match=r"image raw\.tif could not be written to .*a\.tiff: .*raw\.tif misses"):
        ImageWriter(written, {}, {0: (how, tmp_path / "a.tiff")}).write_tiles(0, dict(enumerate(tiles)))
    assert written.calls == []


def test_one_sample_is_stitched_into_one_array_and_not_copied_again() -> None:
    how, tiles = stitching_of()
    image = how.stitch(tiles)
    assert image.flags.c_contiguous
    assert image.base is None
