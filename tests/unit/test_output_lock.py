"""The lock belongs to the output, in whatever store it lies, and a run that has lost it changes nothing."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client
from tests.support import tree
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore

import tilewright as tw
from tilewright.errors import OutputInUseError
from tilewright.locks.holder import Holder
from tilewright.locks.output_lock import OutputLock
from tilewright.outputs.output import Output
from tilewright.stores.put import put_object

CHILDREN = multiprocessing.get_context("spawn")
IMAGE = np.arange(96 * 80, dtype="float32").reshape(96, 80)


def predict(destination: Any, model: Any = np.negative, **options: Any) -> tw.Report:
    request = {"axes": "YX", "tile_size": (32, 32), "overlap": (8, 8), "chunks": (24, 24), "progress": False}
    return tw.predict_to_zarr(model, IMAGE, destination, **request | options)


def fsspec_store(folder: Path) -> FsspecStore:
    pytest.importorskip("fsspec")
    return FsspecStore.from_url(f"file://{folder}", storage_options={"auto_mkdir": True})


def obstore_store(folder: Path) -> Any:
    obstore = pytest.importorskip("obstore.store")
    return zarr.storage.ObjectStore(obstore.LocalStore(folder, mkdir=True))


STORES: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: folder,
    "wrapper": lambda folder: WrapperStore(LocalStore(folder)),
    "fsspec": fsspec_store,
    "obstore": obstore_store,
}
"""The same folder as different stores."""


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder in one of this test alone: locks of other tests would lie around it."""
    path = tmp_path / "inner"
    path.mkdir()
    return path


@pytest.fixture
def held(tmp_path: Path) -> Iterator[OutputLock]:
    lock = Output.at(tmp_path / "o.zarr").lock()
    lock.acquire()
    yield lock
    lock.release()


# --- One output has one lock.


@pytest.mark.parametrize("kind", STORES)
def test_two_ledgers_do_not_let_two_runs_write_one_output(kind: str, tmp_path: Path) -> None:
    first, second = (Output.at(STORES[kind](tmp_path / "o.zarr"), ledger=tmp_path / name) for name in ("a", "b"))
    lock = first.lock()
    lock.acquire()
    with pytest.raises(OutputInUseError, match=f"process {os.getpid()}"):
        second.lock().acquire()
    lock.release()
    second.lock().acquire()


def test_two_stores_on_one_memory_are_one_output() -> None:
    memory: dict[str, Any] = {}
    lock = Output.at(MemoryStore(memory)).lock()
    lock.acquire()
    with pytest.raises(OutputInUseError):
        Output.at(MemoryStore(memory)).lock().acquire()
    assert lock.holder() is not None
    lock.release()
    assert memory == {}
    assert lock.holder() is None


def test_one_ledger_is_not_shared_by_two_outputs(tmp_path: Path) -> None:
    lock = Output.at(tmp_path / "a.zarr", ledger=tmp_path / "ledger").lock()
    lock.acquire()
    with pytest.raises(OutputInUseError):
        Output.at(tmp_path / "b.zarr", ledger=tmp_path / "ledger").lock().acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("store", "group"), [("o.zarr/0", ""), ("o.zarr", "a/b"), (".", ""), (".", "o.zarr"), (".", "o.zarr/x"), ("..", "")]
)
def test_outputs_around_and_inside_one_that_is_written_are_refused(
    store: str, group: str, held: OutputLock, tmp_path: Path
) -> None:
    other = Output.at(tmp_path / store, group)
    with pytest.raises(OutputInUseError, match=r"around or inside|being written"):
        other.lock().acquire()
    held.check()
    # Nothing is left of the attempt.
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "o.zarr.ledger",
        "o.zarr.ledger/lock",
    ]


def test_outputs_beside_one_that_is_written_are_not_refused(held: OutputLock, tmp_path: Path) -> None:
    for output in (
        Output.at(tmp_path / "o.zarr2"),
        Output.at(tmp_path / "p.zarr"),
        Output.at(tmp_path / "x", "o.zarr"),
    ):
        lock = output.lock()
        lock.acquire()
        lock.release()
    held.check()


def test_groups_of_one_memory_are_locked_apart_and_not_inside_each_other() -> None:
    store = MemoryStore()
    first, second = Output.at(store, "a").lock(), Output.at(store, "b").lock()
    first.acquire()
    second.acquire()
    for group in ("", "a/0", "a"):
        with pytest.raises(OutputInUseError):
            Output.at(store, group).lock().acquire()
    first.release()
    second.release()
    assert store._store_dict == {}


# --- A run that has lost its lock.


class LosesItsLock:
    """Remove the lock, or let another holder have it, after some predictions."""

    def __init__(self, lock: Path, how: str) -> None:
        self.lock = lock
        self.how = how
        self.count = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.count += 1
        if self.count == 4 and self.how == "removed":
            self.lock.unlink()
        if self.count == 4 and self.how == "taken":
            self.lock.write_bytes(Holder.me(99).to_bytes())
        return -tiles


@pytest.mark.parametrize("how", ["removed", "taken"])
@pytest.mark.parametrize("layout", ["compact", "aligned"])
def test_a_run_that_has_lost_its_lock_ends_at_once_and_gives_nothing_up(
    layout: str, how: str, embedded: Client, tmp_path: Path
) -> None:
    output, lock = tmp_path / "o.zarr", tmp_path / "o.zarr.ledger" / "lock"
    options: dict[str, Any] = {"client": embedded, "layout": layout, "memory_nbytes": 2**16}
    with pytest.raises(OutputInUseError, match="nothing more is written"):
        predict(output, LosesItsLock(lock, how), **options)
    assert lock.exists() == (how == "taken")
    lock.unlink(missing_ok=True)
    stored = {key: content for key, content in tree(output).items() if Path(key).name.isdigit()}
    assert not list(tmp_path.rglob("*.partial"))
    report = predict(output, LosesItsLock(lock, "never"), **options, if_exists="resume")
    assert (report.array[:] == -IMAGE).all()
    assert stored.items() <= tree(output).items()


@pytest.mark.parametrize("takes_over_by", ["removing half-written files", "moving the output aside"])
def test_a_late_put_of_an_old_run_replaces_nothing(takes_over_by: str, tmp_path: Path) -> None:
    output = tmp_path / "o.zarr"
    old = Output.at(output).lock()
    old.acquire()
    guard = old.guard()
    (output / "0").mkdir(parents=True)
    (output / "0" / "1").write_bytes(b"of the old run")

    def parts() -> Iterator[bytes]:
        yield b"late"
        # The process of the old run was stopped here; meanwhile the next run has taken over, and written.
        (tmp_path / "o.zarr.ledger" / "lock").unlink()
        new = Output.at(output).lock()
        new.acquire()
        if takes_over_by == "moving the output aside":
            output.rename(tmp_path / "aside")
            (output / "0").mkdir(parents=True)
        else:
            Output.at(output).remove_partial_files()
        (output / "0" / "1").write_bytes(b"of the new run")

    with pytest.raises(OutputInUseError):
        put_object(LocalStore(output), "0/1", parts(), check=guard.check)
    assert tree(output) == {"0/1": b"of the new run"}


def test_a_put_that_was_stopped_after_its_last_look_at_the_lock_replaces_nothing(tmp_path: Path) -> None:
    output = tmp_path / "o.zarr"
    (output / "0").mkdir(parents=True)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            # It holds the lock, and is stopped before its file gets its name. The next run replaces the output.
            output.rename(tmp_path / "aside")
            (output / "0").mkdir(parents=True)
            (output / "0" / "1").write_bytes(b"of the new run")
        if looks > 1:
            raise OutputInUseError("the lock is another run's")

    with pytest.raises(OutputInUseError):
        put_object(LocalStore(output), "0/1", [b"late"], check=look)
    assert tree(output) == {"0/1": b"of the new run"}


def hold_in(store_path: str, ready: Any) -> None:
    """Hold the lock of an output whose tasks run elsewhere, until the process is killed."""
    output = Output.at(fsspec_store(Path(store_path)))
    output.lock().acquire(has_workers=True)
    ready.send(True)
    ready.recv()


@pytest.mark.slow
def test_something_else_is_not_written_where_tasks_of_a_dead_run_may_still_put(
    embedded: Client, tmp_path: Path
) -> None:
    output, ledger = tmp_path / "o.zarr", tmp_path / "ledger"
    predict(fsspec_store(output), client=embedded, ledger=ledger)
    connection, theirs = CHILDREN.Pipe()
    process = CHILDREN.Process(target=hold_in, args=(str(output), theirs))
    process.start()
    assert connection.recv()
    process.kill()
    process.join()
    before = tree(ledger)
    with pytest.raises(OutputInUseError, match="may still write"):
        predict(fsspec_store(output), np.abs, if_exists="overwrite", client=embedded, ledger=ledger)
    assert tree(ledger) == before
