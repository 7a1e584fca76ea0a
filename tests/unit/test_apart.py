"""A source is never replaced, however it is named or hidden, nor where it cannot be known what is one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from distributed import Client
from tests.support import tree
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore

import tilewright as tw
from tilewright.errors import DestinationError

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


def link_to(path: Path) -> Path:
    link = path.parent.with_name("link")
    link.symlink_to(path)
    return link


# --- Sources.


def opened(path: Path) -> zarr.Array:
    return zarr.open_array(path, mode="r")


def read(path: Path | str) -> np.ndarray:
    return zarr.open_array(path, mode="r")[:]


def of_task(function: Any, *arguments: Any) -> dask.array.Array:
    return dask.array.from_delayed(dask.delayed(function)(*arguments), IMAGE.shape, IMAGE.dtype)


def of_blocks(function: Any) -> dask.array.Array:
    return dask.array.map_blocks(function, dask.array.zeros(IMAGE.shape, dtype=IMAGE.dtype))


def by_function_of_a_module(path: Path) -> dask.array.Array:
    module: dict[str, Any] = {"zarr": zarr, "PATH": str(path), "__name__": "readers"}
    exec("def load(): return zarr.open_array(PATH, mode='r')[:]", module)
    return of_task(module["load"])


def linked(path: Path) -> Path:
    link = path.parent.parent / "link.zarr"
    if not link.exists():
        zarr.create_group(link)
        (link / "0").symlink_to(path)
    return link


NAMED = ""


def named_in_its_module(block: np.ndarray) -> np.ndarray:
    return block + read(NAMED)[0, 0]


def by_name_of_a_module(path: Path) -> dask.array.Array:
    globals()["NAMED"] = str(path)
    return of_blocks(named_in_its_module)


GUISES: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "dask": lambda path: dask.array.from_zarr(opened(path)) + 1,
    "dask of a path": lambda path: dask.array.from_zarr(str(path)),
    "store": LocalStore,
    "wrapped": lambda path: zarr.open_array(WrapperStore(LocalStore(path)), mode="r"),
    "fsspec": lambda path: zarr.open_array(fsspec_store(path), mode="r"),
    "obstore": lambda path: zarr.open_array(obstore_store(path.parent), path=path.name, mode="r"),
    "delayed path": lambda path: of_task(read, str(path)),
    "closure": lambda path: of_blocks(lambda block: block + read(path)[0, 0]),
    "name of a module": by_name_of_a_module,
    "function of a module": by_function_of_a_module,
    "link": linked,
}
"""The same image, which lies at a path."""


DESTINATIONS = {
    "itself": lambda path: path,
    "the folder around it": lambda path: path.parent,
    "a folder in it": lambda path: path / "prediction.zarr",
    "itself by a link": link_to,
    "itself by fsspec": fsspec_store,
    "around it by fsspec": lambda path: fsspec_store(path.parent),
    "itself wrapped": lambda path: WrapperStore(LocalStore(path)),
    "around it by obstore": lambda path: obstore_store(path.parent),
}


@pytest.mark.slow
@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("guise", GUISES)
def test_a_source_is_not_replaced(guise: str, destination: str, embedded: Client, tmp_path: Path) -> None:
    path = tmp_path / "data" / "raw.zarr"
    zarr.create_array(path, data=IMAGE, chunks=(32, 32))
    GUISES[guise](path)
    before, place = tree(tmp_path), DESTINATIONS[destination](path)
    for if_exists in ("overwrite", "overwrite-foreign"):
        with pytest.raises(DestinationError, match=r"is the source .*raw\.zarr, holds it or lies inside it"):
            predict(GUISES[guise](path), place, if_exists=if_exists, client=embedded)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("array", ["0", "1", "1/0", "0/1"])
def test_an_array_that_is_a_link_to_the_source_is_not_written(array: str, embedded: Client, tmp_path: Path) -> None:
    raw, output = tmp_path / "raw.zarr", tmp_path / "out.zarr"
    samples = {"axes": "SYX"} if "/" in array else {}
    zarr.create_array(
        raw, data=np.stack([IMAGE, IMAGE]) if samples else IMAGE, chunks=(1, 32, 32) if samples else (32, 32)
    )
    predict(raw, output, levels=2, client=embedded, **samples)
    (output / array).rename(tmp_path / "moved")
    (output / array).symlink_to(raw)
    before = tree(tmp_path)
    with pytest.raises(DestinationError, match=r"is the source .*raw\.zarr"):
        predict(raw, output, levels=2, client=embedded, if_exists="resume", **samples)
    assert tree(tmp_path) == before


def test_a_group_is_a_source_as_a_whole_and_an_open_array_by_itself(embedded: Client, tmp_path: Path) -> None:
    path = tmp_path / "raw.zarr"
    zarr.create_group(path).create_array("0", data=IMAGE, chunks=(32, 32))
    array, before = opened(path / "0"), tree(tmp_path)
    for source, insides in ((path, ["", "0", "0/prediction", "labels"]), (array, ["", "0", "0/prediction"])):
        for inside in insides:
            with pytest.raises(DestinationError, match="source"):
                predict(source, path / inside, if_exists="overwrite", client=embedded)
            assert tree(tmp_path) == before
    # Beside the array in its group there is room.
    predict(array, path / "labels", client=embedded)
    assert before.items() <= tree(tmp_path).items()


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


class Opaque:
    """An array that does not let itself be looked into."""

    shape, dtype, ndim = (64, 64), np.dtype("float32"), 2

    def __getitem__(self, key: Any) -> Any:
        return IMAGE[key]

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


def read_somewhere() -> Any:
    """A function that a task calls, of which it is unknown what it reads."""
    return np.load(os.environ["NOWHERE"])


class Renaming(WrapperStore[Any]):
    """A store of another package, which may keep an object under another name."""


UNKNOWN = {"array": Opaque, "task": lambda: of_task(read_somewhere)}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_where_a_source_is_not_known_what_exists_is_kept_and_what_is_new_is_written(
    kind: str, embedded: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "image.npy", IMAGE)
    monkeypatch.setenv("NOWHERE", str(tmp_path / "image.npy"))
    predict(IMAGE, tmp_path / "o.zarr", client=embedded)
    before = tree(tmp_path)
    with pytest.raises(DestinationError, match="cannot be known whether a source is read from there"):
        predict(UNKNOWN[kind](), tmp_path / "o.zarr", if_exists="overwrite", client=embedded)
    assert tree(tmp_path) == before
    assert predict(UNKNOWN[kind](), tmp_path / "new.zarr", if_exists="overwrite", client=embedded).unit_count


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
