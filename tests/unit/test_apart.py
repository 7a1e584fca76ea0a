"""Two names of one place are one place, and a source is never replaced, however it is named or hidden."""

import os
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
import zarr
from distributed import Client
from tests.support import tree
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, WrapperStore, ZipStore

import tilewright as tw
from tilewright.errors import DestinationError
from tilewright.stores.places import Place, folder_of, place_of_path, place_of_store, public_name

IMAGE = np.arange(64 * 64, dtype="float32").reshape(64, 64)


def predict(source: Any, destination: Any, **options: Any) -> tw.Report:
    request = {"axes": "YX", "tile_size": (32, 32), "overlap": (8, 8), "progress": False}
    return tw.predict_to_zarr(np.negative, source, destination, **request | options)


def fsspec_store(path: Path | str) -> FsspecStore:
    pytest.importorskip("fsspec")
    return FsspecStore.from_url(f"file://{path}", storage_options={"auto_mkdir": True})


def obstore_store(path: Path) -> Any:
    stores = pytest.importorskip("obstore.store")
    path.mkdir(exist_ok=True)
    return zarr.storage.ObjectStore(stores.LocalStore(path))


# --- Places.


@pytest.mark.parametrize("open_store", [LocalStore, fsspec_store, obstore_store], ids=lambda opened: opened.__name__)
def test_a_folder_is_one_place_whichever_store_opens_it(open_store: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    place = place_of_path(tmp_path / "link" / ".." / "data" / "raw.zarr")
    for store in (
        open_store(tmp_path / "link" / "raw.zarr"),
        LoggingStore(WrapperStore(open_store(tmp_path / "data" / "raw.zarr"))),
    ):
        assert place_of_store(store) == place
        assert folder_of(store) == tmp_path / "data" / "raw.zarr"
    assert place_of_store(open_store(tmp_path / "data"), "raw.zarr/0") == Place("file", (*place.path, "0"))


def test_the_same_bucket_is_one_place_in_both_libraries() -> None:
    stores, fsspec = pytest.importorskip("obstore.store"), pytest.importorskip("fsspec")
    secret = {"access_key_id": "me", "secret_access_key": "hidden", "region": "nowhere"}
    one = place_of_store(zarr.storage.ObjectStore(stores.S3Store("bucket", prefix="data/raw.zarr", **secret)), "0")

    class S3(fsspec.AbstractFileSystem):
        protocol = ("s3", "s3a")
        async_impl, asynchronous = True, True

    other = place_of_store(FsspecStore(S3(), path="bucket/data"))
    assert one == Place("s3", ("bucket", "data", "raw.zarr", "0"))
    assert other == Place("s3", ("bucket", "data"))
    assert one is not None
    assert one.overlaps(other)
    assert not one.overlaps(Place("s3", ("bucket", "data", "raw")))
    assert "hidden" not in f"{one}{other}"


def test_what_is_no_folder_has_a_place_too(tmp_path: Path) -> None:
    memory = MemoryStore()
    assert place_of_store(memory) == place_of_store(MemoryStore(memory._store_dict)) != place_of_store(MemoryStore())
    zipped = ZipStore(tmp_path / "o.zip", mode="w")
    assert place_of_store(zipped) == place_of_path(tmp_path / "o.zip")
    assert folder_of(zipped) is None


def test_a_folder_that_is_mounted_at_two_places_is_one_place(tmp_path: Path) -> None:
    # A file with two names stands for it: its number in the file system is the same.
    (tmp_path / "a.tif").write_bytes(b"")
    os.link(tmp_path / "a.tif", tmp_path / "b.tif")
    assert place_of_path(tmp_path / "a.tif").overlaps(place_of_path(tmp_path / "b.tif"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://me:secret@example.com:81/a/raw.zarr?signature=secret#secret", "https://example.com:81/a/raw.zarr"),
        ("s3://key:secret@bucket/raw.zarr", "s3://bucket/raw.zarr"),
        ("raw.zarr", "raw.zarr"),
    ],
)
def test_no_secret_is_in_a_name(url: str, name: str) -> None:
    assert public_name(url) == name


# --- Sources.


def hidden(kind: str, path: Path) -> Any:
    """The same image, which lies at a path, in different guises."""
    array = zarr.open_array(path, mode="r")
    match kind:
        case "path":
            return path
        case "dask":
            return dask.array.from_zarr(array) + 1
        case "dask of a path":
            return dask.array.from_zarr(str(path))
        case "store":
            return LocalStore(path)
        case "wrapped":
            return zarr.open_array(WrapperStore(LocalStore(path)), mode="r")
        case "fsspec":
            return zarr.open_array(fsspec_store(path), mode="r")
        case "obstore":
            return zarr.open_array(obstore_store(path.parent), path=path.name, mode="r")
        case "delayed path":
            delayed = dask.delayed(lambda name: zarr.open_array(name, mode="r")[:])(str(path))
            return dask.array.from_delayed(delayed, array.shape, array.dtype)
        case "function of a module":
            module: dict[str, Any] = {"zarr": zarr, "PATH": str(path), "__name__": "readers"}
            exec("def load(): return zarr.open_array(PATH, mode='r')[:]", module)
            return dask.array.from_delayed(dask.delayed(module["load"])(), array.shape, array.dtype)
        case "link":
            link = path.parent.parent / "link.zarr"
            if not link.exists():
                zarr.create_group(link)
                (link / "0").symlink_to(path)
            return link
        case "closure":
            return dask.array.map_blocks(
                lambda block: block + zarr.open_array(path, mode="r")[0, 0], dask.array.zeros((64, 64), dtype="float32")
            )
        case "name of a module":
            globals()["NAMED"] = str(path)
            return dask.array.map_blocks(named_in_its_module, dask.array.zeros((64, 64), dtype="float32"))
    raise AssertionError(kind)


def named_in_its_module(block: np.ndarray) -> np.ndarray:
    return block + zarr.open_array(NAMED, mode="r")[0, 0]


NAMED = ""
KINDS = [
    "path",
    "dask",
    "dask of a path",
    "store",
    "wrapped",
    "fsspec",
    "obstore",
    "delayed path",
    "closure",
    "name of a module",
    "function of a module",
    "link",
]
DESTINATIONS = {
    "itself": lambda path: path,
    "the folder around it": lambda path: path.parent,
    "a folder in it": lambda path: path / "prediction.zarr",
    "itself by fsspec": fsspec_store,
    "around it by fsspec": lambda path: fsspec_store(path.parent),
    "itself wrapped": lambda path: WrapperStore(LocalStore(path)),
    "around it by obstore": lambda path: obstore_store(path.parent),
}


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_source_is_not_replaced(kind: str, destination: str, embedded: Client, tmp_path: Path) -> None:
    path = tmp_path / "data" / "raw.zarr"
    zarr.create_array(path, data=IMAGE, chunks=(32, 32))
    hidden(kind, path)
    before = tree(tmp_path)
    for if_exists in ("overwrite", "overwrite-foreign"):
        with pytest.raises(DestinationError, match=r"is the source .*raw\.zarr, holds it or lies inside it"):
            predict(hidden(kind, path), DESTINATIONS[destination](path), if_exists=if_exists, client=embedded)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "view", [lambda array: array, lambda array: array[2:], lambda array: np.asarray(array).T[:, 1:]]
)
def test_a_view_of_a_memory_map_is_its_file(view: Any, embedded: Client, tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()
    array = np.memmap(tmp_path / "out.zarr" / "raw.bin", "float32", "w+", shape=(64, 64))
    array[:] = IMAGE
    with pytest.raises(DestinationError, match=r"is the source .*raw\.bin"):
        predict(view(array), tmp_path / "out.zarr", if_exists="overwrite", client=embedded)


def test_a_ledger_is_not_put_into_a_source(embedded: Client, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE, chunks=(32, 32))
    before = tree(tmp_path)
    with pytest.raises(DestinationError, match=r"ledger .* is the source"):
        predict(tmp_path / "raw.zarr", tmp_path / "o.zarr", ledger=tmp_path / "raw.zarr" / "ledger", client=embedded)
    assert tree(tmp_path) == before


class UnknownStore(MemoryStore):
    """A store of which nothing tells where its objects lie."""


class Opaque:
    """An array that does not let itself be looked into."""

    shape, dtype, ndim = (64, 64), np.dtype("float32"), 2

    def __getitem__(self, key: Any) -> Any:
        return IMAGE[key]

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


def read_somewhere() -> Any:
    """What a task calls, and nobody knows what it reads."""
    return np.load(os.environ["NOWHERE"])


class Renaming(WrapperStore[Any]):
    """A store of another package, which may keep an object under another name."""


UNKNOWN = {
    "array": Opaque,
    "task": lambda: dask.array.from_delayed(dask.delayed(read_somewhere)(), (64, 64), "float32"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_where_a_source_is_not_known_nothing_is_replaced(kind: str, embedded: Client, tmp_path: Path) -> None:
    predict(IMAGE, tmp_path / "o.zarr", client=embedded)
    before = tree(tmp_path)
    with pytest.raises(DestinationError, match="cannot be known whether a source is read from there"):
        predict(UNKNOWN[kind](), tmp_path / "o.zarr", if_exists="overwrite", client=embedded)
    assert tree(tmp_path) == before


def test_a_wrapper_of_another_package_may_hold_a_source_anywhere_in_its_store(embedded: Client) -> None:
    store = MemoryStore()
    predict(IMAGE, store, client=embedded)
    zarr.create_array(store, name="raw", data=IMAGE, chunks=(32, 32))
    source = zarr.open_array(Renaming(store), path="raw", mode="r")
    outer = MemoryStore()
    predict(IMAGE, outer, client=embedded)
    assert predict(source, outer, if_exists="overwrite", client=embedded).unit_count
    with pytest.raises(DestinationError, match="is the source"):
        predict(source, store, if_exists="overwrite", client=embedded)


def test_where_it_cannot_be_known_what_exists_is_kept_and_what_is_new_is_written(
    embedded: Client, tmp_path: Path
) -> None:
    predict(IMAGE, tmp_path / "o.zarr", client=embedded)
    before = tree(tmp_path)
    with pytest.raises(DestinationError, match="cannot be known whether a source is read from there"):
        predict(Opaque(), tmp_path / "o.zarr", if_exists="overwrite", client=embedded)
    assert tree(tmp_path) == before
    assert predict(Opaque(), tmp_path / "new.zarr", if_exists="overwrite", client=embedded).unit_count


# --- Sources of all images of a run.


@pytest.mark.parametrize("strategy", ["zarr", "cached", "whole"])
def test_the_output_of_one_image_does_not_replace_the_source_of_another(strategy: str, tmp_path: Path) -> None:
    folder = tmp_path / "d" / "q"
    folder.mkdir(parents=True)
    tifffile.imwrite(tmp_path / "d" / "a.tif", IMAGE)
    zarr.create_array(folder / "a.zarr", data=IMAGE, chunks=(32, 32))
    sources = [tmp_path / "d" / "a.tif", folder / "a.zarr"]
    before = tree(tmp_path)
    tiled = tw.IterableTiledPredDataset(sources, axes="YX", tile_size=(32, 32), overlaps=(8, 8))
    whole = tw.IterablePredDataset(sources, axes="YX")
    writer, dataset = {
        "zarr": (tw.WriteTilesZarr(if_exists="overwrite"), tiled),
        "cached": (tw.CacheTiles(tw.write_zarr, ".zarr"), tiled),
        "whole": (tw.WriteImage(tw.write_zarr, ".zarr"), whole),
    }[strategy]
    loader = type("Loader", (), {"dataset": dataset})
    trainer = type("Trainer", (), {"predict_dataloaders": loader, "world_size": 1})
    with pytest.raises(DestinationError, match=r"is the source .*a\.zarr"):
        writer.prepare(trainer, folder)
    assert tree(tmp_path) == before
