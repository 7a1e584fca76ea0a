"""Each object is put once, whole, and none is read, deleted or put in pieces: counted, not assumed."""

import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from tests.strategies import in_small_units
from tests.support import Case, CountingStore, PositionModel, is_metadata, run
from zarr.storage import LocalStore

from tilewright.plan import plan_write
from tilewright.stores import put as objects_module

SHAPES = {
    "chunks that straddle tiles": {"layout": "compact", "chunks": (5, 7)},
    "chunks that straddle tiles, in shards": {"layout": "compact", "chunks": (5, 7), "shards": (10, 14)},
    "aligned": {"layout": "aligned", "chunks": (4, 6)},
    "aligned, in shards": {"layout": "aligned", "chunks": (2, 3), "shards": (4, 6)},
    "chosen by tilewright": {"layout": "auto", "chunks": "auto"},
    "chosen by tilewright, in shards": {"layout": "auto", "chunks": "auto", "shards": "auto"},
    "one object larger than the image": {"layout": "compact", "chunks": (64, 64)},
}


def case_of(name: str, zarr_format: int, fill: int = 1) -> Case:
    plan = plan_write((40, 37), "YX", (12, 14), (3, 4), dtype="uint8", levels=3, **SHAPES[name])
    # A prediction of nothing but fill values is stored like any other.
    model = np.zeros_like if fill == 0 else PositionModel(1, "uint8")
    image = np.random.default_rng(2).integers(0, 255, (40, 37)).astype("uint8")
    return Case(image, "YX", in_small_units(plan), model, "auto", zarr_format)


VARIANTS = [
    (name, zarr_format, client)
    for name in SHAPES
    for zarr_format in (3, 2)
    for client in ("serial", "embedded")
    if zarr_format == 3 or "shards" not in name
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "zarr_format", "executor"), VARIANTS)
def test_each_object_is_put_once_and_never_read(name: str, zarr_format: int, executor: str, embedded: Client) -> None:
    store = CountingStore()
    case = case_of(name, zarr_format)
    run(case, store, embedded if executor == "embedded" else None)
    sets = {key: count for key, count in store.sets.items() if not is_metadata(key)}
    gets = {key: count for key, count in store.gets.items() if not is_metadata(key)}
    assert len(sets) == case.plan.object_count
    assert set(sets.values()) == {1}
    assert gets == {}
    assert not store.deletes


@pytest.mark.parametrize("name", ["aligned", "chunks that straddle tiles, in shards"])
def test_objects_of_nothing_but_the_fill_value_are_put_too(name: str) -> None:
    store = CountingStore()
    case = case_of(name, 3, fill=0)
    run(case, store)
    assert sum(not is_metadata(key) for key in store.sets) == case.plan.object_count


@pytest.mark.parametrize(("name", "zarr_format", "executor"), VARIANTS)
def test_each_file_is_written_once_and_never_opened_again(
    name: str,
    zarr_format: int,
    executor: str,
    embedded: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: Counter[Path] = Counter()
    lock = threading.Lock()
    replace = os.replace

    def counted(partial: str | Path, path: str | Path) -> None:
        # Each object gets its name when it is whole.
        with lock:
            written[Path(path)] += not is_metadata(str(path))
        replace(partial, path)

    async def put(self: LocalStore, key: str, *rest: object, **named: object) -> None:
        # Metadata may go through the store, data must not.
        assert is_metadata(key)
        return await store_set(self, key, *rest, **named)

    async def read(self: LocalStore, key: str, *rest: object, **named: object) -> object:
        assert is_metadata(key)
        return await store_get(self, key, *rest, **named)

    store_set, store_get = LocalStore.set, LocalStore.get
    monkeypatch.setattr(os, "replace", counted)
    monkeypatch.setattr(LocalStore, "set", put)
    monkeypatch.setattr(LocalStore, "get", read)
    case = case_of(name, zarr_format)
    run(case, tmp_path / "out", embedded if executor == "embedded" else None)
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and not is_metadata(p.name)]
    assert +written == Counter(files)
    assert len(files) == case.plan.object_count


def test_no_partial_files_are_left(tmp_path: Path) -> None:
    run(case_of("chunks that straddle tiles", 3), tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.partial")) == []


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "c" / "0" / "0"
    assert objects_module.write_file(path, [b"a long first version"]) == 20
    with path.open("rb") as reader:
        objects_module.write_file(path, [b"se", b"cond"])
        assert reader.read() == b"a long first version"
    assert path.read_bytes() == b"second"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"a file where a folder should be")
    with pytest.raises(OSError, match="could not write") as caught:
        objects_module.write_file(tmp_path / "c" / "0", [b"data"])
    assert caught.value.filename == str(tmp_path / "c" / "0")


def test_a_write_that_fails_midway_leaves_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        objects_module.write_file(tmp_path / "0", [b"some", object()])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []
