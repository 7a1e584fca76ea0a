"""What a source stands on is found wherever it stands, and what cannot be known is said."""

import functools
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import tifffile
import torch
import zarr
from tests.support import CountingStore, ForeignStore
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, StorePath

from tilewright.sources.opening import open_source
from tilewright.sources.source_places import SourcePlaces, places_of
from tilewright.stores.places import place_of_path, place_of_store

IMAGE = np.arange(64 * 64, dtype="uint16").reshape(64, 64)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A Zarr array, and beside it the same as elements, as TIFF and for NumPy."""
    path = tmp_path / "raw.zarr"
    zarr.create_array(path, data=IMAGE, chunks=(16, 16))
    IMAGE.tofile(tmp_path / "raw.bin")
    np.save(tmp_path / "raw.npy", IMAGE)
    tifffile.imwrite(tmp_path / "raw.tif", IMAGE, compression="zlib")
    return path


def mapped(raw: Path) -> np.memmap:
    return np.memmap(raw.with_suffix(".bin"), "uint16", "r", shape=IMAGE.shape)


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def window(self, block: np.ndarray) -> np.ndarray:
        return block + np.asarray(self.held[:1, :1])


def add(block: np.ndarray, other: Any) -> np.ndarray:
    return block + np.asarray(other)[0, 0]


def lazy(function: Any, **keywords: Any) -> dask.array.Array:
    return dask.array.map_blocks(
        function, dask.array.from_array(IMAGE, chunks=16), dtype="uint16", meta=np.empty((0, 0), "uint16"), **keywords
    )


def closing_over(held: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda block: block + np.asarray(held)[0, 0]


ON_ZARR: dict[str, Callable[[Path], Any]] = {
    "path": lambda raw: raw,
    "text": str,
    "array": lambda raw: zarr.open_array(raw, mode="r"),
    "store": LocalStore,
    "path in a store": lambda raw: StorePath(LocalStore(raw.parent), "raw.zarr"),
    "wrapped": lambda raw: zarr.open_array(LoggingStore(LocalStore(raw)), mode="r"),
    "by fsspec": lambda raw: zarr.open_array(FsspecStore.from_url(f"file://{raw}"), mode="r"),
    "by dask": dask.array.from_zarr,
    "by dask in parts": lambda raw: (dask.array.from_zarr(raw)[3:40, ::2] + 1).rechunk(7),
    "in a task": lambda raw: dask.array.from_delayed(
        dask.delayed(np.asarray)(zarr.open_array(raw, mode="r")), IMAGE.shape, "uint16"
    ),
    "as argument": lambda raw: lazy(add, other=zarr.open_array(raw, mode="r")),
    "in a partial function": lambda raw: lazy(functools.partial(add, other=zarr.open_array(raw, mode="r"))),
    "in a closure": lambda raw: lazy(closing_over(zarr.open_array(raw, mode="r"))),
    "in a bound method": lambda raw: lazy(Holder(zarr.open_array(raw, mode="r")).window),
    "in a list in an object": lambda raw: lazy(Holder([{"a": (zarr.open_array(raw, mode="r"),)}]).window),
    "optimised": lambda raw: dask.optimize(dask.array.from_zarr(raw) + 1)[0],
    "in an array of objects": lambda raw: np.array([zarr.open_array(raw, mode="r"), None], dtype=object)[::-1],
}
ON_BIN: dict[str, Callable[[Path], Any]] = {
    "memory map": mapped,
    "view": lambda raw: mapped(raw)[3:, ::2].T,
    "view without a class": lambda raw: np.asarray(mapped(raw))[3:],
    "view of another type": lambda raw: np.asarray(mapped(raw)).view("uint8"),
    "of a buffer": lambda raw: np.frombuffer(memoryview(mapped(raw)).cast("B"), "uint16"),
    "of the map itself": lambda raw: np.frombuffer(mapped(raw)._mmap, "uint16"),
    "of torch": lambda raw: torch.from_file(str(raw.with_suffix(".bin")), size=64, dtype=torch.int16).numpy(),
    "in a task": lambda raw: lazy(functools.partial(add, other=np.asarray(mapped(raw))[1:])),
    "copied on write": lambda raw: np.memmap(raw.with_suffix(".bin"), "uint16", "c", shape=IMAGE.shape),
}
ON_TIFF: dict[str, Callable[[Path], Any]] = {
    "store of tifffile": lambda raw: tifffile.imread(raw.with_suffix(".tif"), aszarr=True),
    "array in it": lambda raw: zarr.open(tifffile.imread(raw.with_suffix(".tif"), aszarr=True), mode="r"),
    "sequence": lambda raw: tifffile.TiffSequence(str(raw.with_suffix(".tif"))).aszarr(),
}


@pytest.mark.parametrize(
    ("source", "suffix"),
    [
        *(pytest.param(source, ".zarr", id=name) for name, source in ON_ZARR.items()),
        *(pytest.param(source, ".bin", id=name) for name, source in ON_BIN.items()),
        *(pytest.param(source, ".tif", id=name) for name, source in ON_TIFF.items()),
    ],
)
def test_what_is_read_is_found_wherever_it_stands(source: Callable[[Path], Any], suffix: str, raw: Path) -> None:
    found = places_of(source(raw))
    assert place_of_path(raw.with_suffix(suffix)) in found.places
    assert not found.unknown


def test_a_file_that_is_open_is_found(raw: Path) -> None:
    with raw.with_suffix(".bin").open("rb") as file, tifffile.TiffFile(raw.with_suffix(".tif")) as tiff:
        assert places_of(Holder([file, tiff])).places == {
            place_of_path(raw.with_suffix(".bin")),
            place_of_path(raw.with_suffix(".tif")),
        }


def test_an_opened_source_is_where_its_file_and_what_is_read_of_it_are(tmp_path: Path, raw: Path) -> None:
    zarr.create_group(tmp_path / "linked.zarr")
    (tmp_path / "linked.zarr" / "0").symlink_to(raw)
    source = open_source(tmp_path / "linked.zarr", "YX")
    assert places_of(source).places == {place_of_path(tmp_path / "linked.zarr"), place_of_path(raw)}
    assert source.read_window({}).shape == (1, 64, 64)


def read_with_numpy(path: Path, axes: str) -> Any:
    return np.load(path, mmap_mode="r")


def test_what_a_function_reads_is_a_source_beside_its_path(raw: Path) -> None:
    source = open_source(raw.with_suffix(".npy"), "YX", read_with_numpy)
    assert places_of(source) == SourcePlaces({place_of_path(raw.with_suffix(".npy"))})
    other = open_source(raw.with_suffix(".npy"), "YX", lambda path, axes: zarr.open_array(raw, mode="r"))
    assert place_of_path(raw) in places_of(other).places


def delayed(function: Any, *arguments: Any) -> dask.array.Array:
    return dask.array.from_delayed(dask.delayed(function)(*arguments), IMAGE.shape, "uint16")


NAMING: dict[str, Callable[[Path], Any]] = {
    "text": lambda file: delayed(np.load, str(file)),
    "path": lambda file: delayed(np.load, file),
    "bytes": lambda file: delayed(np.load, bytes(file)),
    "partial": lambda file: lazy(functools.partial(add, other=str(file))),
    "closure": lambda file: lazy(closing_over(str(file))),
    "text of NumPy": lambda file: lazy(functools.partial(add, other=np.str_(file))),
    "URL": lambda file: lazy(functools.partial(add, other=f"file://{file}")),
}


@pytest.mark.parametrize("how", NAMING)
def test_a_file_that_is_named_is_taken_for_one_that_is_read(how: str, raw: Path) -> None:
    file = raw.with_suffix(".npy")
    assert place_of_path(file) in places_of(NAMING[how](file)).places


def test_a_pattern_names_what_is_there(tmp_path: Path, raw: Path) -> None:
    found = places_of(lazy(functools.partial(add, other=f"{tmp_path}/*.tif")))
    assert found.places == {place_of_path(raw.with_suffix(".tif"))}


def test_an_output_may_lie_in_a_folder_that_is_named_and_may_not_hold_it(tmp_path: Path, raw: Path) -> None:
    (place,) = places_of(lazy(functools.partial(add, other=str(tmp_path)))).places
    assert place.overlaps(place_of_path(tmp_path))
    assert place.overlaps(place_of_path(tmp_path.parent))
    assert not place.overlaps(place_of_path(tmp_path / "new.zarr"))


@pytest.mark.parametrize(
    "source",
    [
        IMAGE,
        np.ascontiguousarray(IMAGE.T),
        np.array(IMAGE[::2]),
        dask.array.from_array(IMAGE, chunks=16) + 1,
        dask.array.zeros((9, 9), chunks=3),
        dask.array.random.default_rng(3).random((9, 9), chunks=3),
        lazy(lambda block: np.sqrt(block.astype("float32"))),
        lazy(torch.nn.Identity()),
        dask.array.from_array(torch.ones(9, 9).numpy(), chunks=3),
        dask.array.overlap.overlap(dask.array.from_array(IMAGE, chunks=16), 1, "reflect"),
        lazy(Holder(io.BytesIO(b"abc")).window),
        lazy(Holder([threading.Lock(), threading.RLock()]).window),
    ],
    ids=range(12),
)
def test_what_is_in_memory_or_computed_stands_on_nothing(source: Any) -> None:
    assert places_of(source) == SourcePlaces()


class Reader:
    """A function of another library, which reads from an unknown place."""

    shape, dtype, ndim = IMAGE.shape, IMAGE.dtype, 2

    def __getitem__(self, key: Any) -> np.ndarray:
        return IMAGE[key]


def from_a_file() -> np.ndarray:
    with open(io.__file__, "rb"):  # noqa: PTH123
        return IMAGE


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (Reader(), "an array of the class"),
        (dask.array.from_array(Reader(), chunks=16), "an array of the class"),
        (dask.array.from_delayed(dask.delayed(from_a_file)(), (64, 64), "uint16"), "the function from_a_file"),
        (ForeignStore(MemoryStore()), "ForeignStore"),
        (lazy(Holder(x for x in "abc").window), "generator"),
    ],
    ids=["array", "array in dask", "function", "store", "generator"],
)
def test_what_cannot_be_known_is_said(source: Any, text: str) -> None:
    found = places_of(source)
    assert any(text in unknown.text for unknown in found.unknown)


def test_a_foreign_wrapper_lies_within_what_it_wraps(raw: Path) -> None:
    store = MemoryStore()
    found = places_of(StorePath(CountingStore(store), "a"))
    assert found.places == {place_of_store(store, "a")}
    assert [unknown.within for unknown in found.unknown] == [place_of_store(store)]


class Dataset:
    """A dataset as that of h5py: it is asked for its file, and cannot be pickled."""

    shape, dtype, ndim = IMAGE.shape, IMAGE.dtype, 2

    def __init__(self, file: Any) -> None:
        self.file = file

    def __getitem__(self, key: Any) -> np.ndarray:
        return IMAGE[key]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("h5py objects cannot be pickled")


class File:
    def __init__(self, filename: str) -> None:
        self.filename = filename


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: dask.array.from_array(data, chunks=16)])
def test_a_dataset_says_the_name_of_its_file(wrap: Callable[[Any], Any], raw: Path) -> None:
    found = places_of(wrap(Dataset(File(str(raw.with_suffix(".npy"))))))
    assert found == SourcePlaces({place_of_path(raw.with_suffix(".npy"))})


def test_large_graphs_are_walked_without_being_made_or_copied() -> None:
    import tracemalloc

    small = dask.array.from_array(np.ones((4000, 1000)), chunks=1000) + 1
    tracemalloc.start()
    try:
        assert places_of(small) == SourcePlaces()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
    assert places_of(dask.array.zeros((10**6, 10**6), chunks=100) + 1) == SourcePlaces()
