"""A lock of an output has one holder at most, and a dead holder keeps no process from it."""

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
from uuid import uuid4

import psutil
import pytest

from tilewright.errors import DestinationError, OutputInUseError
from tilewright.locks.holder import Holder
from tilewright.locks.lock import Times, WriterLock, remove_leftovers

ELSEWHERE = "another-machine"
DEADLINE_SECONDS = 60.0
"""Time after which a condition that should come counts as missing."""
CHILDREN = multiprocessing.get_context("spawn")
TIMES = Times(beat=0.02, dead=1000.0, look=0.005)
"""Milliseconds in place of seconds; a holder elsewhere dies in no test by accident."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a ledger, which exists."""
    path = tmp_path / "o.zarr.ledger"
    path.mkdir()
    return path


def wait_until(condition: Callable[[], Any]) -> Any:
    """Return the first true result of a condition."""
    until = monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert monotonic() < until, "this has not happened"
        threading.Event().wait(0.005)
    return found


def lock_in(folder: Path, **times: float) -> WriterLock:
    return WriterLock(folder, "o.zarr", replace(TIMES, **times))


def held(folder: Path, **times: float) -> WriterLock:
    lock = lock_in(folder, **times)
    lock.acquire()
    return lock


def attempt(lock: WriterLock) -> str:
    """Try to take a lock, and return ``"held"``, ``"refused"``, or the error of a fault."""
    try:
        lock.acquire()
    except OutputInUseError as error:
        # A refusal names its holder: the lock is never seen half-written.
        return str(error) if "unknown" in str(error) else "refused"
    except BaseException as error:
        return repr(error)
    return "held"


def write_lock(folder: Path, content: Holder | bytes) -> Path:
    """Leave a lock as another process would."""
    path = folder / "lock"
    path.write_bytes(content.to_bytes() if isinstance(content, Holder) else content)
    return path


def on_another_machine() -> Holder:
    """Return the holder of a lock there, under the number of a process that exists here too."""
    return replace(Holder.me(), host=ELSEWHERE, machine=f"{ELSEWHERE} {uuid4()}")


def dead_holder(**fields: Any) -> Holder:
    """Return the holder of a lock here, under a number that no process has."""
    unused = next(number for number in range(2**22 - 1, 1, -1) if not psutil.pid_exists(number))
    return replace(Holder.me(), process=unused, token="dead", **fields)


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
    """Hold a lock in a process, and follow commands; with `host` the process is one of another machine for a lock."""
    if host is not None:
        socket.gethostname = lambda: host
    lock = held(Path(folder))
    parent.send(os.getpid())
    while True:
        command = parent.recv()
        try:
            getattr(lock, command)()
        except OutputInUseError as error:
            parent.send(str(error))
        else:
            parent.send("done")


class Child:
    """Another process that holds a lock, and is killed at the end."""

    def __init__(self, folder: Path, host: str | None = None) -> None:
        self._connection, theirs = CHILDREN.Pipe()
        self._process = CHILDREN.Process(target=hold, args=(str(folder), theirs, host), daemon=True)
        self._process.start()
        theirs.close()
        self.number = self._answer()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *details: object) -> None:
        self._process.kill()
        self._process.join(DEADLINE_SECONDS)

    def tell(self, command: str) -> str:
        self._connection.send(command)
        return str(self._answer())

    def _answer(self) -> Any:
        assert self._connection.poll(DEADLINE_SECONDS), "the process does not answer"
        return self._connection.recv()


def race(count: int, function: Callable[..., None], *arguments: Any) -> list[Any]:
    """Let processes start a function at the same time, and return their answers from a queue."""
    start, told = CHILDREN.Barrier(count), CHILDREN.Queue()
    racers = [CHILDREN.Process(target=function, args=(*arguments, start, told)) for _ in range(count)]
    for racer in racers:
        racer.start()
    # None is the last answer of each.
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
        refused = lock_in(folder)
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
        lock = lock_in(folder)
        with pytest.raises(OutputInUseError, match=f"process {child.number} on {socket.gethostname()}"):
            lock.acquire()
        holder = lock.holder()
        assert holder is not None
        assert (holder.process, holder.host) == (child.number, socket.gethostname())
        # A refused lock gives nothing back.
        lock.release()
        assert [child.tell(command) for command in ("check", "release")] == ["done", "done"]
        lock = held(folder)
        assert child.tell("release") == "done"
        assert Holder.read(lock.path) == lock.holder() is not None
        lock.release()


def test_locks_of_different_outputs_are_independent(tmp_path: Path) -> None:
    locks = [held(tmp_path / name) for name in ("a", "b", "a/inner")]
    for lock in locks:
        lock.check()
    locks[0].release()
    assert [lock.path.exists() for lock in locks] == [False, True, True]
    for lock in locks[1:]:
        lock.check()
        lock.release()


def take_turns(folder: Path, inside: Path, count: int, start: Any, faults: Any) -> None:
    """Take the lock again and again, and look whether this process is alone then."""
    taken = 0
    start.wait(DEADLINE_SECONDS)
    until = monotonic() + DEADLINE_SECONDS
    while taken < count and monotonic() < until:
        lock = lock_in(folder, look=0.001)
        result = attempt(lock)
        if result != "held":
            if result != "refused":
                faults.put(result)
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


@pytest.mark.slow
@pytest.mark.parametrize("inside", [".", "a/b/o.zarr.ledger"], ids=["folder stays", "folders come and go"])
def test_of_processes_that_race_for_a_lock_one_has_it_at_any_time(inside: str, folder: Path) -> None:
    assert race(4, take_turns, folder / inside, folder.with_name("inside"), 100) == []
    assert not (folder / inside / "lock").exists()
    if inside == ".":
        assert list(folder.iterdir()) == []


def test_of_threads_that_race_for_a_lock_one_gets_it(folder: Path) -> None:
    start = threading.Barrier(4)

    def take(lock: WriterLock) -> str:
        start.wait(DEADLINE_SECONDS)
        return attempt(lock)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            locks = [lock_in(folder) for _ in range(4)]
            assert sorted(threads.map(take, locks)) == ["held", *["refused"] * 3]
            for lock in locks:
                lock.release()


def take_from_the_dead(folders: list[Path], tried: Any, start: Any, results: Any) -> None:
    """In each folder, find a dead holder together with other processes, and report the result."""
    for number, folder in enumerate(folders):
        lock = lock_in(folder, look=0.001)
        start.wait(DEADLINE_SECONDS)
        results.put((number, attempt(lock)))
        # The winner holds it until all have tried.
        tried.wait(DEADLINE_SECONDS)
        lock.release()
    results.put(None)


@pytest.mark.slow
def test_of_processes_that_find_the_same_dead_holder_one_gets_the_lock(tmp_path: Path) -> None:
    count, rounds = 5, 150
    folders = [tmp_path / str(number) for number in range(rounds)]
    for one in folders:
        one.mkdir()
        write_lock(one, dead_holder())
    results = race(count, take_from_the_dead, folders, CHILDREN.Barrier(count))
    assert sorted(results) == [(number, result) for number in range(rounds) for result in ["held", *["refused"] * 4]]
    assert [entry for one in folders for entry in one.iterdir()] == []


@pytest.fixture
def at_each_look(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Any]]:
    """Actions of other locks, one after each look of a lock at a file, and none after those of an action."""
    read_bytes, actions, acting = Path.read_bytes, [], []

    def read(path: Path) -> bytes:
        found = read_bytes(path)
        if actions and not acting:
            acting.append(True)
            try:
                actions.pop(0)()
            finally:
                acting.clear()
        return found

    monkeypatch.setattr(Path, "read_bytes", read)
    return actions


def test_a_late_look_at_a_dead_holder_lets_no_third_lock_in(folder: Path, at_each_look: list[Any]) -> None:
    write_lock(folder, dead_holder())
    one, two, three = (lock_in(folder) for _ in range(3))
    # The second one has read the dead holder when the first one takes over; a third one comes at every later moment.
    at_each_look += [partial(attempt, one), *[partial(attempt, three)] * 4]
    attempt(two)
    assert (one.number > 0, two.number, three.number) == (True, 0, 0)
    one.check()
    one.release()
    assert list(folder.iterdir()) == []


def test_a_lock_that_is_given_back_in_any_moment_is_free(folder: Path, at_each_look: list[Any]) -> None:
    write_lock(folder, dead_holder())
    one, two, three = (lock_in(folder) for _ in range(3))
    at_each_look += [one.acquire, one.release]
    attempt(two)
    two.release()
    at_each_look.clear()
    three.acquire()
    three.release()
    # Also where a running holder gives it back during the look.
    at_each_look.append(write_lock(folder, Holder.me()).unlink)
    three.acquire()
    three.release()
    assert list(folder.iterdir()) == []


# --- Dead holders.


@pytest.mark.parametrize("how", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["ends", "is killed"])
def test_a_process_that_ends_without_giving_back_is_dead_before_and_after_its_parent_asks(
    how: str, folder: Path
) -> None:
    script = (
        "import os, pathlib, signal, sys, tilewright.locks.lock as lock\n"
        f"lock.WriterLock(pathlib.Path(sys.argv[1]), '').acquire()\n{how}"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)]) as process:
        # A busy parent asks late: until then the number stays taken.
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        left = Holder.read(folder / "lock")
        assert left is not None
        assert left.process == process.pid
        assert lock_in(folder).holder() is None
        held(folder).release()
        assert process.wait() == (0 if how == "pass" else -signal.SIGKILL)
    write_lock(folder, left)
    assert lock_in(folder).holder() is None
    lock = held(folder)
    with pytest.raises(OutputInUseError, match=f"process {os.getpid()}"):
        held(folder)
    lock.release()
    assert list(folder.iterdir()) == []


def test_a_process_that_has_the_number_of_the_dead_is_another_one(folder: Path) -> None:
    holder = Holder.me()
    write_lock(folder, holder)
    # This process lives, and would hold the lock ...
    with pytest.raises(OutputInUseError, match=f"process {os.getpid()} "):
        held(folder)
    assert lock_in(folder).holder() == holder
    # ... but not where the writer of the lock was started at another time.
    write_lock(folder, replace(holder, process_started=holder.process_started - 100))
    assert lock_in(folder).holder() is None
    held(folder).release()


def test_each_holder_has_a_larger_number_than_the_dead_one_before_it(folder: Path) -> None:
    write_lock(folder, dead_holder(number=7))
    lock = lock_in(folder)
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


# --- Holders on another machine.


def test_an_untouched_lock_from_another_machine_is_taken_over_in_time(folder: Path) -> None:
    holder = on_another_machine()
    path = write_lock(folder, holder)
    # However long ago it was touched: the clocks of machines differ.
    os.utime(path, (1, 1))
    # A look does not wait.
    assert lock_in(folder).holder() == holder
    start = monotonic()
    lock = held(folder, dead=0.3)
    assert monotonic() - start >= 0.3
    assert Holder.read(path) == lock.holder()
    lock.release()


def test_a_holder_that_comes_back_after_it_counted_as_dead_notices_it_and_leaves_the_lock_alone(folder: Path) -> None:
    with Child(folder, ELSEWHERE) as child:
        with pytest.raises(OutputInUseError, match=f"process {child.number} on {ELSEWHERE}"):
            held(folder)
        assert child.tell("check") == "done"
        other = psutil.Process(child.number)
        other.suspend()
        lock = lock_in(folder, dead=0.3)
        # A touch that was under way may still reach the file.
        wait_until(lambda: attempt(lock) == "held")
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


@pytest.mark.parametrize("is_torn", [True, False], ids=["one that is being written", "one that was asleep"])
def test_a_holder_that_counted_as_dead_and_shows_up_again_is_looked_at_again(is_torn: bool, folder: Path) -> None:
    other = on_another_machine()
    first, later = (b"", b"") if is_torn else (other, replace(other, token="later", since=other.since + 100))
    write_lock(folder, first)
    held(folder, dead=0.05).release()
    path = write_lock(folder, later)
    # A torn lock is one that another process is about to write, also within a beat.
    with touching(path), pytest.raises(OutputInUseError, match="unknown" if is_torn else ELSEWHERE):
        held(folder, beat=1.0 if is_torn else TIMES.beat)


def test_a_process_of_another_container_of_this_machine_counts_as_running(folder: Path) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not make a namespace of processes")
    script = (
        "import pathlib, sys, tilewright.locks.lock as lock\n"
        "held = lock.WriterLock(pathlib.Path(sys.argv[1]), '', lock.Times(beat=0.02))\n"
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


# --- Files that are no lock.

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
    content: bytes, holder: str, folder: Path
) -> None:
    path = write_lock(folder, content)
    assert lock_in(folder).holder() is not None
    with touching(path), pytest.raises(OutputInUseError, match=holder):
        held(folder)
    assert path.read_bytes() == content
    lock = held(folder, dead=0.05)
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
    """Wait until a holder has touched its lock three times."""
    for _ in range(3):
        os.utime(lock.path, (1, 1))
        wait_until(lambda: lock.path.stat().st_mtime > 1)


def assert_is_left_alone(path: Path) -> None:
    """Check that the thread that touches locks does not touch this one."""
    os.utime(path, (1, 1))
    beside = held(path.parent.with_name("beside"))
    see_it_beat(beside)
    beside.release()
    assert path.stat().st_mtime == 1


def test_a_holder_touches_its_lock_again_and_again_until_it_gives_it_back(folder: Path) -> None:
    lock = held(folder)
    see_it_beat(lock)
    lock.check()
    lock.release()
    assert_is_left_alone(write_lock(folder, on_another_machine()))


@pytest.mark.parametrize("is_removed", [True, False], ids=["removed", "taken by another"])
def test_a_holder_is_told_that_its_lock_was_taken_away(is_removed: bool, folder: Path) -> None:
    lock, other = held(folder), on_another_machine()
    lock.check()
    if is_removed:
        lock.path.unlink()
    else:
        # As a takeover does: the file is another one, at once.
        write_lock(folder.parent, other).replace(lock.path)
    with pytest.raises(OutputInUseError, match=str(lock.path)):
        wait_until(lock.check)
    if not is_removed:
        assert_is_left_alone(lock.path)
    lock.release()
    assert Holder.read(lock.path) == (None if is_removed else other)


def test_a_guard_lets_write_while_its_lock_is_held_and_not_after(folder: Path) -> None:
    with pytest.raises(OutputInUseError):
        lock_in(folder).guard()
    lock = held(folder)
    guard = lock.guard()
    guards = (guard, pickle.loads(pickle.dumps(guard)))
    for one in guards:
        one.check()
    lock.release()

    def assert_all_are_refused() -> None:
        for one in guards:
            with pytest.raises(OutputInUseError, match=f"{lock.path} .*nothing more is written"):
                one.check()

    assert_all_are_refused()
    # Nor does the next run, of the same process, give it the right back.
    later = held(folder)
    assert_all_are_refused()
    assert later.guard() != guard
    later.release()


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
