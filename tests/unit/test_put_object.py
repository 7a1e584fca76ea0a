"""An object appears whole, under its own name, or not at all; a store that fails is asked again as often as allowed."""

import asyncio
import errno
import multiprocessing
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import CountingStore, files_of_at_most, objects, tree
from zarr.storage import LocalStore, MemoryStore

from tilewright.stores.patience import FATAL, Patience, is_fatal, naming
from tilewright.stores.places import public_name
from tilewright.stores.put import get_object, put_object, write_file
from tilewright.stores.removal import delete_object, remove_partial_files

DEADLINE_SECONDS = 30.0
NEVER_AGAIN = Patience(attempts=2, pause_seconds=1000.0)
"""A second attempt would not come in time."""
PARTS = [b"of ", bytearray(b"several "), memoryview(b"parts")]
WHOLE = b"of several parts"
AT_ONCE = Patience(attempts=3, pause_seconds=0.0)


class FailingStore(CountingStore):
    """A store that fails so many times with an error, then works, and knows when it was asked."""

    def __init__(self, store: MemoryStore | None = None, failures: int = 0, error: BaseException | None = None) -> None:
        super().__init__(store)
        self.failures = failures
        self.error = error or OSError(errno.EIO, os.strerror(errno.EIO))
        self.asked_at: list[float] = []

    def _fail(self, counts: Counter[str], key: str) -> None:
        self.asked_at.append(monotonic())
        if len(self.asked_at) <= self.failures:
            counts[key] += 1
            raise self.error

    async def set(self, key: str, value: Any) -> None:
        self._fail(self.sets, key)
        await super().set(key, value)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self._fail(self.gets, key)
        return await super().get(key, prototype, byte_range)

    async def delete(self, key: str) -> None:
        self._fail(self.deletes, key)
        await super().delete(key)


class HangingStore(CountingStore):
    """A store that does not answer so many times, until it is let go."""

    def __init__(self, store: MemoryStore | None = None, hangs: int = 10**6) -> None:
        super().__init__(store)
        self.hangs = hangs
        self.waiting = 0
        self.let_go = False

    async def set(self, key: str, value: Any) -> None:
        if sum(self.sets.values()) < self.hangs:
            self.sets[key] += 1
            self.waiting += 1
            while not self.let_go:
                await asyncio.sleep(0.005)
            self.waiting -= 1
            return
        await super().set(key, value)


@pytest.fixture
def hanging() -> Iterator[Callable[..., HangingStore]]:
    """Make stores that hang, and wait at the end until no request waits for them."""
    made: list[HangingStore] = []

    def make(*arguments: Any, **options: Any) -> HangingStore:
        made.append(HangingStore(*arguments, **options))
        return made[-1]

    yield make
    until = monotonic() + DEADLINE_SECONDS
    for store in made:
        store.let_go = True
        while store.waiting:
            assert monotonic() < until
            threading.Event().wait(0.005)


# --- How often a store is asked.


Use = Callable[[Any, str, Patience], Any]
USES: dict[str, Use] = {
    "put": lambda store, key, patience: put_object(store, key, PARTS, patience),
    "get": get_object,
    "delete": delete_object,
}


@given(st.sampled_from(list(USES)), st.integers(0, 6), st.integers(1, 5))
def test_a_store_is_asked_until_it_answers_and_as_often_as_was_said(use: str, failures: int, attempts: int) -> None:
    memory = MemoryStore()
    before = {} if use == "put" else {"a/c/0": WHOLE}
    if use != "put":
        put_object(memory, "a/c/0", PARTS)
    store = FailingStore(memory, failures)
    patience = Patience(attempts=attempts, pause_seconds=0.0)
    if failures < attempts:
        answer = USES[use](store, "a/c/0", patience)
        assert use != "get" or bytes(answer) == WHOLE
        assert objects(memory) == ({} if use == "delete" else {"a/c/0": WHOLE})
    else:
        with pytest.raises(OSError, match="could not") as raised:
            USES[use](store, "a/c/0", patience)
        assert raised.value.errno == errno.EIO
        assert raised.value.filename == f"{public_name(store)}/a/c/0"
        assert raised.value.__cause__ is store.error
        assert objects(memory) == before
    counts = {"put": store.sets, "get": store.gets, "delete": store.deletes}
    assert counts == {"put": {}, "get": {}, "delete": {}, use: {"a/c/0": min(failures + 1, attempts)}}


def test_a_store_is_asked_three_times_by_default() -> None:
    assert Patience() == Patience(attempts=3, pause_seconds=0.25, answer_seconds=120.0)


def test_each_pause_is_four_times_as_long_as_the_one_before() -> None:
    store = FailingStore(failures=3)
    put_object(store, "c/0", [b"x"], Patience(attempts=4, pause_seconds=0.01))
    pauses = np.diff(store.asked_at)
    assert len(pauses) == 3
    assert (pauses >= [0.01, 0.04, 0.16]).all()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no answer"), ValueError("what?"), KeyError("c/0"), ConnectionResetError(), PermissionError(13)],
)
def test_any_error_of_a_store_is_borne_and_the_last_one_raised(error: Exception) -> None:
    store = FailingStore(failures=2, error=error)
    put_object(store, "c/0", [b"x"], AT_ONCE)
    assert store.sets == {"c/0": 3}
    store = FailingStore(failures=3, error=error)
    with pytest.raises(type(error) if not isinstance(error, OSError) else OSError) as raised:
        put_object(store, "c/0", [b"x"], AT_ONCE)
    assert error in (raised.value, raised.value.__cause__)
    assert store.sets == {"c/0": 3}


@pytest.mark.parametrize("number", FATAL)
def test_a_disk_that_takes_nothing_is_asked_once_and_keeps_what_it_had(number: int) -> None:
    store = FailingStore(error=OSError(number, os.strerror(number)))
    put_object(store, "c/0", [b"x"], AT_ONCE)
    store.failures = 10
    for key, count in (("c/0", 2), ("c/1", 1)):
        with pytest.raises(OSError, match=os.strerror(number)) as raised:
            put_object(store, key, [b"y"], AT_ONCE)
        assert raised.value.errno == number
        assert is_fatal(raised.value)
        assert store.sets[key] == count
    assert objects(store._store) == {"c/0": b"x"}


def test_which_errors_end_all_attempts() -> None:
    assert {errno.errorcode[number] for number in FATAL} == {"ENOSPC", "EDQUOT", "EROFS"}
    assert is_fatal(OSError(errno.ENOSPC, "full"))
    for error in (None, OSError(), OSError("ENOSPC"), OSError(errno.EIO, ""), TimeoutError(), ValueError(errno.ENOSPC)):
        assert not is_fatal(error)


def test_an_object_that_is_not_there_is_asked_for_once() -> None:
    store = CountingStore()
    with pytest.raises(FileNotFoundError) as raised:
        get_object(store, "c/0", NEVER_AGAIN)
    assert raised.value.filename == f"{public_name(store)}/c/0"
    delete_object(store, "c/0", NEVER_AGAIN)
    assert store.gets == store.deletes == {"c/0": 1}


def test_a_folder_in_the_place_of_an_object_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "c" / "0").mkdir(parents=True)
    (tmp_path / "c" / "0" / "notes.txt").touch()
    with pytest.raises(OSError, match="c/0"):
        delete_object(LocalStore(tmp_path), "c/0", AT_ONCE)
    assert (tmp_path / "c" / "0" / "notes.txt").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupted_attempt_is_the_last_one(error: BaseException) -> None:
    attempts = iter([error])

    def attempt() -> None:
        raise next(attempts)

    with pytest.raises(type(error)):
        NEVER_AGAIN.bear(attempt)


# --- A store that does not answer.


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_store_that_does_not_answer_is_an_error_in_time(attempts: int, hanging: Callable[..., HangingStore]) -> None:
    store = hanging()
    start = monotonic()
    with pytest.raises(TimeoutError, match="no answer") as raised:
        put_object(store, "c/0", [b"x"], Patience(attempts=attempts, pause_seconds=0.0, answer_seconds=0.1))
    # The time tells the attempts: on a busy machine one may end before its request begins.
    assert attempts * 0.1 <= monotonic() - start < DEADLINE_SECONDS
    assert isinstance(raised.value, OSError)
    assert raised.value.errno == errno.ETIMEDOUT
    assert raised.value.filename == f"{public_name(store)}/c/0"
    assert 0 < store.sets["c/0"] <= attempts


def test_a_store_that_answers_at_last_has_the_object(hanging: Callable[..., HangingStore]) -> None:
    store = hanging(hangs=1)
    put_object(store, "c/0", PARTS, Patience(attempts=2, pause_seconds=0.0, answer_seconds=0.2))
    assert store.sets == {"c/0": 2}
    assert objects(store._store) == {"c/0": WHOLE}


def test_a_store_that_hangs_holds_no_other_thread_up(hanging: Callable[..., HangingStore]) -> None:
    slow, quick = hanging(), CountingStore()
    patience = Patience(attempts=1, answer_seconds=DEADLINE_SECONDS)
    with ThreadPoolExecutor(1) as threads:
        putting = threads.submit(put_object, slow, "c/0", [b"x"], patience)
        try:
            while not slow.waiting:
                threading.Event().wait(0.005)
            put_object(quick, "c/0", [b"x"], AT_ONCE)
            assert objects(quick._store) == {"c/0": b"x"}
            assert slow.waiting
        finally:
            slow.let_go = True
        putting.result()


# --- Files.


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        PARTS,
        [b"", b"x", b"", memoryview(b"y")],
        [np.arange(300_000, dtype="<u4").data, np.arange(12, dtype="u1").reshape(3, 4).data],
    ],
    ids=["no part", "an empty part", "several", "some empty", "large"],
)
def test_an_object_is_the_parts_one_after_the_other_under_its_name_alone(parts: Sequence[Any], tmp_path: Path) -> None:
    expected = {"g/0/c/1/2": b"".join(parts)}
    store, memory = LocalStore(tmp_path), MemoryStore()
    for _ in range(2):
        put_object(store, "g/0/c/1/2", parts)
        put_object(memory, "g/0/c/1/2", parts)
        assert tree(tmp_path) == objects(memory) == expected
    assert write_file(tmp_path / "g/0/c/1/2", parts) == len(expected["g/0/c/1/2"])
    assert tree(tmp_path) == expected


def test_a_reader_never_sees_half_an_object(tmp_path: Path) -> None:
    path = tmp_path / "c" / "0"
    contents = [bytes([value]) * 200_000 for value in (1, 2)]
    write_file(path, [contents[0]])
    stopped = threading.Event()

    def write(content: bytes) -> None:
        while not stopped.is_set():
            write_file(path, [content[:70_000], content[70_000:]])

    with ThreadPoolExecutor(2) as threads:
        writing = threads.map(write, contents)
        try:
            seen = [path.read_bytes() for _ in range(300)]
        finally:
            stopped.set()
        assert list(writing) == [None, None]
    assert set(seen) <= set(contents)
    assert [file.name for file in path.parent.iterdir()] == ["0"]


def test_threads_that_make_the_same_folders_do_not_disturb_each_other(tmp_path: Path) -> None:
    start = threading.Barrier(4)

    def write(number: int) -> None:
        try:
            for step in range(40):
                start.wait(DEADLINE_SECONDS)
                write_file(tmp_path / str(step) / "a" / "b" / str(number), [b"x"])
        except BaseException:
            start.abort()
            raise

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(write, range(4))) == [None] * 4
    assert set(tree(tmp_path)) == {f"{step}/a/b/{number}" for step in range(40) for number in range(4)}


@pytest.mark.parametrize("room", [0, 1, 10, 99])
def test_a_write_that_is_cut_short_leaves_what_was_there(room: int, tmp_path: Path) -> None:
    write_file(tmp_path / "c" / "0", [b"before"])
    with files_of_at_most(room):
        for name in ("c/0", "c/1", "new/folder/0"):
            with pytest.raises(OSError, match="could not write: File too large") as raised:
                put_object(LocalStore(tmp_path), name, [b"x" * 50, b"y" * 50], AT_ONCE)
            assert raised.value.errno == errno.EFBIG
            assert raised.value.filename == str(tmp_path / name)
    assert tree(tmp_path) == {"c/0": b"before"}
    with files_of_at_most(100):
        put_object(LocalStore(tmp_path), "c/0", [b"x" * 50, b"y" * 50], AT_ONCE)
    assert tree(tmp_path) == {"c/0": b"x" * 50 + b"y" * 50}


class StopsHere(Sequence[bytes]):
    """Parts of which the second one never comes: there is an error, or none, and the process is to be killed."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        if index == 0:
            return b"half of it"
        if self.error is not None:
            raise self.error
        while True:
            threading.Event().wait(60)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ValueError("no part")])
def test_an_interrupted_put_leaves_nothing_and_does_not_go_on(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        put_object(LocalStore(tmp_path), "c/0", StopsHere(error), AT_ONCE)
    assert tree(tmp_path) == {}


def test_what_stands_in_the_way_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder" / "0").mkdir(parents=True)
    for key, error in (("file/0", NotADirectoryError), ("folder/0", IsADirectoryError)):
        with pytest.raises(error, match="could not write") as raised:
            put_object(LocalStore(tmp_path), key, [b"x"], AT_ONCE)
        assert raised.value.filename == str(tmp_path / key)
    assert tree(tmp_path) == {"file": b"no folder"}
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["0"]


def test_errors_of_the_system_name_what_the_user_knows() -> None:
    path = Path("a.zarr") / "0"
    with pytest.raises(FileNotFoundError, match="could not write") as raised, naming(path):
        raise FileNotFoundError(errno.ENOENT, "gone", "a temporary name")
    assert raised.value.filename == str(path)
    with pytest.raises(OSError, match="could not write: what a store says") as raised, naming(path):
        raise OSError("what a store says")
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(path))
    with pytest.raises(ValueError, match=r"^else$"), naming(path):
        raise ValueError("else")


# --- A real disk that takes nothing any more.


@pytest.mark.parametrize("why", ["No space left", "Read-only"])
def test_a_real_disk_that_takes_nothing_is_asked_once_and_keeps_what_it_had(why: str, small_disk: Path) -> None:
    store = LocalStore(small_disk)
    put_object(store, "c/0", [b"x" * 10_000], NEVER_AGAIN)
    before = tree(small_disk)
    if why == "Read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for key in ("c/0", "c/1", "new/0"):
        with pytest.raises(OSError, match=f"could not write: {why}") as raised:
            put_object(store, key, [b"y" * 30_000, b"z" * 30_000], NEVER_AGAIN)
        assert is_fatal(raised.value)
        assert raised.value.filename == str(small_disk / key)
        assert tree(small_disk) == before
    if why == "No space left":
        put_object(store, "c/1", [b"y" * 30_000], NEVER_AGAIN)


# --- What killed processes leave.


def write_half(path: str) -> None:
    write_file(Path(path), StopsHere(None))


def write_half_as_zarr_does(path: str) -> None:
    from zarr.storage import _local

    with _local._atomic_write(Path(path), "wb") as file:
        file.write(b"half of it")
        file.flush()
        threading.Event().wait()


@pytest.mark.slow
@pytest.mark.parametrize(("write", "name"), [(write_half, "0"), (write_half_as_zarr_does, "zarr.json")])
def test_what_a_killed_process_has_left_half_written_is_removed(
    write: Callable[[str], None], name: str, tmp_path: Path
) -> None:
    path = tmp_path / "0" / "c" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"before")
    process = multiprocessing.get_context("spawn").Process(target=write, args=(str(path),), daemon=True)
    process.start()
    until = monotonic() + DEADLINE_SECONDS
    try:
        while not any(content == b"half of it" for content in tree(tmp_path).values()):
            assert monotonic() < until
            assert process.is_alive()
            threading.Event().wait(0.01)
    finally:
        process.kill()
        process.join(DEADLINE_SECONDS)
    assert len(tree(tmp_path)) == 2
    remove_partial_files(tmp_path)
    assert tree(tmp_path) == {f"0/c/{name}": b"before"}


HEX = "0123456789abcdef" * 2
PARTIAL = [f"{name}.{HEX}.partial" for name in ("0", "zarr", "zarr.json", ".")]
OF_USERS = [".partial", "data.partial", f"{HEX}.partial", f"0 {HEX} partial"]
OF_USERS += [f"0.{HEX}{end}" for end in ("", ".partial.txt", ".partial~", "0.partial", ".part")]
OF_USERS += [f"0.{digits}.partial" for digits in (HEX[:-1], HEX.upper(), f"{HEX[:-1]}g")] + [f".{HEX}.partial"]


def test_files_of_users_folders_and_what_lies_elsewhere_stay(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    folders = [inside, inside / "0", inside / "0/c/1/2"]
    for folder in (*folders, outside, inside / "empty", inside / f"folder{PARTIAL[0]}"):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in (*folders, outside):
        for name in (*PARTIAL, *OF_USERS):
            (folder / name).write_bytes(name.encode())
    (inside / "link").symlink_to(outside)
    remove_partial_files(inside)
    kept = {folder / name for folder in folders for name in OF_USERS}
    assert {inside / name for name in tree(inside)} == kept
    assert set(tree(outside)) == {*PARTIAL, *OF_USERS}
    assert (inside / "empty").is_dir()
    assert (inside / f"folder{PARTIAL[0]}").is_dir()
    # A folder that is not there has nothing to remove.
    remove_partial_files(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_buffer_that_a_store_is_given_is_its_own() -> None:
    store = MemoryStore()
    part = bytearray(b"abc")
    put_object(store, "c/0", [part])
    part[:] = b"xyz"
    assert objects(store) == {"c/0": b"abc"}
