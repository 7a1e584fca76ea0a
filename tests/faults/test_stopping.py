"""A run that is asked to end, has a rival or fills its disk leaves what it has stored whole, and says how to go on."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from textwrap import dedent
from time import monotonic
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client
from tests.faults.test_resume import (
    CLIENTS,
    IMAGE,
    SAMPLES,
    Company,
    assert_is_whole,
    files_of_unit,
    header_of,
    identities,
    ledger_of,
    network_of,
    object_files,
    predict,
    records_of,
    wait_for,
)
from tests.faults.test_resume import train as train_with
from tests.support import FullStore, note, noted, objects, tree
from zarr.storage import LocalStore, MemoryStore

import tilewright as tw
from tilewright.cli.commands import commands as main
from tilewright.errors import DestinationError, OutputInUseError
from tilewright.stores.places import public_name
from tilewright.transport.clients import open_embedded_cluster

STOPPED = 75
COMPACT: dict[str, Any] = {}
ALIGNED: dict[str, Any] = {"layout": "aligned", "memory_nbytes": 2**17}
GATE_AT = 12
"""At which call the model waits."""
TILES_PER_UNIT = 9
"""Of the aligned plan, at most."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available.*"),
]


@dataclass
class Gated:
    """Negate tiles; at one call, say that it has come to that, and wait for a file."""

    folder: str

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        folder = Path(self.folder)
        note(str(folder / "begun"))
        if noted(folder / "begun") >= GATE_AT and not (folder / "go").exists():
            (folder / "running").touch()
            tell_when_draining(folder, until=(folder / "go").exists)
        note(str(folder / "ended"))
        return -tiles


def tell_when_draining(folder: Path, until: Callable[[], bool]) -> None:
    """Wait, and say by a file when the run in the main thread of this process waits for what is in flight only."""

    def look() -> bool:
        frame, names = sys._current_frames().get(threading.main_thread().ident or 0), set()
        while frame is not None:
            names.add(frame.f_code.co_name)
            frame = frame.f_back
        if {"drain", "advance"} <= names:
            (folder / "draining").touch()
        return until()

    wait_for(look, "the test to go on")


def run_client(folder: Path, options: dict[str, Any], address: str | None, threads: int) -> None:
    """What a client process does: predict, and write down how that ended, and who takes signals then."""
    before = {number: signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    outcome: dict[str, Any] = {}
    has_ended = threading.Event()
    if address:
        # Its model is elsewhere.
        threading.Thread(target=tell_when_draining, args=(folder, has_ended.is_set), daemon=True).start()
    try:
        with ExitStack() as opened:
            client = Client(address, set_as_default=False) if address else open_embedded_cluster(threads)
            predict(
                folder / "out.zarr",
                Gated(str(folder)),
                folder / "raw.zarr",
                client=opened.enter_context(client),
                **options,
            )
    except BaseException as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    has_ended.set()
    outcome["handlers are restored"] = all(signal.getsignal(number) == before[number] for number in SIGNALS)
    (folder / "outcome.partial").write_text(json.dumps(outcome))
    (folder / "outcome.partial").replace(folder / "outcome")


SIGNALS = (signal.SIGTERM, signal.SIGINT)


def takes_signals(process_id: int) -> bool:
    """Whether a process has a handler for SIGTERM: a client has one while its run is under way."""
    status = Path(f"/proc/{process_id}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


has_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see signals arrive")


def ask_to_stop(process_id: int, number: int, folder: Path) -> None:
    """Send a signal to a run that is under way, and return when the run has taken it to heart."""
    wait_for(lambda: takes_signals(process_id), "the run to take signals")
    os.kill(process_id, number)
    wait_for((folder / "draining").exists, "the run to stop")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a source; whoever waits at its gate is let go at the end, also where a test fails."""
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE, chunks=(48, 48))
    yield tmp_path
    (tmp_path / "go").touch()


@pytest.fixture
def processes(two_processes: Client) -> Iterator[Client]:
    """The cluster of two other processes, as the current one."""
    with two_processes.as_current():
        yield two_processes


@pytest.fixture
def start_client(folder: Path) -> Iterator[Callable[..., BaseProcess]]:
    """Start a client process that comes to the gate, and end it at last."""
    started: list[BaseProcess] = []

    def start(options: dict[str, Any], address: str | None = None, threads: int = 2) -> BaseProcess:
        process = CLIENTS.Process(target=run_client, args=(folder, options, address, threads))
        process.start()
        started.append(process)
        wait_for(lambda: (folder / "running").exists() or not process.is_alive(), "the client to come to the gate")
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def outcome_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "outcome").read_text())


def assert_stored_is_recorded(output: Path) -> None:
    """The units of which objects are stored are those that the ledger says are stored, and are whole."""
    plan = header_of(output).plan
    recorded = {record.unit for record in records_of(output)}
    assert object_files(output) == sorted(file for unit in recorded for file in files_of_unit(output, plan, unit))
    assert set(tw.verify(output, progress=False).conditions) == set(range(plan.unit_count)) - recorded


def assert_goes_on(folder: Path, options: dict[str, Any], client: Client) -> None:
    """What was stopped is completed to the bytes of a run that was not, and what was stored is left."""
    (folder / "go").touch()
    output, model = folder / "out.zarr", Gated(str(folder))
    plan, recorded = header_of(output).plan, {record.unit for record in records_of(output)}
    before = identities([file for unit in recorded for file in files_of_unit(output, plan, unit)])
    report = predict(output, model, folder / "raw.zarr", client=client, if_exists="resume", **options)
    assert report.kept_unit_count == len(recorded)
    assert identities(list(before)) == before
    predict(folder / "whole.zarr", model, folder / "raw.zarr", client=client, **options)
    assert_is_whole(output, tree(folder / "whole.zarr"))


# Signals


@has_proc
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("options", [COMPACT, ALIGNED], ids=["compact", "aligned"])
def test_a_client_that_is_asked_to_stop_finishes_what_is_in_flight_and_nothing_more(
    options: dict[str, Any], number: int, folder: Path, start_client: Any, embedded: Client
) -> None:
    process = start_client(options)
    begun = noted(folder / "begun")
    ask_to_stop(process.pid, number, folder)
    assert noted(folder / "begun") == begun
    (folder / "go").touch()
    process.join()
    outcome = outcome_of(folder)
    assert outcome["error"] == "RunStoppedError"
    written, units = len(records_of(folder / "out.zarr")), header_of(folder / "out.zarr").plan.unit_count
    assert outcome["message"] == (
        f"{signal.Signals(number).name}: the run has stopped; {written} of {units} units are written. Run it again "
        "with if_exists='resume' to go on from there"
    )
    assert outcome["handlers are restored"]
    assert noted(folder / "begun") == noted(folder / "ended")
    # Another thread may have begun with one tile more, or with the tiles of one unit each.
    assert noted(folder / "begun") <= begun + (1 if options == COMPACT else 2 * TILES_PER_UNIT)
    assert 0 < written < units
    assert_stored_is_recorded(folder / "out.zarr")
    assert_goes_on(folder, options, embedded)


@has_proc
@pytest.mark.parametrize("options", [COMPACT, ALIGNED], ids=["compact", "aligned"])
def test_a_client_of_a_cluster_that_is_asked_to_stop_leaves_nothing_behind(
    options: dict[str, Any], folder: Path, start_client: Any, processes: Client
) -> None:
    process = start_client(options, processes.scheduler.address)
    ask_to_stop(process.pid, signal.SIGTERM, folder)
    (folder / "go").touch()
    process.join()
    assert outcome_of(folder)["error"] == "RunStoppedError"
    assert noted(folder / "begun") == noted(folder / "ended")
    assert 0 < len(records_of(folder / "out.zarr")) < header_of(folder / "out.zarr").plan.unit_count
    assert_stored_is_recorded(folder / "out.zarr")
    assert_goes_on(folder, options, processes)


@has_proc
@pytest.mark.parametrize("number", SIGNALS)
def test_the_time_of_grace_is_kept_where_a_worker_takes_for_ever(
    number: int, folder: Path, start_client: Any, processes: Client
) -> None:
    process = start_client({"grace_seconds": 1.0}, processes.scheduler.address)
    since = monotonic()
    ask_to_stop(process.pid, number, folder)
    process.join(30)
    # Nobody has opened the gate.
    assert 1.0 <= monotonic() - since < 10
    assert outcome_of(folder)["error"] == "RunStoppedError"
    assert process.exitcode == 0
    assert_goes_on(folder, {}, processes)


@has_proc
@pytest.mark.parametrize("executor", ["embedded", "processes"])
def test_a_second_signal_ends_a_client_at_once(
    executor: str, folder: Path, start_client: Any, request: pytest.FixtureRequest
) -> None:
    client = request.getfixturevalue(executor)
    process = start_client({}, client.scheduler.address if executor == "processes" else None)
    ask_to_stop(process.pid, signal.SIGTERM, folder)
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == -signal.SIGTERM
    assert not (folder / "outcome").exists()
    # It was not there any more to give its lock back.
    assert (ledger_of(folder / "out.zarr") / "lock").exists()
    assert_goes_on(folder, {}, client)


@has_proc
def test_a_second_interrupt_ends_a_client_of_a_cluster_at_once(
    folder: Path, start_client: Any, processes: Client
) -> None:
    process = start_client({}, processes.scheduler.address)
    ask_to_stop(process.pid, signal.SIGINT, folder)
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert outcome_of(folder)["error"] == "KeyboardInterrupt"
    assert outcome_of(folder)["handlers are restored"]
    assert not (ledger_of(folder / "out.zarr") / "lock").exists()
    assert_goes_on(folder, {}, processes)


@has_proc
def test_a_client_that_is_asked_to_stop_at_its_last_tile_has_nothing_left_to_do(
    folder: Path, start_client: Any, embedded: Client
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
    assert_goes_on(folder, options, embedded)


def test_handlers_are_there_during_a_run_only_and_come_back_whatever_happens(
    embedded: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, Any]] = []

    def look(tiles: np.ndarray) -> np.ndarray:
        seen.append((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)))
        return tiles

    def fail(tiles: np.ndarray) -> np.ndarray:
        if look(tiles).any() and len(seen) > 2:
            raise ZeroDivisionError
        return tiles

    with default_handlers():
        before = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
        predict(tmp_path / "a.zarr", look, client=embedded)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        assert all(term not in before and interrupt not in before for term, interrupt in seen[1:])
        seen.clear()
        with pytest.raises(ZeroDivisionError):
            predict(tmp_path / "b.zarr", fail, client=embedded)
        assert len(seen) > 2
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


class default_handlers(ExitStack):
    """Give this process the handlers that a program begins with, for a while."""

    def __enter__(self) -> "default_handlers":
        for number, handler in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            self.callback(signal.signal, number, signal.signal(number, handler))
        return super().__enter__()


def test_a_run_in_another_thread_leaves_signals_alone(embedded: Client, tmp_path: Path) -> None:
    seen: set[Any] = set()
    reports: list[tw.Report] = []

    def look(tiles: np.ndarray) -> np.ndarray:
        seen.update({signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)})
        return tiles

    with default_handlers():
        thread = threading.Thread(target=lambda: reports.append(predict(tmp_path / "o.zarr", look, client=embedded)))
        thread.start()
        thread.join()
    np.testing.assert_array_equal(reports[0].array[...], IMAGE)
    assert seen == {signal.SIG_DFL, signal.default_int_handler}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_handler_of_the_user_is_left_alone_and_still_called(number: int, embedded: Client, tmp_path: Path) -> None:
    taken: list[int] = []

    def mine(number: int, _frame: object) -> None:
        taken.append(number)

    def send(tiles: np.ndarray) -> np.ndarray:
        assert signal.getsignal(number) is mine
        os.kill(os.getpid(), number)
        return tiles

    with default_handlers() as handlers:
        handlers.callback(signal.signal, number, signal.signal(number, mine))
        report = predict(tmp_path / "o.zarr", send, client=embedded)
        assert signal.getsignal(number) is mine
    assert set(taken) == {number}
    np.testing.assert_array_equal(report.array[...], IMAGE)


def test_a_signal_that_is_ignored_stays_so(embedded: Client, tmp_path: Path) -> None:
    def send(tiles: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        return tiles

    with default_handlers() as handlers:
        handlers.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))
        report = predict(tmp_path / "o.zarr", send, client=embedded)
    np.testing.assert_array_equal(report.array[...], IMAGE)


# The command line


MODEL_FILE = """
    from pathlib import Path
    from tests.faults.test_stopping import Gated

    model = Gated(str(Path(__file__).parent))
"""
CUT = ("--axes", "YX", "--tile-size", "48,48", "--overlap", "12,12", "--layout", "compact", "--chunks", "24,24")


def command_of(folder: Path, *options: object) -> list[str]:
    """What a person types to predict in a folder."""
    (folder / "models.py").write_text(dedent(MODEL_FILE))
    return [
        *("predict", "raw.zarr", "out.zarr", "--model", "models.py:model", *CUT, "--memory", "256KiB"),
        *map(str, options),
    ]


def run_command(folder: Path, arguments: list[str]) -> None:
    """What a command process does, as a console script would."""
    for number, handler in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        signal.signal(number, handler)
    os.chdir(folder)
    with (folder / "stderr").open("w") as sys.stderr:
        main(arguments)


@has_proc
def test_a_command_that_is_interrupted_says_how_to_go_on_and_does(folder: Path, embedded: Client) -> None:
    process = CLIENTS.Process(target=run_command, args=(folder, command_of(folder)))
    process.start()
    wait_for((folder / "running").exists, "the command to come to the gate")
    ask_to_stop(process.pid, signal.SIGINT, folder)
    (folder / "go").touch()
    process.join()
    written, units = len(records_of(folder / "out.zarr")), header_of(folder / "out.zarr").plan.unit_count
    assert 0 < written < units
    assert (folder / "stderr").read_text().splitlines() == [
        f"Error: SIGINT: the run has stopped; {written} of {units} units are written. Run it again with --if-exists "
        "resume to go on from there"
    ]
    assert process.exitcode == STOPPED
    assert_stored_is_recorded(folder / "out.zarr")
    again = CLIENTS.Process(target=run_command, args=(folder, command_of(folder, "--if-exists", "resume")))
    again.start()
    again.join()
    assert (again.exitcode, (folder / "stderr").read_text()) == (0, "")
    np.testing.assert_array_equal(zarr.open_group(folder / "out.zarr", mode="r")["0"][...], -IMAGE)
    assert tw.verify(folder / "out.zarr", progress=False).is_complete


@has_proc
def test_a_command_in_a_shell_that_gets_sigterm_ends_with_75(folder: Path) -> None:
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "tilewright.cli", *command_of(folder)]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for((folder / "running").exists, "the command to come to the gate")
            ask_to_stop(process.pid, signal.SIGTERM, folder)
            (folder / "go").touch()
            _, message = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == STOPPED
    assert message.startswith("Error: SIGTERM: the run has stopped; ")
    assert message.endswith("--if-exists resume to go on from there\n")
    assert_stored_is_recorded(folder / "out.zarr")


# A trainer


def run_trainer(folder: Path) -> None:
    """What a process with a trainer does, which gets SIGTERM at its sixth batch."""

    def send(batch: int) -> None:
        if batch == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        train(folder, network_of([], before_batch=send))
    except BaseException as error:
        (folder / "outcome").write_text(json.dumps({"error": type(error).__name__, "message": str(error)}))


def train(folder: Path, network: Any, output: str = "out") -> None:
    with open_embedded_cluster(threads=2) as client:
        train_with(folder / output, folder / "raw.zarr", network, client=client)


def test_a_trainer_that_gets_sigterm_writes_what_it_has_and_says_how_to_go_on(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "raw.zarr", data=SAMPLES)
    process = CLIENTS.Process(target=run_trainer, args=(tmp_path,))
    process.start()
    process.join()
    assert outcome_of(tmp_path)["error"] == "RunStoppedError"
    assert "WriteTilesZarr, run it again with if_exists='resume'" in outcome_of(tmp_path)["message"]
    output = tmp_path / "out" / "raw.zarr"
    assert (len(records_of(output)), header_of(output).plan.unit_count) == (1, len(SAMPLES))
    before = identities(object_files(output))
    assert_stored_is_recorded(output)
    train(tmp_path, network_of([]))
    train(tmp_path, network_of([]), "whole")
    assert identities(list(before)) == before
    assert_is_whole(output, tree(tmp_path / "whole" / "raw.zarr"))


# Two writers


def start_at_rest(start_client: Any, output: Path) -> BaseProcess:
    """Start a client of one thread, which waits at the gate, and wait until it has recorded what it has stored."""
    process = start_client({}, threads=1)
    wait_for(lambda: is_recorded(output), "the client to record what it has stored")
    return process


def is_recorded(output: Path) -> bool:
    plan = header_of(output).plan
    return len(object_files(output)) == sum(len(files_of_unit(output, plan, r.unit)) for r in records_of(output)) > 0


@pytest.mark.parametrize("executor", ["embedded", "processes"])
@pytest.mark.parametrize("if_exists", ["overwrite", "resume"])
def test_a_second_client_is_refused_and_touches_nothing_while_the_first_lives(
    if_exists: str, executor: str, folder: Path, start_client: Any, request: pytest.FixtureRequest
) -> None:
    client, output = request.getfixturevalue(executor), folder / "out.zarr"
    (folder / "other").mkdir()
    first = start_at_rest(start_client, output)
    before = tree(output) | tree(ledger_of(output))
    with pytest.raises(OutputInUseError) as caught:
        predict(output, Gated(str(folder / "other")), folder / "raw.zarr", client=client, if_exists=if_exists)
    for words in (f"process {first.pid} on {socket.gethostname()}", str(ledger_of(output) / "lock")):
        assert words in str(caught.value)
    verification = tw.verify(output, progress=False)
    assert f"being written by process {first.pid} on {socket.gethostname()}" in str(verification)
    assert tree(output) | tree(ledger_of(output)) == before
    (folder / "go").touch()
    first.join()
    assert "error" not in outcome_of(folder)
    report = predict(output, Gated(str(folder)), folder / "raw.zarr", client=client, if_exists=if_exists)
    assert report.unit_count == (0 if if_exists == "resume" else header_of(output).plan.unit_count)
    assert tw.verify(output, progress=False).writer == ""


def test_a_client_that_was_killed_keeps_nobody_from_its_output(
    folder: Path, start_client: Any, embedded: Client
) -> None:
    first = start_client({})
    first.kill()
    first.join()
    assert (ledger_of(folder / "out.zarr") / "lock").exists()
    assert tw.verify(folder / "out.zarr", progress=False).writer == ""
    assert_goes_on(folder, {}, embedded)


def test_two_threads_of_one_process_do_not_write_one_output(folder: Path, embedded: Client) -> None:
    model, output = Gated(str(folder)), folder / "out.zarr"
    thread = threading.Thread(target=predict, args=(output, model, folder / "raw.zarr"), kwargs={"client": embedded})
    thread.start()
    try:
        wait_for((folder / "running").exists, "the first run to come to the gate")
        # Not on the same cluster, whose threads wait.
        with open_embedded_cluster(threads=1) as other:
            with pytest.raises(OutputInUseError, match=f"process {os.getpid()} on"):
                predict(output, np.negative, folder / "raw.zarr", client=other, if_exists="resume")
            # Another output is free.
            predict(folder / "other.zarr", np.negative, folder / "raw.zarr", client=other)
    finally:
        (folder / "go").touch()
        thread.join()
    assert_is_whole(output, tree(folder / "other.zarr"))


def trainer_of(dataset: Any) -> Any:
    return SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset))


def write_tiles(writer: tw.WriteTilesZarr, dataset: Any, folder: Path) -> list[tw.Report]:
    """Hand every tile over as it is."""
    trainer = trainer_of(dataset)
    writer.prepare(trainer, folder)
    for number, (tile, information) in enumerate(dataset):
        writer.write_batch(trainer, None, (tile[None], [information]), None, None, number, 0, folder)
    return writer.finalize()


def test_a_trainer_one_of_whose_outputs_is_in_use_takes_none_of_them(
    folder: Path, start_client: Any, embedded: Client
) -> None:
    sources = [folder / "sources" / "a.zarr", folder / "sources" / "out.zarr"]
    for source in sources:
        zarr.create_array(source, data=IMAGE)
    first = start_at_rest(start_client, folder / "out.zarr")
    before = tree(folder)
    dataset = tw.IterableTiledPredDataset(sources, "YX", (48, 48), (12, 12))
    with pytest.raises(OutputInUseError, match=rf"out\.zarr is being written by process {first.pid} on"):
        write_tiles(tw.WriteTilesZarr(embedded, if_exists="overwrite"), dataset, folder)
    assert tree(folder) == before
    assert not ledger_of(folder / "a.zarr").exists()
    (folder / "go").touch()
    first.join()
    reports = write_tiles(tw.WriteTilesZarr(embedded, if_exists="overwrite"), dataset, folder)
    for report in reports:
        np.testing.assert_array_equal(report.array[...], IMAGE)


# Full disks


class Disk:
    """A small disk of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, nbytes: int) -> None:
        self.path.mkdir()
        self._call("mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(self.path))

    def enlarge(self, nbytes: int) -> None:
        self._call("mount", "-o", f"remount,size={nbytes}", str(self.path))

    def unmount(self) -> None:
        self._call("umount", "-l", str(self.path))

    def fill(self, *, but_nbytes: int = 0) -> Path:
        """Leave no more than some bytes, and return the file that takes the rest."""
        filler = self.path / "filler"
        descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
        try:
            free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize - but_nbytes
            while free > 0:
                free -= os.write(descriptor, bytes(min(free, 2**16)))
        finally:
            os.close(descriptor)
        return filler

    @staticmethod
    def _call(*command: str) -> None:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip(f"there is no {command[0]} here")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"a small disk cannot be mounted here: {error.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    disk.mount(300_000)
    yield disk
    disk.unmount()


@pytest.mark.parametrize("remedy", ["a larger disk", "fewer files"])
@pytest.mark.parametrize("options", [COMPACT, ALIGNED], ids=["compact", "aligned"])
@pytest.mark.parametrize("executor", ["embedded", "processes"])
def test_a_disk_that_runs_full_is_named_at_once_and_what_is_on_it_is_whole(
    executor: str, options: dict[str, Any], remedy: str, disk: Disk, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = request.getfixturevalue(executor)
    predict(tmp_path / "whole.zarr", Company(), client=client, **options)
    filler = disk.path / "filler"
    if remedy == "fewer files":
        disk.enlarge(2**22)
        disk.fill(but_nbytes=300_000)
    output = disk.path / "out.zarr"
    since = monotonic()
    with pytest.raises(DestinationError, match=r"the disk takes nothing any more.*Make space.*resume") as caught:
        predict(output, Company(), client=client, **options)
    # It is not tried again and again.
    assert monotonic() - since < 10
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.startswith(str(output / "0" / "c"))
    assert "the unit at Y " in "".join(caught.value.__notes__)
    plan, recorded = header_of(output).plan, {record.unit for record in records_of(output)}
    conditions = tw.verify(output, progress=False).conditions
    assert 0 < len(recorded) < plan.unit_count
    assert conditions == {unit: "missing" for unit in range(plan.unit_count) if unit not in recorded}
    kept = identities([file for unit in recorded for file in files_of_unit(output, plan, unit)])
    if remedy == "fewer files":
        filler.unlink()
    else:
        disk.enlarge(2**22)
    report = predict(output, Company(), client=client, if_exists="resume", **options)
    assert report.kept_unit_count == len(recorded)
    assert identities(list(kept)) == kept
    assert_is_whole(output, tree(tmp_path / "whole.zarr"))


def test_an_output_that_cannot_fit_is_refused_before_it_is_begun(disk: Disk, embedded: Client) -> None:
    disk.fill(but_nbytes=200_000)
    before = tree(disk.path)
    with pytest.raises(DestinationError, match=r"takes 270 KiB \(276480 bytes\), but the disk has .* left"):
        predict(disk.path / "out.zarr", Company(), client=embedded, compressors=None)
    assert tree(disk.path) == before
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
    kind: type[Any], embedded: Client, tmp_path: Path
) -> None:
    store = FullFolder(tmp_path / "out.zarr") if kind is FullFolder else FullStore(MemoryStore(), room=20)
    ledger = None if kind is FullFolder else tmp_path / "ledger"
    with pytest.raises(DestinationError, match="the disk takes nothing any more") as caught:
        predict(store, Company(), client=embedded, ledger=ledger)
    assert caught.value.errno == errno.ENOSPC
    assert public_name(store) in caught.value.filename
    found = tw.verify(store, ledger=ledger, progress=False)
    assert set(found.conditions.values()) == {"missing"}
    store.room = 10**6
    report = predict(store, Company(), client=embedded, ledger=ledger, if_exists="resume")
    assert (report.unit_count, report.kept_unit_count) == (
        len(found.conditions),
        found.plan.unit_count - len(found.conditions),
    )
    predict(tmp_path / "whole.zarr", Company(), client=embedded)
    whole = tree(tmp_path / "whole.zarr")
    if kind is FullFolder:
        assert tree(tmp_path / "out.zarr") == whole
    else:
        assert objects(store._store) == {key: stored for key, stored in whole.items() if key.startswith("0/c/")}
    assert tw.verify(store, ledger=ledger, progress=False).is_complete


def test_a_trainer_whose_disk_runs_full_ends_with_its_name_and_goes_on_later(
    disk: Disk, embedded: Client, tmp_path: Path
) -> None:
    samples = np.random.default_rng(2).random((4, 512, 512), dtype=np.float32)
    zarr.create_array(tmp_path / "raw.zarr", data=samples)
    dataset = tw.IterableTiledPredDataset(tmp_path / "raw.zarr", "SYX", (128, 128), (32, 32))
    disk.enlarge(2_500_000)
    with pytest.raises(DestinationError, match="the disk takes nothing any more") as caught:
        write_tiles(tw.WriteTilesZarr(embedded, window_nbytes=1), dataset, disk.path)
    assert caught.value.errno == errno.ENOSPC
    output = disk.path / "raw.zarr"
    recorded = [record.unit for record in records_of(output)]
    found = tw.verify(output, progress=False)
    assert recorded
    assert found.conditions == {unit: "missing" for unit in range(found.plan.unit_count) if unit not in recorded}
    disk.enlarge(2**24)
    before = identities([file for unit in recorded for file in files_of_unit(output, found.plan, unit)])
    (report,) = write_tiles(tw.WriteTilesZarr(embedded, if_exists="resume"), dataset, disk.path)
    assert report.kept_unit_count == len(recorded)
    assert identities(list(before)) == before
    np.testing.assert_array_equal(report.array[...], samples)


def test_a_command_whose_disk_runs_full_ends_with_one_line(disk: Disk, folder: Path) -> None:
    (folder / "go").touch()
    arguments = [argument.replace("raw.zarr", str(folder / "raw.zarr")) for argument in command_of(folder)]
    arguments[arguments.index("out.zarr")] = str(disk.path / "out.zarr")
    arguments[arguments.index("models.py:model")] = f"{folder / 'models.py'}:model"
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: [Errno 28] the disk takes nothing any more")
    assert "--if-exists resume" in line
    assert str(disk.path / "out.zarr") in line
