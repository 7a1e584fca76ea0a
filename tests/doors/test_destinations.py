"""Every kind of store is written by all processes that share it, or is refused before anything is created."""

import json
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from distributed import Client, get_worker
from tests.doors.conftest import IMAGE, REQUEST, Predict, negated
from zarr.storage import (
    FsspecStore,
    LocalStore,
    LoggingStore,
    MemoryStore,
    ObjectStore,
    StorePath,
    WrapperStore,
    ZipStore,
)

import tilewright as tw
from tilewright.errors import DestinationError, DestinationExistsError, NotSharedError


class OwnDictionary(WrapperStore):
    """A store of which each process has a copy, as some caches are: it does not say so."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)

    def __reduce__(self) -> Any:
        return OwnDictionary, (MemoryStore(dict(self._store._store_dict)),)


def group() -> zarr.Group:
    return zarr.open_group("outer.zarr", mode="w").create_group("prediction", attributes={"mine": 1})


SHARED: dict[str, Callable[[], Any]] = {
    "a relative path": lambda: "out.zarr",
    "a path object": lambda: Path("folder", "out.zarr"),
    "a store of a relative path": lambda: LocalStore("out.zarr"),
    "a wrapped store of a relative path": lambda: WrapperStore(LocalStore("out.zarr")),
    "a logging store of a relative path": lambda: LoggingStore(LocalStore("out.zarr"), log_level="ERROR"),
    "a place in a store": lambda: StorePath(LocalStore("outer.zarr"), "inner"),
    "a group that holds nothing": group,
    "a mapper of fsspec": lambda: fsspec.get_mapper(f"file://{Path.cwd()}/out.zarr"),
    "a store of obstore": lambda: ObjectStore(
        pytest.importorskip("obstore.store").LocalStore(prefix=str(Path.cwd() / "out"), mkdir=True)
    ),
}


@pytest.mark.parametrize("kind", SHARED)
def test_a_store_that_is_shared_is_written(kind: str, client: Client, folder: Path) -> None:
    report = tw.predict_to_zarr(negated, IMAGE, SHARED[kind](), client=client, **REQUEST)
    np.testing.assert_array_equal(report.array[...], -IMAGE)


def test_the_attributes_of_a_group_that_held_nothing_stay(predict: Predict) -> None:
    destination = group()
    predict(destination=destination)
    assert json.loads(Path("outer.zarr/prediction/zarr.json").read_text())["attributes"]["mine"] == 1


ONLY_HERE: dict[str, Callable[[], Any]] = {
    "memory": MemoryStore,
    "logged memory": lambda: LoggingStore(MemoryStore(), log_level="ERROR"),
    "memory of fsspec": lambda: FsspecStore.from_url(f"memory://{uuid.uuid4()}"),
    "memory of obstore": lambda: ObjectStore(pytest.importorskip("obstore.store").MemoryStore()),
    "a zip file that is not open": lambda: ZipStore("out.zip", mode="w"),
    "a wrapped zip file": lambda: WrapperStore(ZipStore("out.zip", mode="w")),
    "a dictionary of its own": lambda: OwnDictionary(MemoryStore()),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONLY_HERE)
def test_a_store_of_one_process_is_written_there_and_refused_elsewhere(
    kind: str, executor: str, predict: Predict
) -> None:
    store = ONLY_HERE[kind]()
    if executor == "embedded":
        report = predict(destination=store)
        np.testing.assert_array_equal(report.array[...], -IMAGE)
        return
    with pytest.raises(NotSharedError, match=r"this process|zip file|a store of its own"):
        predict(destination=store)


def test_a_zip_file_holds_the_prediction_when_it_is_closed(embedded: Client, folder: Path) -> None:
    with ZipStore("out.zip", mode="w") as store:
        tw.predict_to_zarr(negated, IMAGE, store, client=embedded, **REQUEST)
    with ZipStore("out.zip", mode="r") as store:
        np.testing.assert_array_equal(zarr.open_array(store, path="0")[...], -IMAGE)


def test_a_zip_file_that_exists_is_not_emptied(predict: Predict, executor: str) -> None:
    Path("out.zip").write_bytes(b"of others")
    error = DestinationExistsError if executor == "embedded" else DestinationError
    with pytest.raises(error, match=r"out\.zip"):
        predict(destination=ZipStore("out.zip", mode="w"))
    assert Path("out.zip").read_bytes() == b"of others"


class WritesElsewhere(LocalStore):
    """A store that puts what a worker writes into a folder of its own, as a mount of the same name would."""

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)

    async def set(self, key: str, value: Any) -> None:
        try:
            get_worker()
        except ValueError:
            is_worker = threading.main_thread().name == "Dask-Worker"
        else:
            is_worker = True
        await LocalStore(f"{self.root}-of-worker" if is_worker or key.startswith("0/c") else self.root).set(key, value)


@pytest.mark.slow
def test_a_worker_that_writes_elsewhere_is_noticed_at_its_first_unit(elsewhere: Client, folder: Path) -> None:
    store = WritesElsewhere(folder / "out.zarr")
    with pytest.raises(NotSharedError, match=r"says that it has stored unit .* is not there, seen from"):
        tw.predict_to_zarr(negated, IMAGE, store, client=elsewhere, **REQUEST)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["metadata", "an object"])
def test_what_is_removed_during_the_run_is_noticed_at_its_end(what: str, embedded: Client, folder: Path) -> None:
    calls: list[int] = []

    def model(tiles: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 6:
            victim = (
                Path("out.zarr/0/zarr.json") if what == "metadata" else next(Path("out.zarr/0/c").rglob("*/0"), None)
            )
            if victim is not None and victim.is_file():
                victim.unlink()
        return -tiles

    with pytest.raises(OSError, match=r"are gone: another program has removed them|is not there, seen from"):
        tw.predict_to_zarr(
            model, IMAGE, "out.zarr", client=embedded, chunks=(16, 16), memory_nbytes=6000, layout="aligned", **REQUEST
        )
