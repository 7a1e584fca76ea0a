"""A run that is asked to end, has a rival or fills its disk leaves what it has stored whole, and says how to go on."""

import errno
import json
import os
import signal
import socket
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client
from tests.faults.resuming import (
    CLIENTS,
    IMAGE,
    SAMPLES,
    Company,
    assert_is_whole,
    files_of_records,
    header_of,
    ledger_of,
    left_alone,
    network_of,
    object_files,
    predict,
    records_of,
    resume,
    train,
    unchanged,
)
from tests.faults.stopping import (
    ALIGNED,
    COMPACT,
    GATE_AT,
    SIGNALS,
    STOPPED,
    Disk,
    Gated,
    ask_to_stop,
    assert_goes_on,
    assert_stored_is_recorded,
    has_proc,
    outcome_of,
    predict_command,
)
from tests.faults.support import Running, hand_over, wait_for
from tests.support import FullStore, noted, objects, tree
from zarr.storage import LocalStore, MemoryStore

import tilewright as tw
from tilewright.cli.commands import commands as main
from tilewright.errors import DestinationError, OutputInUseError
from tilewright.stores.places import public_name
from tilewright.transport.clients import open_embedded_cluster, shares_memory

TILES_PER_UNIT = 9
"""Of the aligned plan, at most."""
BOTH_LAYOUTS = pytest.mark.parametrize("options", [COMPACT, ALIGNED], ids=["compact", "aligned"])
NUMBERS = pytest.mark.parametrize("number", SIGNALS)

pytestmark = [
    pytest.mark.usefixtures("current"),
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available.*"),
]


# Signals


def said(number: int, output: Path, resume: str) -> str:
    """What a run says that was stopped, after it has stored some units of its output."""
    written, units = len(records_of(output)), header_of(output).plan.unit_count
    assert 0 < written < units
    name = signal.Signals(number).name
    return f"{name}: the run has stopped; {written} of {units} units are written. Run it again with {resume} to go on"


@has_proc
@NUMBERS
@BOTH_LAYOUTS
def test_a_client_that_is_asked_to_stop_finishes_what_is_in_flight_and_nothing_more(
    options: dict[str, Any], number: int, folder: Path, start_client: Any, executor: Client
) -> None:
    process = start_client(options, executor)
    begun = noted(folder / "begun")
    ask_to_stop(process.pid, number, folder)
    if shares_memory(executor):
        assert noted(folder / "begun") == begun
    (folder / "go").touch()
    process.join()
    outcome = outcome_of(folder)
    assert outcome["error"] == "RunStoppedError"
    assert outcome["message"] == said(number, folder / "out.zarr", "if_exists='resume'") + " from there"
    assert outcome["handlers are restored"]
    assert noted(folder / "begun") == noted(folder / "ended")
    if shares_memory(executor):
        # Another thread may have begun with one tile more, or with the tiles of one unit each.
        assert noted(folder / "begun") <= begun + (1 if options == COMPACT else 2 * TILES_PER_UNIT)
    assert_stored_is_recorded(folder / "out.zarr")
    assert_goes_on(folder, options)


@has_proc
@NUMBERS
def test_the_time_of_grace_is_kept_where_a_model_takes_for_ever(
    number: int, folder: Path, start_client: Any, executor: Client
) -> None:
    process = start_client({"grace_seconds": 1.0}, executor)
    since = monotonic()
    ask_to_stop(process.pid, number, folder)
    process.join(30)
    # The gate is still shut.
    assert 1.0 <= monotonic() - since < (15 if shares_memory(executor) else 10)
    assert outcome_of(folder)["error"] == "RunStoppedError"
    assert process.exitcode == 0
    assert_goes_on(folder, {})


@has_proc
@NUMBERS
def test_a_second_signal_ends_a_client_at_once(number: int, folder: Path, start_client: Any, executor: Client) -> None:
    process = start_client({}, executor)
    ask_to_stop(process.pid, number, folder)
    os.kill(process.pid, number)
    process.join(15 if shares_memory(executor) else 10)
    if number == signal.SIGTERM:
        assert process.exitcode == -signal.SIGTERM
        assert not (folder / "outcome").exists()
        # It was not there any more to give its lock back.
        assert (ledger_of(folder / "out.zarr") / "lock").exists()
    else:
        assert not process.is_alive()
        assert outcome_of(folder)["error"] == "KeyboardInterrupt"
        assert outcome_of(folder)["handlers are restored"]
        assert not (ledger_of(folder / "out.zarr") / "lock").exists()
    assert_goes_on(folder, {})


@has_proc
def test_a_client_that_is_asked_to_stop_at_its_last_tile_has_nothing_left_to_do(
    folder: Path, start_client: Any
) -> None:
    (folder / "begun").write_bytes(b"." * (GATE_AT - 2))
    # Two tiles in one unit: behind the gate there is no more.
    options = {"tile_size": (240, 160), "chunks": (240, 288), "memory_nbytes": None}
    process = start_client(options)
    ask_to_stop(process.pid, signal.SIGTERM, folder)
    (folder / "go").touch()
    process.join()
    assert outcome_of(folder).get("error") in (None, "RunStoppedError")
    assert len(records_of(folder / "out.zarr")) == 1
    assert_goes_on(folder, options)


class default_handlers(ExitStack):
    """Give this process the handlers that a program begins with, for a while."""

    def __enter__(self) -> "default_handlers":
        for number, handler in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            self.callback(signal.signal, number, signal.signal(number, handler))
        return super().__enter__()


def handlers() -> tuple[Any, ...]:
    return tuple(signal.getsignal(number) for number in SIGNALS)


def test_handlers_are_there_during_a_run_only_and_come_back_whatever_happens(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    def look(tiles: np.ndarray) -> np.ndarray:
        seen.append(handlers())
        return tiles

    def fail(tiles: np.ndarray) -> np.ndarray:
        if look(tiles).any() and len(seen) > 2:
            raise ZeroDivisionError
        return tiles

    with default_handlers():
        before = handlers()
        predict(tmp_path / "a.zarr", look)
        assert handlers() == before
        assert all(set(during).isdisjoint(before) for during in seen[1:])
        seen.clear()
        with pytest.raises(ZeroDivisionError):
            predict(tmp_path / "b.zarr", fail)
        assert len(seen) > 2
        assert handlers() == before


def test_a_run_in_another_thread_leaves_signals_alone(embedded: Client, tmp_path: Path) -> None:
    seen: set[Any] = set()

    def look(tiles: np.ndarray) -> np.ndarray:
        seen.update(handlers())
        return tiles

    with default_handlers():
        report = Running(lambda: predict(tmp_path / "o.zarr", look, client=embedded)).end()
    np.testing.assert_array_equal(report.array[...], IMAGE)
    assert seen == {signal.SIG_DFL, signal.default_int_handler}


@pytest.mark.parametrize("mine", ["called", "ignored"])
@NUMBERS
def test_a_handler_of_the_user_is_left_alone_and_still_called(number: int, mine: str, tmp_path: Path) -> None:
    taken: list[int] = []

    def take(number: int, _frame: object) -> None:
        taken.append(number)

    handler: Any = take if mine == "called" else signal.SIG_IGN

    def send(tiles: np.ndarray) -> np.ndarray:
        assert signal.getsignal(number) is handler
        os.kill(os.getpid(), number)
        return tiles

    with default_handlers() as stack:
        stack.callback(signal.signal, number, signal.signal(number, handler))
        report = predict(tmp_path / "o.zarr", send)
        assert signal.getsignal(number) is handler
    assert set(taken) == ({number} if mine == "called" else set())
    np.testing.assert_array_equal(report.array[...], IMAGE)


# The command line


@has_proc
@NUMBERS
def test_a_command_that_is_asked_to_stop_ends_with_75_says_how_to_go_on_and_does(
    number: int, folder: Path, start_command: Any
) -> None:
    process = start_command(*predict_command(folder, "gates.py:gated"))
    wait_for((folder / "running").exists, "the command to come to the gate")
    ask_to_stop(process.pid, number, folder)
    (folder / "go").touch()
    _, message = process.communicate(timeout=30)
    assert message == f"Error: {said(number, folder / 'out.zarr', '--if-exists resume')} from there\n"
    assert process.returncode == STOPPED
    assert_stored_is_recorded(folder / "out.zarr")
    again = start_command(*predict_command(folder, "gates.py:gated", "--if-exists", "resume"))
    _, message = again.communicate(timeout=60)
    assert (again.returncode, message) == (0, "")
    np.testing.assert_array_equal(zarr.open_group(folder / "out.zarr", mode="r")["0"][...], -IMAGE)
    assert tw.verify(folder / "out.zarr", progress=False).is_complete


# A trainer


def run_trainer(folder: Path) -> None:
    """What a process with a trainer does, which gets SIGTERM at its sixth batch."""

    def send(batch: int) -> None:
        if batch == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with open_embedded_cluster(threads=2) as client:
            train(folder / "out", folder / "raw.zarr", network_of([], before_batch=send), client=client)
    except BaseException as error:
        (folder / "outcome").write_text(json.dumps({"error": type(error).__name__, "message": str(error)}))


def test_a_trainer_that_gets_sigterm_writes_what_it_has_and_says_how_to_go_on(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "raw.zarr", data=SAMPLES)
    process = CLIENTS.Process(target=run_trainer, args=(tmp_path,))
    process.start()
    process.join()
    assert outcome_of(tmp_path)["error"] == "RunStoppedError"
    assert "WriteTilesZarr, run it again with if_exists='resume'" in outcome_of(tmp_path)["message"]
    output = tmp_path / "out" / "raw.zarr"
    assert (len(records_of(output)), header_of(output).plan.unit_count) == (1, len(SAMPLES))
    assert_stored_is_recorded(output)
    with left_alone(object_files(output)):
        train(tmp_path / "out", tmp_path / "raw.zarr", network_of([]))
    train(tmp_path / "whole", tmp_path / "raw.zarr", network_of([]))
    assert_is_whole(output, tree(tmp_path / "whole" / "raw.zarr"))


# Two writers


def start_at_rest(start_client: Any, output: Path) -> BaseProcess:
    """Start a client of one thread, which waits at the gate, and wait until it has recorded what it has stored."""
    process = start_client({}, threads=1)
    wait_for(lambda: len(object_files(output)) == len(files_of_records(output)) > 0, "the client to be at rest")
    return process


@pytest.mark.parametrize("if_exists", ["overwrite", "resume"])
@pytest.mark.usefixtures("executor")
def test_a_second_client_is_refused_and_touches_nothing_while_the_first_lives(
    if_exists: str, folder: Path, start_client: Any
) -> None:
    output, source = folder / "out.zarr", folder / "raw.zarr"
    (folder / "other").mkdir()
    first = start_at_rest(start_client, output)
    writer = f"process {first.pid} on {socket.gethostname()}"
    with unchanged(output), unchanged(ledger_of(output)):
        with pytest.raises(OutputInUseError) as caught:
            predict(output, Gated(str(folder / "other")), source, if_exists=if_exists)
        for words in (writer, str(ledger_of(output) / "lock")):
            assert words in str(caught.value)
        assert f"being written by {writer}" in str(tw.verify(output, progress=False))
    (folder / "go").touch()
    first.join()
    assert "error" not in outcome_of(folder)
    report = predict(output, Gated(str(folder)), source, if_exists=if_exists)
    assert report.unit_count == (0 if if_exists == "resume" else header_of(output).plan.unit_count)
    assert tw.verify(output, progress=False).writer == ""


@pytest.mark.parametrize("is_waited_for", [True, False], ids=["waited for", "not yet waited for"])
def test_a_client_that_was_killed_keeps_no_other_from_its_output(
    is_waited_for: bool, folder: Path, start_client: Any
) -> None:
    first = start_client({})
    os.kill(first.pid, signal.SIGKILL)
    if is_waited_for:
        first.join()
    wait_for(lambda: not runs(first.pid), "it to die")
    assert (ledger_of(folder / "out.zarr") / "lock").exists()
    assert tw.verify(folder / "out.zarr", progress=False).writer == ""
    assert_goes_on(folder, {})


def runs(process: int) -> bool:
    """Whether a process does anything; whatever starts another one here waits for the dead ones too."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_two_threads_of_one_process_do_not_write_one_output(folder: Path, embedded: Client) -> None:
    output, source = folder / "out.zarr", folder / "raw.zarr"
    first = Running(lambda: predict(output, Gated(str(folder)), source, client=embedded))
    try:
        wait_for((folder / "running").exists, "the first run to come to the gate")
        # Not on the same cluster, whose threads wait.
        with open_embedded_cluster(threads=1) as other:
            with pytest.raises(OutputInUseError, match=f"process {os.getpid()} on"):
                resume(output, np.negative, source, client=other)
            # Another output is free.
            predict(folder / "other.zarr", np.negative, source, client=other)
    finally:
        (folder / "go").touch()
        first.end()
    assert_is_whole(output, tree(folder / "other.zarr"))


def test_a_trainer_one_of_whose_outputs_is_in_use_takes_none_of_them(folder: Path, start_client: Any) -> None:
    sources = [folder / "sources" / "a.zarr", folder / "sources" / "out.zarr"]
    for source in sources:
        zarr.create_array(source, data=IMAGE)
    first = start_at_rest(start_client, folder / "out.zarr")
    dataset = tw.IterableTiledPredDataset(sources, "YX", (48, 48), (12, 12))
    words = rf"out\.zarr is being written by process {first.pid} on"
    with unchanged(folder), pytest.raises(OutputInUseError, match=words):
        hand_over(tw.WriteTilesZarr(if_exists="overwrite"), dataset, folder)
    assert not ledger_of(folder / "a.zarr").exists()
    (folder / "go").touch()
    first.join()
    for report in hand_over(tw.WriteTilesZarr(if_exists="overwrite"), dataset, folder):
        np.testing.assert_array_equal(report.array[...], IMAGE)


# Full disks


def assert_others_are_missing(output: Path) -> int:
    """Some units are stored and recorded, all others are missing; how many are stored."""
    recorded = {record.unit for record in records_of(output)}
    found = tw.verify(output, progress=False)
    assert found.conditions == {unit: "missing" for unit in range(found.plan.unit_count) if unit not in recorded}
    assert 0 < len(recorded) < found.plan.unit_count
    return len(recorded)


@pytest.mark.parametrize("remedy", ["a larger disk", "fewer files"])
@BOTH_LAYOUTS
@pytest.mark.usefixtures("executor")
def test_a_disk_that_runs_full_is_named_at_once_and_what_is_on_it_is_whole(
    options: dict[str, Any], remedy: str, disk: Disk, tmp_path: Path
) -> None:
    predict(tmp_path / "whole.zarr", Company(), **options)
    filler = disk.path / "filler"
    if remedy == "fewer files":
        disk.enlarge(2**22)
        disk.fill(but_nbytes=300_000)
    output = disk.path / "out.zarr"
    since = monotonic()
    with pytest.raises(DestinationError, match=r"the disk takes nothing any more.*Make space.*resume") as caught:
        predict(output, Company(), **options)
    # It is not tried again and again.
    assert monotonic() - since < 10
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.startswith(str(output / "0" / "c"))
    assert "the unit at Y " in "".join(caught.value.__notes__)
    stored = assert_others_are_missing(output)
    with left_alone(files_of_records(output)):
        if remedy == "fewer files":
            filler.unlink()
        else:
            disk.enlarge(2**22)
        report = resume(output, Company(), **options)
    assert report.kept_unit_count == stored
    assert_is_whole(output, tree(tmp_path / "whole.zarr"))


def test_an_output_that_cannot_fit_is_refused_before_it_is_begun(disk: Disk) -> None:
    disk.fill(but_nbytes=200_000)
    words = r"takes 270 KiB \(276480 bytes\), but the disk has .* left"
    with unchanged(disk.path), pytest.raises(DestinationError, match=words):
        predict(disk.path / "out.zarr", Company(), compressors=None)
    assert not ledger_of(disk.path / "out.zarr").exists()


class FullFolder(LocalStore):
    """A folder that takes some objects, then has no space left."""

    room = 20

    async def set(self, key: str, value: Any) -> None:
        if key.rpartition("/")[2].isdigit():
            if self.room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= 1
        await super().set(key, value)


@pytest.mark.parametrize("kind", [FullFolder, FullStore])
def test_a_store_that_is_full_is_named_and_its_output_is_completed_when_there_is_room(
    kind: type[Any], tmp_path: Path
) -> None:
    store = FullFolder(tmp_path / "out.zarr") if kind is FullFolder else FullStore(MemoryStore(), room=20)
    ledger = None if kind is FullFolder else tmp_path / "ledger"
    with pytest.raises(DestinationError, match="the disk takes nothing any more") as caught:
        predict(store, Company(), ledger=ledger)
    assert caught.value.errno == errno.ENOSPC
    assert public_name(store) in caught.value.filename
    found = tw.verify(store, ledger=ledger, progress=False)
    assert set(found.conditions.values()) == {"missing"}
    store.room = 10**6
    report = resume(store, Company(), ledger=ledger)
    assert (report.unit_count, report.kept_unit_count) == (
        len(found.conditions),
        found.plan.unit_count - len(found.conditions),
    )
    predict(tmp_path / "whole.zarr", Company())
    whole = tree(tmp_path / "whole.zarr")
    if kind is FullFolder:
        assert tree(tmp_path / "out.zarr") == whole
    else:
        assert objects(store._store) == {key: stored for key, stored in whole.items() if key.startswith("0/c/")}
    assert tw.verify(store, ledger=ledger, progress=False).is_complete


def test_a_trainer_whose_disk_runs_full_ends_with_its_name_and_goes_on_later(disk: Disk, tmp_path: Path) -> None:
    samples = np.random.default_rng(2).random((4, 512, 512), dtype=np.float32)
    zarr.create_array(tmp_path / "raw.zarr", data=samples)
    dataset = tw.IterableTiledPredDataset(tmp_path / "raw.zarr", "SYX", (128, 128), (32, 32))
    disk.enlarge(2_500_000)
    with pytest.raises(DestinationError, match="the disk takes nothing any more") as caught:
        hand_over(tw.WriteTilesZarr(window_nbytes=1), dataset, disk.path)
    assert caught.value.errno == errno.ENOSPC
    output = disk.path / "raw.zarr"
    stored = assert_others_are_missing(output)
    disk.enlarge(2**24)
    with left_alone(files_of_records(output)):
        (report,) = hand_over(tw.WriteTilesZarr(if_exists="resume"), dataset, disk.path)
    assert report.kept_unit_count == stored
    np.testing.assert_array_equal(report.array[...], samples)


def test_a_command_whose_disk_runs_full_ends_with_one_line(disk: Disk, folder: Path) -> None:
    (folder / "go").touch()
    result = CliRunner().invoke(main, predict_command(folder, "gates.py:gated", output=disk.path / "out.zarr"))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: [Errno 28] the disk takes nothing any more")
    assert "--if-exists resume" in line
    assert str(disk.path / "out.zarr") in line
