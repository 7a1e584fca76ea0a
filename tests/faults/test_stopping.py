"""A run that is asked to end, has a rival or fills its disk leaves what it has stored whole, and says how to go on."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client, LocalCluster
from tests.faults.resuming import (
    CLIENTS,
    IMAGE,
    LAST,
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
    records_in,
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
    Gated,
    ask_to_stop,
    assert_goes_on,
    assert_stored_is_recorded,
    has_proc,
    outcome_of,
    predict_command,
    takes_signals,
)
from tests.faults.support import LOCAL, Running, hand_over, wait_for
from tests.support import Disk, FullStore, noted, objects, stored_files, tree
from zarr.storage import LocalStore, MemoryStore

import tilewright as tw
from tilewright.cli.commands import commands as main
from tilewright.errors import DestinationError, OutputInUseError, RunStoppedError, UnitGivenUpError
from tilewright.ledger.ledger import LedgerFolder
from tilewright.ledger.records import record_nbytes
from tilewright.signals import StopSignals
from tilewright.stopping import StopRequest
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


def stop(process: subprocess.Popen[str], number: int, seconds: float = 60) -> tuple[str, float]:
    """Send a signal, and return what the command says, and how long it takes to end."""
    since = monotonic()
    process.send_signal(number)
    _, message = process.communicate(timeout=seconds)
    return message, monotonic() - since


def wait_until_it_listens(process: subprocess.Popen[str]) -> None:
    """Wait until a command has taken signals: before, there is only the start of its interpreter."""
    wait_for(lambda: takes_signals(process.pid), "the command to take signals")


# A command at any moment, also before anything is written


@has_proc
def test_a_signal_at_any_moment_ends_with_75_or_0_and_the_run_goes_on_to_the_same_bytes(
    folder: Path, start_command: Any
) -> None:
    whole = start_command(*predict_command(folder, "slow.py:model"))
    wait_until_it_listens(whole)
    since = monotonic()
    assert whole.wait(60) == 0, whole.stderr.read()
    length = monotonic() - since
    expected = stored_files(folder / "out.zarr")
    statuses = []
    for moment, number in zip(np.linspace(0, 1.05 * length, 10), cycle(SIGNALS), strict=False):
        output = folder / "out.zarr"
        output.rename(folder / f"{moment}.zarr")
        (folder / "out.zarr.ledger").rename(folder / f"{moment}.ledger")
        process = start_command(*predict_command(folder, "slow.py:model", "--if-exists", "resume", "--grace", "0.1"))
        wait_until_it_listens(process)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            message, _ = stop(process, number)
        else:
            message = process.stderr.read()
        assert process.returncode in (0, STOPPED), (moment, message)
        assert "Traceback" not in message
        assert "Exception ignored" not in message
        assert (process.returncode == 0) == (message == ""), message
        statuses.append(process.returncode)
        again = start_command(*predict_command(folder, "slow.py:model", "--if-exists", "resume"))
        assert again.wait(60) == 0, again.stderr.read()
        assert stored_files(output) == expected
        assert tw.verify(output, progress=False).is_complete
    assert statuses[0] == STOPPED


@has_proc
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", [["verify", "out.zarr"], ["demo", "--directory", "pictures"]])
def test_a_command_that_cannot_be_resumed_ends_as_a_shell_expects(
    command: list[str], number: int, start_command: Any, folder: Path
) -> None:
    for seconds in (0.05, 0.1, 0.2):
        process = start_command(*command)
        wait_until_it_listens(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(seconds)
        message, _ = stop(process, number)
        assert (process.returncode, message) == (-number, "")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("place", ["this process", "a cluster"])
def test_a_model_that_hangs_at_its_first_tile_keeps_no_command_from_ending(
    place: str, number: int, folder: Path, start_command: Any, request: pytest.FixtureRequest
) -> None:
    options = () if place == "this process" else ("--scheduler", request.getfixturevalue("cluster").scheduler_address)
    process = start_command(*predict_command(folder, "gates.py:hanging", *options))
    wait_for((folder / "running").exists, "the model to hang")
    message, seconds = stop(process, number)
    (folder / "go").touch()
    assert process.returncode == STOPPED
    assert seconds < 10
    assert message == (
        f"Error: {signal.Signals(number).name}: the run has stopped; nothing is written. Run it again with "
        "--if-exists resume to go on from there\n"
    )
    assert not (folder / "out.zarr").exists()


def test_a_cluster_without_workers_keeps_no_command_from_ending(folder: Path, start_command: Any) -> None:
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        process = start_command(*predict_command(folder, "slow.py:model", "--scheduler", cluster.scheduler_address))
        assert "has no workers yet; waiting" in process.stderr.readline()
        message, seconds = stop(process, signal.SIGTERM)
    assert process.returncode == STOPPED
    assert seconds < 10
    assert message.startswith("Error: SIGTERM: the run has stopped; nothing is written")


@pytest.fixture
def begun(folder: Path) -> str:
    """An output of which some units are recorded as written, and others as given up; how many are written."""

    def fail_at_the_end(tiles: np.ndarray) -> np.ndarray:
        if (tiles == IMAGE[-1, -1]).any():
            raise ValueError("tired")
        return -tiles

    with open_embedded_cluster(threads=1) as client, pytest.raises(UnitGivenUpError, match="tired"):
        predict(folder / "out.zarr", fail_at_the_end, folder / "raw.zarr", client=client)
    found = tw.verify(folder / "out.zarr", progress=False)
    assert 0 < len(found.units("given up")) < found.plan.unit_count
    return f"{found.plan.unit_count - len(found.conditions)} of {found.plan.unit_count}"


def test_a_resumed_command_that_is_stopped_at_its_first_tile_says_how_much_is_written(
    begun: str, folder: Path, start_command: Any
) -> None:
    process = start_command(*predict_command(folder, "gates.py:hanging", "--if-exists", "resume"))
    wait_for((folder / "running").exists, "the model to hang")
    message, _ = stop(process, signal.SIGTERM)
    assert process.returncode == STOPPED
    assert message == (
        f"Error: SIGTERM: the run has stopped; {begun} units are written. Run it again with --if-exists resume "
        "to go on from there\n"
    )


# What is slow


def test_what_is_waited_for_returns_or_fails_as_it_would_unless_the_run_is_to_stop() -> None:
    signals = StopSignals()
    signals.is_listening = True
    request = StopRequest(signals=signals, progress=lambda: "2 of 3 units are written")
    assert request.wait_for(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        request.wait_for(lambda: 1 // 0)
    gate = threading.Event()
    signals.name = "SIGTERM"
    with pytest.raises(RunStoppedError, match=r"^SIGTERM: the run has stopped; 2 of 3 units are written"):
        request.wait_for(gate.wait)
    gate.set()


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
    assert stored_files(output) == stored_files(folder / "other.zarr")
    assert tw.verify(output, progress=False).is_complete


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


class WaitsAtTheEnd:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if (tiles == LAST).any():
            (self.folder / "running").touch()
            wait_for((self.folder / "go").exists, "the test")
            (self.folder / "gone").touch()
        return tiles


def run_straggler(folder: Path, address: str) -> None:
    with Client(address, set_as_default=False) as client:
        predict(folder / "out.zarr", WaitsAtTheEnd(folder), client=client, grace_seconds=0.5, **ALIGNED)


def threads_that_predict() -> int:
    return sum(
        any(walked.f_code.co_name == "_produce" for walked, _ in traceback.walk_stack(frame))
        for frame in sys._current_frames().values()
    )


def test_a_task_of_a_run_that_is_over_writes_nothing_into_the_next_output(tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    with (
        LocalCluster(n_workers=2, threads_per_worker=3, dashboard_address=LOCAL, silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        process = CLIENTS.Process(target=run_straggler, args=(tmp_path, cluster.scheduler_address))
        process.start()
        wait_for((tmp_path / "running").exists, "the last tile")
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        predict(output, np.negative, client=client, if_exists="overwrite", **ALIGNED)
        whole = tree(output)
        (tmp_path / "go").touch()
        wait_for((tmp_path / "gone").exists, "the last tile to be predicted")
        # Until its task has ended.
        wait_for(lambda: not any(client.run(threads_that_predict).values()), "the task to end")
        assert tree(output) == whole


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
    # An object, or the ledger: whichever comes first on the last page.
    assert caught.value.filename.startswith((str(output / "0" / "c"), f"{output}.ledger"))
    if ".ledger" not in caught.value.filename:
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


@dataclass
class Fills:
    """Fill a disk at one call."""

    disk: Disk
    at: int
    calls: int = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.at:
            self.disk.fill()
        return -tiles


def test_a_ledger_that_does_not_fit_the_disk_ends_the_run_and_keeps_whole_records(disk: Disk, tmp_path: Path) -> None:
    image = np.tile(IMAGE, (2, 2))
    output, ledger = tmp_path / "out.zarr", disk.path / "ledger"
    with pytest.raises(DestinationError, match="could not write the ledger: No space left") as caught:
        predict(output, Fills(disk, at=20), image, ledger=ledger)
    (file,) = ledger.glob("*.ledger")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(file)
    raw, header = file.read_bytes(), LedgerFolder(ledger).header()
    assert header is not None
    assert (len(raw) - 2 * (raw.index(b"\n") + 1)) % record_nbytes(header.plan) == 0
    recorded = {record.unit for record in records_in(file)}
    (disk.path / "filler").unlink()
    conditions = tw.verify(output, ledger=ledger, progress=False).conditions
    assert set(conditions.values()) == {"missing"}
    assert recorded.isdisjoint(conditions)
    report = resume(output, Fills(disk, at=0), image, ledger=ledger)
    assert report.kept_unit_count == len(recorded) > 0
    np.testing.assert_array_equal(report.array[...], -image)
    assert tw.verify(output, ledger=ledger, progress=False).is_complete


@pytest.mark.timeout(60)
def test_a_disk_that_is_full_from_the_start_is_named_and_leaves_no_lock(disk: Disk) -> None:
    filler = disk.fill()
    output = disk.path / "out.zarr"
    with pytest.raises(DestinationError, match="No space left") as caught:
        predict(output, Company())
    assert caught.value.errno == errno.ENOSPC
    assert not ledger_of(output).exists()
    filler.unlink()
    disk.enlarge(2**22)
    since = monotonic()
    resume(output, Company())
    assert monotonic() - since < 10


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
