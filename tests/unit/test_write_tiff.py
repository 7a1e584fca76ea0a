"""A TIFF file holds what the image held, appears whole or not at all, and takes no memory that grows with the image."""

import functools
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageSequence
from tests.lazy_images import calling, image_of, in_odd_chunks
from tifffile import TiffFile

from tilewright.errors import DestinationExistsError
from tilewright.images.lazy_image import LazyImage, is_lazy, takes_lazy_image
from tilewright.images.tiff import needs_bigtiff, write_encoded, write_tiff

DTYPES = ["bool", "uint8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64", "complex64"]
SHAPES = [(37, 61), (3, 37, 61), (1, 3, 37, 61), (2, 1, 5, 37, 61), (1, 1, 1, 37, 1), (37, 61, 3), (3, 3, 3)]
ZLIB = {"compression": "zlib"}
THREE: list[dict[str, Any]] = [{}, ZLIB, {"tile": (16, 16)}]
ENCODINGS: list[dict[str, Any]] = [
    {},
    ZLIB,
    {**ZLIB, "predictor": True},
    {**ZLIB, "rowsperstrip": 7},
    {"tile": (16, 32)},
    {**ZLIB, "tile": (16, 32)},
    {"rowsperstrip": 7},
    {"byteorder": ">"},
    {**ZLIB, "byteorder": ">", "predictor": True},
    {**ZLIB, "volumetric": True},
    {**ZLIB, "photometric": "rgb"},
    {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16)},
]


def assert_same(read: np.ndarray, image: np.ndarray) -> None:
    assert read.shape == image.shape
    assert read.dtype == image.dtype
    np.testing.assert_array_equal(read, image)


def files_of(image: np.ndarray, path: Path, encodings: list[dict[str, Any]], **options: Any) -> Iterator[TiffFile]:
    """Write an image in each encoding, from NumPy and from dask, and open each file."""
    for img, encoding in product((image, in_odd_chunks(image)), encodings):
        write_tiff(path, img, **encoding, **options)
        with TiffFile(path) as file:
            yield file


def write_in_tiles(path: Path, image: np.ndarray, **options: Any) -> None:
    """Encode a dask array of which each page counts as large."""
    lazy = LazyImage(in_odd_chunks(image))
    write_encoded(path, path, lazy, {"photometric": "minisblack", **options}, page_nbytes=1000)


# --- What is in the file.


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_data_type_comes_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    image = image_of((2, 3, 37, 61), dtype)
    for file in files_of(image, tmp_path / "a.tiff", THREE):
        assert_same(file.asarray(), image)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_comes_back_with_its_axes_of_one_element_and_none_becomes_colour(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    image = image_of(shape, "uint8")
    for file in files_of(image, tmp_path / "a.tiff", THREE):
        assert_same(file.asarray(), image)
        assert {page.photometric.name for page in file.pages} == {"MINISBLACK"}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_dask_array_makes_the_very_file_that_the_numpy_array_makes(tmp_path: Path, encoding: dict[str, Any]) -> None:
    # What tifffile leaves in a tile behind the end of its page is anything, and in tiles that are not compressed it
    # saves the counts of the third page and later ones if it has an array.
    shapes = [(3, 32, 64)] if "tile" in encoding else [(3, 41, 61), (2, 3, 32, 64), (33, 47, 3)]
    if encoding == {"tile": (16, 32)}:
        shapes = [(2, 32, 64)]
    for shape in shapes:
        image = image_of(shape)
        write_tiff(tmp_path / "numpy.tiff", image, **encoding)
        write_tiff(tmp_path / "dask.tiff", in_odd_chunks(image), **encoding)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "dask.tiff"), image)
        assert (tmp_path / "numpy.tiff").read_bytes() == (tmp_path / "dask.tiff").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bool", "uint16"])
@pytest.mark.parametrize(
    "encoding",
    [one for one in ENCODINGS if "rowsperstrip" not in one and one.keys() & {"compression", "tile"}],
)
def test_pages_too_large_to_be_encoded_whole_are_encoded_in_tiles(
    tmp_path: Path, encoding: dict[str, Any], dtype: str
) -> None:
    if dtype == "bool":
        # tifffile takes no others for it.
        encoding = {name: value for name, value in encoding.items() if name in {"compression", "tile"}}
    for shape in ((3, 300, 270), (1, 3, 300, 513)):
        image = image_of(shape, dtype)
        write_in_tiles(tmp_path / "a.tiff", image, **encoding)
        assert_same(tifffile.imread(tmp_path / "a.tiff").astype(dtype, copy=False), image)
        with TiffFile(tmp_path / "a.tiff") as file:
            assert file.pages[0].is_tiled


def test_another_library_reads_the_pages(tmp_path: Path) -> None:
    image = image_of((4, 37, 61), "uint8")
    write_tiff(tmp_path / "a.tiff", in_odd_chunks(image), compression="zlib")
    with Image.open(tmp_path / "a.tiff") as file:
        np.testing.assert_array_equal([np.asarray(page) for page in ImageSequence.Iterator(file)], image)


def test_the_other_byte_order_is_written_as_the_values_it_means(tmp_path: Path) -> None:
    image = image_of((3, 37, 61)).astype(">u2")
    for file in files_of(image, tmp_path / "a.tiff", [{}, ZLIB]):
        np.testing.assert_array_equal(file.asarray(), image)


@pytest.mark.parametrize("name", ["a.ome.tif", "a.OME.TIFF"])
def test_the_name_still_says_that_a_file_is_an_ome_tiff(tmp_path: Path, name: str) -> None:
    image = image_of((3, 37, 61))
    for file in files_of(image, tmp_path / name, [{}, ZLIB], metadata={"axes": "CYX"}):
        assert file.is_ome
        assert file.series[0].axes == "CYX"
        np.testing.assert_array_equal(file.asarray(), image)


def test_axes_without_names_are_not_guessed_for_an_ome_tiff(tmp_path: Path) -> None:
    # tifffile would take Z for C, and T for Z.
    write_tiff(tmp_path / "a.ome.tif", image_of((1, 8, 37, 61)))
    with TiffFile(tmp_path / "a.ome.tif") as file:
        assert not file.is_ome
        assert file.asarray().shape == (1, 8, 37, 61)


def test_a_file_is_for_imagej_or_in_colours_where_that_is_asked_for(tmp_path: Path) -> None:
    image = image_of((2, 3, 37, 61))
    write_tiff(tmp_path / "a.tif", in_odd_chunks(image), imagej=True)
    with TiffFile(tmp_path / "a.tif") as file:
        assert file.is_imagej
        assert_same(file.asarray(), image)
    write_tiff(tmp_path / "a.tif", image_of((37, 61), "uint8"), colormap=np.zeros((3, 256), "uint16"))
    with TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric.name == "PALETTE"


# --- Classic or BigTIFF.


@pytest.mark.parametrize("asked", [None, True, False])
def test_a_file_is_a_bigtiff_on_demand(asked: bool | None, tmp_path: Path) -> None:
    image = image_of((3, 37, 61))
    for file in files_of(image, tmp_path / "a.tif", [{}, ZLIB], bigtiff=asked):
        assert_same(file.asarray(), image)
        assert file.is_bigtiff == bool(asked)


@pytest.mark.parametrize(("height", "options", "is_big"), [(2**15, {}, False), (2**16, {}, True)])
def test_a_file_is_a_bigtiff_where_it_would_not_fit_else(
    height: int, options: dict[str, Any], is_big: bool, tmp_path: Path
) -> None:
    def look(_: tuple[int, ...]) -> None:
        # The file has its length, a hole, before the first chunk is computed.
        (path,) = tmp_path.iterdir()
        with TiffFile(path) as file:
            assert file.is_bigtiff == is_big
            assert not file.pages[0].is_tiled
        raise InterruptedError

    with pytest.raises(InterruptedError):
        write_tiff(tmp_path / "a.tif", calling(look, (height, 2**16), (16, 2**16)), **options)


@pytest.mark.parametrize(
    ("shape", "options", "is_big"),
    [
        ((2**15, 2**16), {}, False),
        ((2**16, 2**16), {}, True),
        ((4, 2**15, 2**15), {}, True),
        ((2, 2**15, 2**15), {}, False),
        ((3, 2**15, 2**15), {"compression": "lzw"}, True),
        ((2**21, 32, 32), {}, False),
        ((2**21, 32, 32), {"tile": (256, 256)}, True),
        ((2**23, 4, 4), {}, True),
        ((2**16, 2**16), {"imagej": True}, False),
        ((2**16, 2**16), {"truncate": True}, False),
    ],
)
def test_pages_tiles_and_what_compression_may_add_count_for_a_bigtiff(
    shape: tuple[int, ...], options: dict[str, Any], is_big: bool
) -> None:
    assert needs_bigtiff(shape, 1, options) == is_big


# --- Where to.


def test_missing_folders_are_made_and_a_path_may_be_a_str(tmp_path: Path) -> None:
    write_tiff(f"{tmp_path}/a/b/c.tiff", image_of((5, 6)))
    assert_same(tifffile.imread(tmp_path / "a/b/c.tiff"), image_of((5, 6)))


def test_what_stands_in_the_way_is_named_and_left(tmp_path: Path) -> None:
    (tmp_path / "a.tiff").mkdir()
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(DestinationExistsError, match=r"a\.tiff exists and is a folder"):
        write_tiff(tmp_path / "a.tiff", image_of((5, 6)))
    with pytest.raises(OSError, match=r"could not write.*a/b\.tiff"):
        write_tiff(tmp_path / "a" / "b.tiff", image_of((5, 6)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.tiff"]


# --- What is refused.


UNFIT: list[tuple[np.ndarray, dict[str, Any], str]] = [
    *(
        (np.zeros((4, 5), dtype), {}, r"a\.tiff cannot be a TIFF file: unknown data type")
        for dtype in ("longdouble", "M8[s]", "S3", "O", "u1,u2")
    ),
    *((np.zeros(shape), {}, "at least two axes and no empty one") for shape in ((), (5,), (0, 5), (3, 5, 0))),
    *(
        (np.zeros((5, 6)), {option: None}, f"does not take {option}")
        for option in ("append", "data", "dtype", "mode", "returnoffset", "shape")
    ),
]


@pytest.mark.parametrize(("image", "options", "message"), UNFIT)
def test_an_image_that_tiff_cannot_hold_and_options_that_are_set_here_are_refused(
    tmp_path: Path, image: np.ndarray, options: dict[str, Any], message: str
) -> None:
    for img in (image, dask.array.from_array(image, chunks=3)):
        with pytest.raises(ValueError, match=message):
            write_tiff(tmp_path / "a.tiff", img, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ({"predictor": True}, "predictor without compression"),
        ({"tile": (10, 10)}, "invalid tile shape"),
        ({"tile": (0, 16)}, "invalid tile shape"),
        ({"tile": (16,)}, "invalid tile shape"),
        ({"tile": (1, 1, 16, 16)}, "invalid tile shape"),
        ({"compression": "no such"}, "no such|NO SUCH"),
        ({"compression": "jpegxl"}, "imagecodecs"),
        ({"compression": "zlib", "truncate": True}, "truncate"),
        ({"photometric": "rgb"}, "not enough samples"),
    ],
)
def test_an_option_that_is_not_possible_is_an_error_before_anything_is_computed(
    tmp_path: Path, encoding: dict[str, Any], message: str
) -> None:
    if message == "imagecodecs" and "imagecodecs" in sys.modules:
        pytest.skip("it is possible")
    computed: list[tuple[int, ...]] = []
    with pytest.raises((ValueError, KeyError), match=message):
        write_tiff(tmp_path / "a.tiff", calling(computed.append, (2, 30, 30), (1, 30, 30)), **encoding)
    assert computed == []
    assert list(tmp_path.iterdir()) == []


def test_strips_of_a_page_that_is_too_large_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"7200 bytes .* rowsperstrip=4, .* pass tile=\(256, 256\) instead"):
        write_in_tiles(tmp_path / "a.tiff", image_of((60, 60)), compression="zlib", rowsperstrip=4)
    assert list(tmp_path.iterdir()) == []


def test_a_dask_array_that_does_not_know_its_extents_or_is_wrong_about_its_chunks_is_refused(tmp_path: Path) -> None:
    image = dask.array.from_array(image_of((30, 30)), chunks=10)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        write_tiff(tmp_path / "a.tiff", image[image[:, 0] > 0])
    for wrong, message in (
        (image.map_blocks(lambda block: block.astype("int64"), meta=np.empty((0, 0), "uint16")), r"\(10, 10\) int64"),
        (image.map_blocks(lambda block: block[:5], meta=np.empty((0, 0), "uint16")), r"\(5, 10\) uint16"),
    ):
        with pytest.raises(ValueError, match=rf"chunk \(0, 0\) of the image is {message}"):
            write_tiff(tmp_path / "a.tiff", wrong)
    assert list(tmp_path.iterdir()) == []


# --- How a dask array is computed.


def test_chunks_without_elements_are_passed_over(tmp_path: Path) -> None:
    image = image_of((3, 30, 30))
    parts = [image[:1], image[1:1], image[1:]]
    img = dask.array.concatenate([dask.array.from_array(part, chunks=(3, 16, 16)) for part in parts])
    write_tiff(tmp_path / "a.tiff", img)
    assert_same(tifffile.imread(tmp_path / "a.tiff"), image)


def test_any_region_of_a_dask_array_is_read() -> None:
    image = image_of((5, 30, 31))
    lazy = LazyImage(in_odd_chunks(image))
    for region in (((0, 5), (0, 30), (0, 31)), ((1, 2), (3, 29), (6, 8)), ((4, 5), (0, 1), (30, 31))):
        assert_same(lazy.read(region), image[tuple(slice(*interval) for interval in region)])
    assert len(list(lazy.chunk_regions())) == 27


# --- The declaration.


def test_a_function_that_takes_a_lazy_image_is_found_behind_partials_methods_and_objects() -> None:
    class Writer:
        @takes_lazy_image
        def __call__(self, file_path: Path, img: Any) -> None: ...

        @takes_lazy_image
        def write(self, file_path: Path, img: Any) -> None: ...

        def write_whole(self, file_path: Path, img: Any) -> None: ...

    for write_func in (
        write_tiff,
        functools.partial(write_tiff, compression="zlib"),
        functools.partial(functools.partial(write_tiff, compression="zlib"), tile=(16, 16)),
        Writer(),
        Writer().write,
        functools.partial(Writer().write),
    ):
        assert is_lazy(write_func)
    for write_func in (print, Writer().write_whole, functools.partial(print), np.save, lambda file_path, img: None):
        assert not is_lazy(write_func)
    assert write_tiff.takes_lazy_image is True
