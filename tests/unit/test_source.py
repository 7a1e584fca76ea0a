"""Any kind of source gives any window, reads no more than it needs, and says what is wrong with it by its name."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
import zarr
from tests.support import CountingStore, is_metadata, write_hdf5, write_n5
from zarr.storage import MemoryStore

from tilewright.errors import GeometryError, SourceError
from tilewright.sources.opening import open_source

IMAGE = np.random.default_rng(4).integers(0, 60_000, (6, 24, 20)).astype("uint16")
WINDOW = {"Z": (2, 5), "Y": (7, 16), "X": (0, 11)}
EXPECTED = IMAGE[2:5, 7:16, 0:11]


STORED: dict[str, Any] = {"shape": IMAGE.shape, "chunks": (2, 8, 8), "dtype": "uint16"}


def zarr_path(folder: Path, **options: Any) -> Path:
    zarr.create_array(folder / "a.zarr", **STORED, **options)[...] = IMAGE
    return folder / "a.zarr"


def group_path(folder: Path) -> Path:
    zarr.create_group(folder / "group.zarr").create_array("0", **STORED)[...] = IMAGE
    return folder / "group.zarr"


def memory_store() -> MemoryStore:
    store = MemoryStore()
    zarr.create_group(store).create_array("0", **STORED)[...] = IMAGE
    return store


def memmap(folder: Path, order: str = "C") -> np.memmap:
    mapped = np.memmap(folder / "image.raw", "uint16", "w+", offset=16, shape=IMAGE.shape, order=order)
    mapped[...] = IMAGE
    mapped.flush()
    return mapped


def transposed_memmap(folder: Path) -> np.memmap:
    """A view that is contiguous in no order."""
    mapped = np.memmap(folder / "transposed.raw", "uint16", "w+", shape=(24, 6, 20))
    mapped[...] = IMAGE.transpose(1, 0, 2)
    mapped.flush()
    return mapped.transpose(1, 0, 2)


def sliced_memmap(folder: Path) -> np.memmap:
    """A part of a file: its own offset is that of the whole."""
    mapped = np.memmap(folder / "whole.raw", "uint16", "w+", offset=16, shape=(9, 30, 21))
    mapped[...] = 0
    mapped[1:7, 3:27, 1:21] = IMAGE
    mapped.flush()
    return mapped[1:7, 3:27, 1:21]


def tiff(folder: Path, **options: Any) -> Path:
    tifffile.imwrite(folder / "image.tif", IMAGE, photometric="minisblack", **options)
    return folder / "image.tif"


def pages(folder: Path) -> Path:
    """One page after the other, as microscopes write them, without a word on their number."""
    with tifffile.TiffWriter(folder / "pages.tiff") as writer:
        for page in IMAGE:
            writer.write(page, photometric="minisblack", contiguous=False, metadata=None)
    return folder / "pages.tiff"


def npy(folder: Path) -> Path:
    np.save(folder / "image.npy", IMAGE)
    return folder / "image.npy"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "a path of a Zarr array": zarr_path,
    "a string": lambda folder: str(zarr_path(folder)),
    "a path of a Zarr 2 array": lambda folder: zarr_path(folder, zarr_format=2),
    "a path of a Zarr group": group_path,
    "a path of an array in a Zarr group": lambda folder: group_path(folder) / "0",
    "a Zarr array": lambda folder: zarr.open_array(zarr_path(folder), mode="r"),
    "a Zarr group": lambda folder: zarr.open_group(group_path(folder), mode="r"),
    "a Zarr store": lambda folder: memory_store(),
    "a NumPy array": lambda folder: IMAGE,
    "a NumPy array in F order": lambda folder: np.asfortranarray(IMAGE),
    "a NumPy array of the other byte order": lambda folder: IMAGE.astype(">u2"),
    "a memmap": memmap,
    "a memmap in F order": lambda folder: memmap(folder, "F"),
    "a memmap of a .npy file": lambda folder: np.load(npy(folder), mmap_mode="r"),
    "a part of a memmap": sliced_memmap,
    "every second plane of a memmap": lambda folder: np.repeat(IMAGE, 2, axis=0).view(np.ndarray)[::2],
    "a transposed memmap": transposed_memmap,
    "a dask array": lambda folder: dask.array.from_array(IMAGE, chunks=(3, 7, 9)),
    "a plain TIFF": tiff,
    "a compressed TIFF": lambda folder: tiff(folder, compression="zlib"),
    "a tiled TIFF": lambda folder: tiff(folder, tile=(16, 16)),
    "a compressed and tiled TIFF": lambda folder: tiff(folder, tile=(16, 16), compression="zlib"),
    "an ImageJ TIFF": lambda folder: tiff(folder, imagej=True),
    "an OME-TIFF": lambda folder: tiff(folder, ome=True),
    "a BigTIFF": lambda folder: tiff(folder, bigtiff=True),
    "a TIFF of single pages": pages,
    "HDF5": lambda folder: write_hdf5(folder / "raw.h5", IMAGE),
    "HDF5, compressed": lambda folder: write_hdf5(folder / "raw.hdf5", IMAGE, chunks=(2, 8, 8), compression="gzip"),
    "N5": lambda folder: write_n5(folder / "raw.n5/volumes/raw", IMAGE, (2, 8, 8)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_each_kind_gives_the_window_and_does_so_after_a_journey(kind: str, tmp_path: Path) -> None:
    source = open_source(SOURCES[kind](tmp_path), "ZYX")
    assert source.axes.shape == IMAGE.shape
    np.testing.assert_array_equal(source.read_window(WINDOW), EXPECTED[np.newaxis])
    travelled = pickle.loads(pickle.dumps(source))
    window = travelled.read_window(WINDOW)
    np.testing.assert_array_equal(window, EXPECTED[np.newaxis])
    # The model may write into it.
    assert window.flags.writeable
    assert not source.take_missing() | travelled.take_missing()


FILES = [
    "a path of a Zarr group",
    "a Zarr array",
    "a memmap",
    "a part of a memmap",
    "a plain TIFF",
    "a compressed TIFF",
    "HDF5",
    "N5",
]


@pytest.mark.slow
def test_files_are_read_in_another_process(tmp_path: Path) -> None:
    sources = []
    for kind in FILES:
        (tmp_path / kind).mkdir()
        sources.append(open_source(SOURCES[kind](tmp_path / kind), "ZYX"))
    program = (
        "import pickle, sys\n"
        f"windows = [source.read_window({WINDOW!r}) for source in pickle.load(sys.stdin.buffer)]\n"
        "sys.stdout.buffer.write(pickle.dumps(windows))\n"
    )
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, input=pickle.dumps(sources), capture_output=True, check=True)
    for window in pickle.loads(answer.stdout):
        np.testing.assert_array_equal(window, EXPECTED[np.newaxis])


@pytest.mark.parametrize(
    "kind", ["a memmap", "a plain TIFF", "a compressed TIFF", "a path of a Zarr array", "HDF5", "N5"]
)
def test_a_source_that_travels_takes_none_of_its_elements_along(kind: str, tmp_path: Path) -> None:
    source = open_source(SOURCES[kind](tmp_path), "ZYX")
    source.read_window(WINDOW)
    assert len(pickle.dumps(source)) < IMAGE.nbytes / 4


def test_a_part_of_a_memmap_takes_no_elements_along_but_its_own(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "large.raw", "uint16", "w+", shape=(200, 100, 100))
    source = open_source(mapped[:2, :10, :10], "ZYX")
    assert len(pickle.dumps(source)) < 4000


@pytest.mark.parametrize("axes", ["XYZ", "YXZ", "CZYX", "YXC", "SZYX", "XSZCY", "TYX", "CTSYX"])
def test_axes_in_any_order_give_windows_in_the_order_of_the_model(axes: str) -> None:
    extents = {"S": 2, "T": 3, "C": 4, "Z": 5, "Y": 6, "X": 7}
    image = np.random.default_rng(5).integers(0, 100, [extents[name] for name in axes])
    window = {
        name: {"S": (1, 2), "T": (2, 3), "Z": (1, 4), "Y": (2, 6), "X": (0, 5)}[name] for name in axes if name != "C"
    }
    taken = image[tuple(slice(*window.get(name, (0, 4))) for name in axes)]
    for name in "ST":
        if name in axes:
            taken = taken.take(0, axis=[n for n in axes if n not in "ST"[: "ST".index(name)]].index(name))
    left = [name for name in axes if name not in "ST"]
    expected = taken.transpose([left.index(name) for name in "CZYX" if name in left])
    expected = expected if "C" in axes else expected[np.newaxis]
    np.testing.assert_array_equal(open_source(image, axes).read_window(window), expected)


def test_opening_a_source_gets_no_data_and_reading_a_window_only_its_chunks() -> None:
    store = CountingStore(memory_store())
    source = open_source(store, "ZYX")
    assert all(map(is_metadata, store.gets))
    source.read_window({"Z": (2, 4), "Y": (8, 17), "X": (0, 8)})
    assert {key for key in store.gets if not is_metadata(key)} == {"0/c/1/1/0", "0/c/1/2/0"}


def test_a_dask_array_computes_only_the_blocks_of_the_window() -> None:
    computed = []

    def block(block_info: Any = None) -> np.ndarray:
        computed.append(block_info[None]["chunk-location"])
        return np.zeros((3, 8, 10), "uint16")

    array = dask.array.map_blocks(
        block, chunks=((3, 3), (8, 8, 8), (10, 10)), dtype="uint16", meta=np.zeros(0, "uint16")
    )
    open_source(array, "ZYX").read_window({"Z": (0, 2), "Y": (8, 9), "X": (0, 12)})
    assert sorted(computed) == [(0, 1, 0), (0, 1, 1)]


@pytest.mark.parametrize("axes", ["YXZ", "ZXY", "SYX", "CYX"])
def test_what_an_image_in_memory_gives_is_contiguous_or_can_be_stacked(axes: str) -> None:
    source = open_source(IMAGE, axes)
    read = source.read_window({"S": (0, 1)})
    assert np.stack([read, read]).shape == (2, *read.shape)


# --- What cannot be read.


def file_of(content: bytes, name: str, folder: Path) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def group_of_labels(folder: Path) -> Path:
    zarr.create_group(folder / "g.zarr").create_array("labels", shape=(4, 4), dtype="uint8")
    return folder / "g.zarr"


def empty_folder(folder: Path) -> Path:
    (folder / "folder").mkdir()
    return folder / "folder"


NO_SOURCE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing path": (lambda folder: folder / "nowhere.zarr", r"nowhere\.zarr does not exist"),
    "a URL": (lambda folder: "s3://bucket/raw.zarr", r"s3://bucket/raw\.zarr.* is a URL; open it with zarr"),
    **{
        f"a TIFF of {content[:4]!r}": (partial(file_of, content, "a.tif"), r"could not open the source .*a\.tif")
        for content in (b"", b"II*\0 this is no TIFF", b"\x89PNG\r\n\x1a\n")
    },
    "a file of another kind": (partial(file_of, b"hello", "notes.txt"), r"could not open the source .*notes\.txt"),
    "a folder": (empty_folder, "could not open the source .*folder"),
    "a group without an array 0": (group_of_labels, r"g\.zarr.*with no array '0'.*labels"),
    "an empty group": (
        lambda folder: zarr.create_group(folder / "empty.zarr") and folder / "empty.zarr",
        r"empty\.zarr",
    ),
    "an open group without an array 0": (lambda folder: zarr.create_group(MemoryStore()), "no array '0'"),
    "elements that are no numbers": (lambda folder: np.array([["a", "b"]]), "elements of type"),
    "None": (lambda folder: None, "a source is a path, or an array"),
    "a number": (lambda folder: 3, "a source is a path, or an array"),
    "a list": (lambda folder: [[1, 2], [3, 4]], "a source is a path, or an array"),
}


@pytest.mark.parametrize("kind", NO_SOURCE)
def test_what_is_no_source_is_named(kind: str, tmp_path: Path) -> None:
    make, message = NO_SOURCE[kind]
    source = make(tmp_path)
    with pytest.raises(SourceError, match=message):
        open_source(source, "YX")


def with_broken_strips(folder: Path) -> Path:
    path = tiff(folder, compression="zlib", rowsperstrip=8)
    with tifffile.TiffFile(path) as file:
        starts = [start for page in file.pages for start in page.dataoffsets]
    content = bytearray(path.read_bytes())
    for start in starts:
        content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    return path


def with_a_truncated_chunk(folder: Path) -> Path:
    path = zarr_path(folder)
    chunk = path / "c" / "1" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    return path


@pytest.mark.parametrize("broken", [with_broken_strips, with_a_truncated_chunk])
def test_what_is_broken_is_named_with_the_window(broken: Callable[[Path], Path], tmp_path: Path) -> None:
    path = broken(tmp_path)
    source = open_source(path, "ZYX")
    with pytest.raises(SourceError, match=rf"could not read Z 2:5, Y 7:16, X 0:11 of .*{path.name}") as caught:
        source.read_window(WINDOW)
    assert caught.value.__cause__ is not None


def test_a_store_of_a_single_array_is_that_array() -> None:
    store = MemoryStore()
    zarr.create_array(store, shape=(4, 4), dtype="uint8")[...] = 7
    assert (open_source(store, "YX").read_window({}) == 7).all()


def test_a_memmap_whose_file_is_gone_is_named(tmp_path: Path) -> None:
    source = open_source(memmap(tmp_path), "ZYX")
    travelling = pickle.dumps(source)
    (tmp_path / "image.raw").unlink()
    with pytest.raises(SourceError, match=r"image\.raw"):
        pickle.loads(travelling).read_window(WINDOW)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("YX", r"a\.zarr.*names 2 axes, but the source has 3.*\(6, 24, 20\)"),
        ("ZYQ", r"a\.zarr.*unknown letters \['Q'\]"),
        ("YYX", r"a\.zarr.*names \['Y'\] more than once"),
        ("SZY", r"a\.zarr.*must name both Y and X"),
        ("zyx", r"a\.zarr.*unknown letters"),
        ("", r"a\.zarr.*must name both Y and X"),
        (("Z", "Y", "X"), "axes must be a string such as 'ZYX'"),
    ],
)
def test_wrong_axes_name_the_source_and_what_is_wrong(axes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=message):
        open_source(zarr_path(tmp_path), axes)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"no elements along \['Y'\]"):
        open_source(np.zeros((0, 4)), "YX")
