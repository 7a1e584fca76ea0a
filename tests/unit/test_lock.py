"""At most one process has the lock of an output, and one that is dead keeps nobody from it."""

import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest

from tilewright.errors import DestinationError, OutputInUseError
from tilewright.locks import lock as lock_module
from tilewright.locks.holder import Holder
from tilewright.locks.lock import WriterLock, remove_leftovers

ELSEWHERE = "another-machine"
DEADLINE_SECONDS = 60.0
"""After which a condition that should come has not."""
CHILDREN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def short_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what takes seconds take milliseconds; what is never to be waited for stays long."""
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lock_module, "_LOOK_SECONDS", 0.005)
    monkeypatch.setattr(lock_module, "DEAD_SECONDS", 1000.0)
    # What a process has learned about others is forgotten with it.
    monkeypatch.setattr(lock_module, "_dead", {})


@pytest.fixture
def dead_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Say after how long the holder on another machine counts as dead."""
    return partial(monkeypatch.setattr, lock_module, "DEAD_SECONDS")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a ledger, which is there."""
    path = tmp_path / "o.zarr.ledger"
    path.mkdir()
    return path


def wait_until(condition: Callable[[], Any]) -> Any:
    """Return what a condition says when it says something; fail where it never does."""
    until = monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert monotonic() < until, "this has not happened"
        threading.Event().wait(0.005)
    return found


def held(folder: Path) -> WriterLock:
    lock = WriterLock(folder, "o.zarr")
    lock.acquire()
    return lock


def try_to_hold(folder: Path) -> WriterLock | None:
    try:
        return held(folder)
    except OutputInUseError:
        return None


def write_lock(folder: Path, content: Holder | bytes) -> Path:
    """Leave a lock as another process would."""
    path = folder / "lock"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(asdict(content)).encode())
    return path


def on_another_machine() -> Holder:
    """Who holds a lock there, under the number of a process that is here too."""
    return replace(Holder.me(), host=ELSEWHERE, machine=f"{ELSEWHERE} since it was started")


def dead_holder() -> Holder:
    """Who holds a lock here, under a number that no process has."""
    unused = next(number for number in range(2**22 - 1, 1, -1) if not psutil.pid_exists(number))
    return replace(Holder.me(), process=unused, token="dead")


@contextmanager
def touching(path: Path) -> Iterator[None]:
    """Touch a file again and again, as a holder elsewhere does; it may be gone in between."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.005):
            with suppress(FileNotFoundError):
                os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def hold(folder: str, parent: Connection, host: str | None = None) -> None:
    """Hold a lock in a process of its own, and do what one is told.

    With `host`, this is a process of another machine, as far as a lock can tell.
    """
    if host is not None:
        socket.gethostname = lambda: host
    lock_module.BEAT_SECONDS = 0.02
    lock = held(Path(folder))
    parent.send(os.getpid())
    while (command := parent.recv()) != "end":
        try:
            getattr(lock, command)()
        except OutputInUseError as error:
            parent.send(str(error))
        else:
            parent.send("done")


class Child:
    """Another process that holds a lock, and is killed at the end if it still is."""

    def __init__(self, folder: Path, host: str | None = None) -> None:
        self._connection, theirs = CHILDREN.Pipe()
        self.process = CHILDREN.Process(target=hold, args=(str(folder), theirs, host), daemon=True)
        self.process.start()
        theirs.close()
        assert self._connection.poll(DEADLINE_SECONDS), "the process does not come up"
        self.number = self._connection.recv()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *details: object) -> None:
        self.kill()

    def tell(self, command: str) -> str:
        self._connection.send(command)
        assert self._connection.poll(DEADLINE_SECONDS), "the process does not answer"
        return str(self._connection.recv())

    def kill(self) -> None:
        """Kill it, and wait until the system has forgotten it."""
        self.process.kill()
        self.process.join(DEADLINE_SECONDS)
        assert not self.process.is_alive()
        assert not psutil.pid_exists(self.number)


def race(count: int, function: Callable[..., None], *arguments: Any) -> list[Any]:
    """Let processes start a function at the same time, and return what they put into a queue."""
    start, told = CHILDREN.Barrier(count), CHILDREN.Queue()
    racers = [CHILDREN.Process(target=function, args=(*arguments, start, told)) for _ in range(count)]
    for racer in racers:
        racer.start()
    # Each says at its end that it has come there.
    answers: list[Any] = []
    while answers.count(None) < count:
        answers.append(told.get(timeout=3 * DEADLINE_SECONDS))
    for racer in racers:
        racer.join(DEADLINE_SECONDS)
    assert [racer.exitcode for racer in racers] == [0] * count
    return [answer for answer in answers if answer is not None]


# --- One at a time.


def test_a_lock_that_this_process_holds_is_refused_by_the_name_of_its_holder_and_left(folder: Path) -> None:
    lock = held(folder)
    (folder / "000001.ledger").touch()
    content = lock.path.read_bytes()
    for _ in range(2):
        refused = WriterLock(folder, "o.zarr")
        with pytest.raises(OutputInUseError) as raised:
            refused.acquire()
        for named in ("o.zarr", f"process {os.getpid()} ", socket.gethostname(), str(lock.path)):
            assert named in str(raised.value)
        refused.release()
    assert isinstance(raised.value, DestinationError)
    assert isinstance(raised.value, BlockingIOError)
    assert sorted(entry.name for entry in folder.iterdir()) == ["000001.ledger", "lock"]
    assert lock.path.read_bytes() == content
    lock.check()
    lock.release()
    held(folder).release()
    assert [entry.name for entry in folder.iterdir()] == ["000001.ledger"]


def test_a_lock_that_another_process_holds_is_refused_by_the_name_of_its_holder(folder: Path) -> None:
    with Child(folder) as child:
        lock = WriterLock(folder, "o.zarr")
        with pytest.raises(OutputInUseError, match=f"process {child.number} on {socket.gethostname()}"):
            lock.acquire()
        holder = lock.holder()
        assert holder is not None
        assert holder.process == child.number
        assert holder.host == socket.gethostname()
        # Who was refused has nothing to give back.
        lock.release()
        assert child.tell("check") == "done"
        assert child.tell("release") == "done"
        lock = held(folder)
        assert child.tell("release") == "done"
        assert Holder.read(lock.path) == lock.holder()
        assert lock.path.exists()
        lock.release()


def test_locks_of_different_outputs_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    locks = [held(tmp_path / name) for name in ("a", "b", "a/inner")]
    for lock in locks:
        lock.check()
    locks[0].release()
    assert [lock.path.exists() for lock in locks] == [False, True, True]
    for lock in locks[1:]:
        lock.check()
        lock.release()


def take_turns(folder: Path, inside: Path, count: int, start: Any, faults: Any) -> None:
    """Take the lock again and again, and look whether one is alone then."""
    lock_module._LOOK_SECONDS = 0.001
    taken = 0
    start.wait(DEADLINE_SECONDS)
    until = monotonic() + DEADLINE_SECONDS
    while taken < count and monotonic() < until:
        lock = WriterLock(folder, "o.zarr")
        try:
            lock.acquire()
        except OutputInUseError as error:
            if "unknown" in str(error):
                faults.put(str(error))
            continue
        except BaseException as error:
            faults.put(repr(error))
            continue
        try:
            # The system lets only one process create a file.
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            faults.put(f"process {os.getpid()} was not alone")
        else:
            lock.check()
            inside.unlink()
        lock.release()
        taken += 1
    if taken < count:
        faults.put(f"process {os.getpid()} came to its turn {taken} times only")
    faults.put(None)


@pytest.mark.parametrize("inside", [".", "a/b/o.zarr.ledger"], ids=["folder stays", "folders come and go"])
def test_of_processes_that_race_for_a_lock_one_has_it_at_any_time(inside: str, folder: Path) -> None:
    assert race(4, take_turns, folder / inside, folder.with_name("inside"), 100) == []
    assert not (folder / inside / "lock").exists()
    if inside == ".":
        assert list(folder.iterdir()) == []


def test_of_threads_that_race_for_a_lock_one_gets_it(folder: Path) -> None:
    start = threading.Barrier(4)

    def take(_: int) -> WriterLock | None:
        start.wait(DEADLINE_SECONDS)
        return try_to_hold(folder)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            (winner,) = filter(None, list(threads.map(take, range(4))))
            winner.release()


# --- Who is dead.


def test_the_lock_of_a_killed_process_is_taken_over_at_once(folder: Path) -> None:
    with Child(folder) as child:
        before = Holder.read(folder / "lock")
        child.kill()
        assert before is not None
        assert before.process == child.number
        watch = WriterLock(folder, "o.zarr")
        assert watch.holder() is None
        # Where it waited for the dead to speak, this would not end in time.
        lock = held(folder)
        assert lock.holder() not in (None, before)
        with pytest.raises(OutputInUseError, match=f"process {os.getpid()}"):
            held(folder)
        lock.release()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("how", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["ends", "is killed"])
def test_a_process_that_ends_without_giving_back_is_dead_also_where_nobody_took_notice(how: str, folder: Path) -> None:
    # The parent of a process may be busy, or a program that never asks: then its number stays taken.
    script = (
        "import os, pathlib, signal, sys, tilewright.locks.lock as lock\n"
        f"lock.WriterLock(pathlib.Path(sys.argv[1]), '').acquire()\n{how}"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)]) as process:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert (folder / "lock").exists()
        assert WriterLock(folder, "o.zarr").holder() is None
        held(folder).release()
        assert process.wait() == (0 if how == "pass" else -signal.SIGKILL)


def test_a_process_that_has_the_number_of_the_dead_is_another_one(folder: Path) -> None:
    holder = Holder.me()
    write_lock(folder, holder)
    # This process lives, and would hold the lock ...
    with pytest.raises(OutputInUseError, match=f"process {os.getpid()} "):
        held(folder)
    assert WriterLock(folder, "o.zarr").holder() == holder
    # ... but not where the one that wrote this was started at another time.
    write_lock(folder, replace(holder, process_started=holder.process_started - 100))
    assert WriterLock(folder, "o.zarr").holder() is None
    held(folder).release()


# --- Who is on another machine.


def test_a_lock_from_another_machine_that_nobody_touches_is_taken_over_in_time(
    folder: Path, dead_after: Callable[[float], None]
) -> None:
    holder = on_another_machine()
    path = write_lock(folder, holder)
    # However long ago it was touched: the clocks of machines differ.
    os.utime(path, (1, 1))
    # Whoever only looks does not wait.
    assert WriterLock(folder, "o.zarr").holder() == holder
    dead_after(0.3)
    start = monotonic()
    lock = held(folder)
    assert monotonic() - start >= 0.3
    assert Holder.read(path) == lock.holder()
    lock.release()


def test_who_was_held_for_dead_and_comes_back_notices_it_and_leaves_the_lock_alone(
    folder: Path, dead_after: Callable[[float], None]
) -> None:
    with Child(folder, ELSEWHERE) as child:
        with pytest.raises(OutputInUseError, match=f"process {child.number} on {ELSEWHERE}"):
            held(folder)
        assert child.tell("check") == "done"
        other = psutil.Process(child.number)
        other.suspend()
        dead_after(0.3)
        # What it was doing when it was stopped may still reach the file.
        lock = wait_until(lambda: try_to_hold(folder))
        mine = lock.path.read_bytes()
        other.resume()
        told = wait_until(lambda: (answer := child.tell("check")) != "done" and answer)
        assert "nothing more is written" in told
        assert str(lock.path) in told
        assert child.tell("release") == "done"
        assert lock.path.read_bytes() == mine
        lock.check()
        lock.release()
        assert list(folder.iterdir()) == []


# --- What is no lock.

THERE = Holder(ELSEWHERE, f"{ELSEWHERE} since it was started", 7, 1.0, 1.0, "t")
TORN = [
    b"",
    b"{",
    b"\x00" * 200,
    b'{"host": "a"}',
    b'{"host": "a", "machine": "b", "process": 1, "process_started": 1.0, "since": 1.0, "token": "t", "more": 1}',
    b'{"host": "a", "machine": "b", "process": 1, "process_started": 1.0, "since": 1.0, "tok',
    # With numbers that are none.
    *(
        json.dumps(asdict(THERE) | {field: value}).encode()
        for field in ("process", "process_started", "token")
        for value in ("/x", None, [], -5, 1e300, 2**80)
    ),
]


@pytest.mark.parametrize(
    ("content", "holder"),
    [(THERE.to_bytes(), f"process 7 on {ELSEWHERE}"), *((content, "an unknown machine") for content in TORN)],
    ids=["of another machine", *(f"torn {number}" for number in range(len(TORN)))],
)
def test_a_lock_of_another_machine_or_a_torn_one_is_refused_while_it_is_touched_and_not_for_ever(
    content: bytes, holder: str, folder: Path, dead_after: Callable[[float], None]
) -> None:
    path = write_lock(folder, content)
    assert WriterLock(folder, "o.zarr").holder() is not None
    with touching(path), pytest.raises(OutputInUseError, match=holder):
        held(folder)
    assert path.read_bytes() == content
    dead_after(0.05)
    lock = held(folder)
    lock.check()
    lock.release()
    assert list(folder.iterdir()) == []


FOREIGN = [b"[]", b"null", b"7", b"\xff\xfe\x00", b"the key is under the mat", b"[" * 100_000]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_a_file_of_others_that_has_the_name_of_a_lock_is_left_alone(content: bytes, folder: Path) -> None:
    path = write_lock(folder, content)
    os.utime(path, (1, 1))
    with pytest.raises(DestinationError, match="none of tilewright") as raised:
        held(folder)
    assert not isinstance(raised.value, OutputInUseError)
    assert path.read_bytes() == content
    assert [entry.name for entry in folder.iterdir()] == ["lock"]


# --- While it is held.


def see_it_beat(lock: WriterLock) -> None:
    """Wait until a holder has shown three times that it lives."""
    for _ in range(3):
        os.utime(lock.path, (1, 1))
        wait_until(lambda: lock.path.stat().st_mtime > 1)


def test_a_holder_shows_again_and_again_that_it_lives(folder: Path) -> None:
    lock = held(folder)
    see_it_beat(lock)
    lock.check()
    lock.release()


def test_nobody_touches_a_lock_that_was_given_back(folder: Path) -> None:
    held(folder).release()
    path = write_lock(folder, on_another_machine())
    os.utime(path, (1, 1))
    second = held(folder.with_name("other"))
    see_it_beat(second)
    assert path.stat().st_mtime == 1
    second.release()


@pytest.mark.parametrize("taken_by", ["another", "nobody"])
def test_a_holder_is_told_that_its_lock_was_taken_away(taken_by: str, folder: Path) -> None:
    lock = held(folder)
    lock.check()
    if taken_by == "another":
        # As whoever takes over does: the file is another one, at once.
        other = on_another_machine()
        write_lock(folder.parent, other).replace(lock.path)
    else:
        lock.path.unlink()

    def told() -> str:
        try:
            lock.check()
        except OutputInUseError as error:
            return str(error)
        return ""

    assert str(lock.path) in wait_until(told)
    if taken_by == "another":
        # Nor does it show that the other one lives.
        os.utime(lock.path, (1, 1))
        beside = held(folder.with_name("beside"))
        see_it_beat(beside)
        assert lock.path.stat().st_mtime == 1
        beside.release()
    lock.release()
    if taken_by == "another":
        assert Holder.read(lock.path) == other


def test_a_guard_lets_write_while_its_lock_is_held_and_not_after(folder: Path) -> None:
    with pytest.raises(OutputInUseError):
        WriterLock(folder, "o.zarr").guard()
    lock = held(folder)
    guard = lock.guard()
    elsewhere = pickle.loads(pickle.dumps(guard))
    for one in (guard, elsewhere):
        one.check()
    lock.release()
    for one in (guard, elsewhere):
        with pytest.raises(OutputInUseError, match=str(lock.path)):
            one.check()
    # Nor does the next run, of the same process, give it the right back.
    later = held(folder)
    for one in (guard, elsewhere):
        with pytest.raises(OutputInUseError, match="nothing more is written"):
            one.check()
    assert later.guard() != guard
    later.release()


def test_each_holder_has_a_larger_number_than_the_dead_one_before_it(folder: Path) -> None:
    write_lock(folder, replace(dead_holder(), number=7))
    lock = WriterLock(folder, "o.zarr")
    lock.acquire(3)
    assert lock.number == 8
    assert Holder.read(lock.path) == lock.holder()
    lock.release()


@pytest.mark.parametrize("name", ["lock." + "0" * 32, f"lock.{'0' * 32}.{'1' * 32}.partial", "lock.unknown"])
def test_what_killed_processes_have_left_of_locks_is_removed_and_no_other_file(name: str, folder: Path) -> None:
    kept = ["lock.txt", "lock.bak", "notes.partial"]
    for one in (name, *kept):
        (folder / one).touch()
    remove_leftovers(folder)
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(kept)


# --- When it is given back.


def test_giving_back_removes_the_lock_and_the_folders_that_were_made_for_it_and_no_other(tmp_path: Path) -> None:
    existing = tmp_path / "existing"
    existing.mkdir()
    lock = held(existing / "a" / "b" / "o.zarr.ledger")
    assert lock.path.is_file()
    for _ in range(2):
        lock.release()
        assert list(existing.iterdir()) == []
    # What came into them meanwhile stays ...
    lock = held(existing / "a" / "b" / "o.zarr.ledger")
    (existing / "a" / "o.zarr").mkdir()
    lock.release()
    assert [entry.name for entry in (existing / "a").iterdir()] == ["o.zarr"]
    # ... and what was there before, even where it is empty.
    held(existing / "a" / "o.zarr").release()
    assert list((existing / "a" / "o.zarr").iterdir()) == []


def test_a_lock_that_cannot_be_made_names_its_file_and_waits_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "file" / "o.zarr.ledger", tmp_path / "link"):
        with pytest.raises(OSError, match="could not write") as raised:
            held(folder)
        assert raised.value.filename == str(folder / "lock")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "link"]


def take_from_the_dead(folders: list[Path], tried: Any, start: Any, results: Any) -> None:
    """In each folder, find a dead holder together with others, and say whether one got the lock."""
    lock_module._LOOK_SECONDS = 0.001
    for number, folder in enumerate(folders):
        lock = WriterLock(folder, "o.zarr")
        start.wait(DEADLINE_SECONDS)
        try:
            lock.acquire()
        except OutputInUseError as error:
            results.put((number, "unknown" if "unknown" in str(error) else "refused"))
        except BaseException as error:
            results.put((number, repr(error)))
        else:
            results.put((number, "won"))
        # Until all have tried, nobody gives back.
        tried.wait(DEADLINE_SECONDS)
        lock.release()
    results.put(None)


def test_of_processes_that_find_the_same_dead_holder_one_gets_the_lock(tmp_path: Path) -> None:
    count, rounds = 5, 150
    folders = [tmp_path / str(number) for number in range(rounds)]
    for one in folders:
        one.mkdir()
        write_lock(one, dead_holder())
    results = race(count, take_from_the_dead, folders, CHILDREN.Barrier(count))
    # Who is refused is told by whom: the lock is never seen half written.
    assert sorted(results) == [
        (number, result) for number in range(rounds) for result in ["refused"] * (count - 1) + ["won"]
    ]
    assert [entry for one in folders for entry in one.iterdir()] == []


class Staged:
    """Let others act at given moments between the steps of one who takes a lock: when it has read a lock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read = Holder.read
        self.actions: list[Any] = []
        self._is_acting = False
        monkeypatch.setattr(Holder, "read", self)

    def __call__(self, path: Path) -> Holder | None:
        found = self._read(path)
        if self.actions and not self._is_acting:
            self._is_acting = True
            try:
                self.actions.pop(0)()
            finally:
                self._is_acting = False
        return found


def test_who_comes_late_to_a_dead_holder_lets_no_third_one_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(folder, dead_holder())
    one, two, three = (WriterLock(folder, name) for name in ("one", "two", "three"))

    def take(lock: WriterLock) -> None:
        with suppress(OutputInUseError):
            lock.acquire()

    # The second one has read who is dead when the first one takes over; a third one comes at every later moment.
    staged = Staged(monkeypatch)
    staged.actions = [lambda: take(one), *[lambda: take(three)] * 4]
    take(two)
    assert (one.number > 0, two.number, three.number) == (True, 0, 0)
    one.check()
    one.release()
    assert list(folder.iterdir()) == []


def test_a_lock_that_is_given_back_in_any_moment_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(folder, dead_holder())
    one, two, three = (WriterLock(folder, name) for name in ("one", "two", "three"))
    staged = Staged(monkeypatch)
    staged.actions = [one.acquire, one.release]
    with suppress(OutputInUseError):
        two.acquire()
    two.release()
    staged.actions = []
    three.acquire()
    three.release()
    # Also where it is given back by one that lives, while one looks.
    staged.actions = [write_lock(folder, Holder.me()).unlink]
    three.acquire()
    three.release()
    assert list(folder.iterdir()) == []


def test_a_process_of_another_container_of_this_machine_is_not_held_for_dead(folder: Path) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not make a namespace of processes")
    script = (
        "import pathlib, sys, tilewright.locks.lock as lock\n"
        "lock.BEAT_SECONDS = 0.02\n"
        "held = lock.WriterLock(pathlib.Path(sys.argv[1]), '')\n"
        "held.acquire()\n"
        "print('held', flush=True)\n"
        "sys.stdin.readline()\n"
        "held.check()\n"
        "held.release()\n"
    )
    with subprocess.Popen(
        [*command, sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OutputInUseError):
            held(folder)
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(DEADLINE_SECONDS) == 0
    held(folder).release()


@pytest.mark.parametrize("is_torn", [True, False], ids=["one that is being written", "one that was asleep"])
def test_who_was_once_held_for_dead_and_shows_up_again_is_looked_at_again(
    is_torn: bool, folder: Path, dead_after: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = on_another_machine()
    first, later = (b"", b"") if is_torn else (other, replace(other, token="later", since=other.since + 100))
    dead_after(0.05)
    write_lock(folder, first)
    held(folder).release()
    dead_after(1000.0)
    if is_torn:
        # In the next moment somebody else is just about to write who they are.
        monkeypatch.setattr(lock_module, "BEAT_SECONDS", 1.0)
    path = write_lock(folder, later)
    with touching(path), pytest.raises(OutputInUseError, match="unknown" if is_torn else ELSEWHERE):
        held(folder)
