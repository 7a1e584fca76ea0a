"""Every kind of source gives its voxels to every executor, or is refused with its name and a remedy."""

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
import zarr
from distributed import Client
from tests.doors.conftest import IMAGE, REQUEST, Predict, negated
from tests.support import note, noted, write_hdf5, write_n5
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, WrapperStore, ZipStore

import tilewright as tw

CHUNKS = {"chunks": (16, 16)}
REQUEST_OF_PLAN: dict[str, Any] = {name: value for name, value in REQUEST.items() if name != "progress"}


class NotSent:
    """An array of a library whose arrays cannot be pickled."""

    shape, dtype = IMAGE.shape, IMAGE.dtype

    def __getitem__(self, window: Any) -> np.ndarray:
        return IMAGE[window]

    def __reduce__(self) -> Any:
        raise TypeError("no such array can be pickled")


def zarr_array(path: str = "raw.zarr") -> zarr.Array:
    return zarr.create_array(path, data=IMAGE, **CHUNKS)


def zarr_group(path: str = "raw.zarr") -> zarr.Group:
    group = zarr.open_group(path, mode="w")
    group.create_array("0", data=IMAGE, **CHUNKS)
    return group


def ome_zarr(version: str) -> str:
    group = zarr.open_group("ome.zarr", mode="w")
    group.create_array("scale0/image", data=IMAGE, **CHUNKS)
    group.create_array("0", data=IMAGE + 1, **CHUNKS)
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    said = {"multiscales": [{"axes": axes, "datasets": [{"path": "scale0/image"}]}]}
    group.attrs.update(said if version == "0.4" else {"ome": {"version": version, **said}})
    return "ome.zarr"


def converted_by_bioformats(series: list[str] | None = None) -> str:
    root = zarr.open_group("bf.zarr", mode="w")
    root.attrs["bioformats2raw.layout"] = 3
    if series is not None:
        root.create_group("OME").attrs["series"] = series
    for number, name in enumerate(series or ["0", "1"]):
        image = root.create_group(name)
        image.create_array("0", data=IMAGE + number, **CHUNKS)
        image.attrs["multiscales"] = [{"datasets": [{"path": "0"}]}]
    return "bf.zarr"


def zip_file(mode: str = "r") -> ZipStore:
    with ZipStore("raw.zip", mode="w") as store:
        zarr.create_array(store, data=IMAGE, **CHUNKS)
    return ZipStore("raw.zip", mode=mode)  # type: ignore[arg-type]


def tiff(path: str = "raw.tif", **options: Any) -> str:
    tifffile.imwrite(path, IMAGE, photometric="minisblack", **options)
    return path


def memory_map() -> np.memmap:
    IMAGE.tofile("raw.bin")
    return np.memmap("raw.bin", "float32", "r", shape=IMAGE.shape)


def with_name_of_a_pattern() -> str:
    tifffile.imwrite("cell12.tif", 7 * IMAGE, compression="zlib")
    return tiff("cell[1]?.tif", compression="zlib")


def with_name_of_a_protocol() -> str:
    zarr.create_array(LocalStore("a::b.zarr"), data=IMAGE, **CHUNKS)
    return "a::b.zarr"


RIGHT: dict[str, Callable[[], Any]] = {
    "NumPy": lambda: IMAGE,
    "NumPy, every second element of a larger array": lambda: np.repeat(np.repeat(IMAGE, 2, 0), 2, 1)[::2, ::2],
    "NumPy, in Fortran order and another byte order": lambda: np.asfortranarray(IMAGE).astype(">f4"),
    "NumPy, masked nowhere": lambda: np.ma.masked_array(IMAGE, False),
    "a memory map": memory_map,
    "a copy-on-write map": lambda: np.memmap(memory_map().filename, "float32", "c", shape=IMAGE.shape),
    "Zarr, a relative path": lambda: zarr_array() and "raw.zarr",
    "Zarr, opened by a relative path": zarr_array,
    "Zarr, a group opened by a relative path": zarr_group,
    "Zarr, format 2": lambda: zarr.create_array("two.zarr", data=IMAGE, zarr_format=2, **CHUNKS),
    "Zarr, a store of a relative path": lambda: zarr_array() and LocalStore("raw.zarr"),
    "Zarr, a wrapped store": lambda: zarr_array() and WrapperStore(LocalStore("raw.zarr")),
    "Zarr, a logging store": lambda: zarr_array() and LoggingStore(LocalStore("raw.zarr"), log_level="ERROR"),
    "Zarr, a zip file": zip_file,
    "Zarr, the path of a zip file": lambda: zip_file() and "raw.zip",
    "Zarr, its name with colons": with_name_of_a_protocol,
    "OME-Zarr 0.4": lambda: ome_zarr("0.4"),
    "OME-Zarr 0.5": lambda: ome_zarr("0.5"),
    "the first of several images of a converter": converted_by_bioformats,
    "the first image that a converter names": lambda: converted_by_bioformats(["1", "0"]),
    "TIFF": tiff,
    "TIFF, compressed": lambda: tiff(compression="zlib"),
    "TIFF, in tiles": lambda: tiff(tile=(16, 16), compression="zlib"),
    "TIFF, its name a pattern": with_name_of_a_pattern,
    "HDF5, a relative path": lambda: write_hdf5(Path("raw.h5"), IMAGE, chunks=CHUNKS["chunks"], compression="gzip"),
    "N5, a relative path": lambda: write_n5(Path("raw.n5/volumes/raw"), IMAGE, CHUNKS["chunks"]),
    "Dask": lambda: dask.array.from_array(IMAGE, chunks=20),
    "Dask, of Zarr opened by a relative path": lambda: zarr_array() and dask.array.from_zarr("raw.zarr"),
    "Dask, of an open Zarr array": lambda: dask.array.from_array(zarr_array()),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_a_source_gives_its_voxels(kind: str, predict: Predict) -> None:
    np.testing.assert_array_equal(predict(source=RIGHT[kind]()).array[...], -IMAGE)


def gone(source: Any) -> Any:
    shutil.rmtree("raw.zarr")
    return source


def written_again() -> np.memmap:
    source = memory_map()
    IMAGE[:20].tofile("raw.bin")
    return source


@dataclass
class Reads:
    """A function that reads a format of its own, and writes down each call."""

    notes: str
    kind: Callable[[np.ndarray], Any]

    def __call__(self, path: Path, axes: str) -> Any:
        note(self.notes)
        assert axes == "YX"
        return self.kind(np.load(path))


RETURNED: dict[str, Callable[[np.ndarray], Any]] = {
    "NumPy": lambda image: image,
    "Dask": lambda image: dask.array.from_array(image, chunks=20),
    "Zarr in memory": lambda image: zarr.create_array(MemoryStore(), data=image),
}


@pytest.mark.parametrize("kind", RETURNED)
def test_a_function_reads_a_path_once_in_each_process(
    kind: str, executor: str, predict: Predict, tmp_path_factory: pytest.TempPathFactory
) -> None:
    notes = str(tmp_path_factory.mktemp("notes") / "calls")
    np.save("raw.npy", IMAGE)
    read = Reads(notes, RETURNED[kind])
    np.testing.assert_array_equal(predict(source="raw.npy", read_source_func=read).array[...], -IMAGE)
    assert 1 <= noted(notes) <= (1 if executor == "embedded" else 3)
    assert tw.plan_write("raw.npy", **REQUEST_OF_PLAN, read_source_func=read).shape == IMAGE.shape


def test_an_output_goes_on_with_the_same_function_only(folder: Path) -> None:
    np.save("raw.npy", IMAGE)
    options: dict[str, Any] = {"source": "raw.npy", "destination": "out.zarr", "if_exists": "resume", **REQUEST}
    tw.predict_to_zarr(negated, **options, read_source_func=lambda path, axes: np.load(path))
    Path("out.zarr/0/c/0/0").unlink()
    with pytest.raises(OSError, match=r"source: file of .* read by .* then"):
        tw.predict_to_zarr(negated, **options, read_source_func=lambda path, axes: np.load(path) + 1)
    with pytest.raises(OSError, match=r"could not open the source .*raw\.npy"):
        tw.repair("out.zarr", negated, progress=False)
    report = tw.repair("out.zarr", negated, progress=False, read_source_func=lambda path, axes: np.load(path))
    np.testing.assert_array_equal(report.array[...], -IMAGE)


def test_a_function_that_returns_another_image_elsewhere_is_refused(folder: Path, elsewhere: Client) -> None:
    here = os.getpid()
    np.save("raw.npy", IMAGE)

    def read(path: Path, axes: str) -> np.ndarray:
        return IMAGE if os.getpid() == here else IMAGE[:30]

    with pytest.raises(OSError, match=r"returned .*\(40, 56\), '<f4'.* at first, and \(\(30, 56\)"):
        tw.predict_to_zarr(negated, "raw.npy", "out.zarr", client=elsewhere, read_source_func=read, **REQUEST)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a masked array": (lambda: np.ma.masked_greater(IMAGE, 100), "masked array: .* would be dropped.*filled"),
    "a masked dask array": (lambda: dask.array.ma.masked_greater(dask.array.from_array(IMAGE), 9), "masked.*filled"),
    "unknown chunks": (lambda: (x := dask.array.from_array(IMAGE))[x[:, 0] > 50], r"compute_chunk_sizes\(\)"),
    "text": (lambda: IMAGE.astype(str), "only numbers of at most 64 bits"),
    "complex numbers": (lambda: IMAGE.astype(complex), "only numbers of at most 64 bits"),
    "wide floats": (lambda: IMAGE.astype(np.longdouble), "only numbers of at most 64 bits"),
    "a tensor": (lambda: pytest.importorskip("torch").as_tensor(IMAGE), r"tensor\.numpy\(\)"),
    "a list": (IMAGE.tolist, "a source is a path, or an array"),
    "a URL": (lambda: "s3://bucket/raw.zarr", "is a URL"),
    "a file that is not there": (lambda: "nowhere.tif", "does not exist"),
    "a file of another kind": (lambda: Path("raw.csv").write_text("1") and "raw.csv", "a file is TIFF .* or Zarr"),
    "a file of HDF5": (lambda: write_hdf5(Path("raw.h5"), IMAGE) and "raw.h5", r"none is named: it holds /volumes/raw"),
    "a group of HDF5": (
        lambda: write_hdf5(Path("a.h5"), IMAGE).parent,
        r"no dataset '/volumes': it holds /volumes/raw",
    ),
    "a group of N5": (lambda: write_n5(Path("a.n5/b/c"), IMAGE, (9, 9)) and "a.n5", r"it holds b/c \(40, 56\) float32"),
    "a group without an image": (lambda: zarr.open_group("raw.zarr", mode="w"), "no array '0'"),
    "a Zarr array that is gone": (lambda: gone(zarr_array()), "raw.zarr is not there"),
    "a dask array of Zarr that is gone": (lambda: gone(dask.array.from_array(zarr_array())), "raw.zarr is not there"),
    "a dask array that fails": (
        lambda: dask.array.from_array(IMAGE).map_blocks(lambda b: 1 / 0, dtype="f4"),
        "by zero",
    ),
    "a memory map of a file that was cut": (written_again, r"raw\.bin.*greater than file size"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_source_is_refused_with_a_remedy(kind: str, predict: Predict) -> None:
    make, message = REFUSED[kind]
    source = make()
    with pytest.raises((OSError, ValueError), match=message):
        predict(source=source)


ONLY_HERE: dict[str, tuple[Callable[[], Any], str]] = {
    "memory": (lambda: zarr.create_array(MemoryStore(), data=IMAGE, **CHUNKS), "memory of this process"),
    "memory of fsspec": (
        lambda: zarr.create_array(FsspecStore.from_url(f"memory://{uuid.uuid4()}"), data=IMAGE, overwrite=True),
        "memory of",
    ),
    "a zip file that may be written": (lambda: zip_file("a"), "zip file that is open to be written"),
    "an array that cannot be sent": (NotSent, "source NotSent .* cannot be sent .* pass a path"),
}


@pytest.mark.parametrize("kind", ONLY_HERE)
def test_what_one_process_alone_reads_is_predicted_there_only(kind: str, executor: str, predict: Predict) -> None:
    make, message = ONLY_HERE[kind]
    source = make()
    if executor == "embedded":
        np.testing.assert_array_equal(predict(source=source).array[...], -IMAGE)
        return
    with pytest.raises((OSError, TypeError), match=message):
        predict(source=source)


@pytest.mark.parametrize("name", ["memory of fsspec", "a dask array of it"])
def test_what_another_process_does_not_have_is_never_its_fill_value(name: str, folder: Path, elsewhere: Client) -> None:
    array = zarr.create_array(FsspecStore.from_url(f"memory://{uuid.uuid4()}"), data=IMAGE, overwrite=True)
    source = array if name == "memory of fsspec" else dask.array.from_array(array)
    with pytest.raises(OSError, match=r"memory of this process|is not there, seen from process"):
        tw.predict_to_zarr(negated, source, "out.zarr", client=elsewhere, **REQUEST)
    assert not list(folder.iterdir())


def test_a_dask_array_that_the_cluster_holds_is_read_there(client: Client, predict: Predict) -> None:
    held = client.persist(dask.array.from_array(IMAGE, chunks=20) + 1)
    np.testing.assert_array_equal(predict(source=held).array[...], -(IMAGE + 1))
    assert not client.list_datasets()


def test_a_dask_array_that_another_cluster_holds_is_refused(embedded: Client, elsewhere: Client, folder: Path) -> None:
    held = embedded.persist(dask.array.from_array(IMAGE, chunks=20) + 1)
    with pytest.raises(OSError, match=r"persisted on the cluster .* pass the client of that cluster"):
        tw.predict_to_zarr(negated, held, "out.zarr", client=elsewhere, **REQUEST)
    assert not list(folder.iterdir())


def test_what_was_left_out_is_said_and_another_image_can_be_chosen(predict: Predict) -> None:
    source = converted_by_bioformats()
    (note,) = predict(source=source).notes
    assert "series 0 of the 2 of bf.zarr" in note
    report = predict(source=source, destination="other.zarr", series=1)
    np.testing.assert_array_equal(report.array[...], -(IMAGE + 1))
    with pytest.raises(OSError, match="holds 2 images, counted from 0: none is 2"):
        predict(source=source, destination="third.zarr", series=2)


def test_arrays_beside_the_image_are_named(predict: Predict) -> None:
    zarr_group().create_array("labels", shape=3, dtype="uint8")
    report = predict(source="raw.zarr")
    assert "1 more in it can be read by paths of their own: labels" in report.notes[0]
    assert "labels" in str(report)


def test_objects_of_a_source_that_are_missing_are_counted_once_each(predict: Predict) -> None:
    zarr_array()
    assert predict(source="raw.zarr").missing_count == 0
    expected = -IMAGE.copy()
    for y, x in ((0, 1), (2, 3)):
        Path(f"raw.zarr/c/{y}/{x}").unlink()
        expected[16 * y : 16 * y + 16, 16 * x : 16 * x + 16] = 0
    report = predict(source="raw.zarr", destination="other.zarr")
    np.testing.assert_array_equal(report.array[...], expected)
    assert report.missing_count == 2
    assert "2 stored objects of the source are missing: its fill value was read" in str(report)


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_data_loader_workers_read_a_store_of_a_relative_path(persistent: bool, folder: Path) -> None:
    from torch.utils.data import DataLoader

    dataset = tw.IterableTiledPredDataset(zarr_array(), "YX", (24, 24), (8, 8))
    loader = DataLoader(dataset, 4, num_workers=1, multiprocessing_context="spawn", persistent_workers=persistent)
    tiles = [tile for batch, _ in loader for tile in batch.numpy()]
    expected = [tile.numpy() for tile, _ in dataset]
    np.testing.assert_array_equal(tiles, expected)
