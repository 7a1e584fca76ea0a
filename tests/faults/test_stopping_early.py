"""A signal at any moment, also before anything is written, ends a command in order, and its run can be resumed."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster
from tests.faults.resuming import IMAGE, predict
from tests.faults.stopping import SIGNALS, STOPPED, has_proc, predict_command, takes_signals
from tests.faults.support import wait_for
from tests.support import tree

import tilewright as tw
from tilewright.errors import RunStoppedError, UnitGivenUpError
from tilewright.signals import StopSignals
from tilewright.stopping import StopRequest
from tilewright.transport.clients import open_embedded_cluster


def stop(process: subprocess.Popen[str], number: int, seconds: float = 60) -> tuple[str, float]:
    """Send a signal, and return what the command says, and how long it takes to end."""
    since = monotonic()
    process.send_signal(number)
    _, message = process.communicate(timeout=seconds)
    return message, monotonic() - since


def wait_until_it_listens(process: subprocess.Popen[str]) -> None:
    """Wait until a command has taken signals: before, there is only the start of its interpreter."""
    wait_for(lambda: takes_signals(process.pid), "the command to take signals")


# Any moment


@has_proc
def test_a_signal_at_any_moment_ends_with_75_or_0_and_the_run_goes_on_to_the_same_bytes(
    folder: Path, start_command: Any
) -> None:
    whole = start_command(*predict_command(folder, "slow.py:model"))
    wait_until_it_listens(whole)
    since = monotonic()
    assert whole.wait(60) == 0, whole.stderr.read()
    length = monotonic() - since
    expected = tree(folder / "out.zarr")
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
        assert tree(output) == expected
        assert tw.verify(output, progress=False).is_complete
    assert statuses[0] == STOPPED


@has_proc
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", [["verify", "out.zarr"], ["demo", "--directory", "pictures"]])
def test_a_command_that_cannot_be_resumed_ends_as_a_shell_expects(
    command: list[str], number: int, start_command: Any, folder: Path
) -> None:
    for seconds in (0.0, 0.1, 0.2):
        process = start_command(*command)
        wait_until_it_listens(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(seconds)
        message, _ = stop(process, number)
        assert (process.returncode, message) == (-number, "")


# Before anything is written


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
    assert seconds < 4
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
    assert seconds < 4
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
