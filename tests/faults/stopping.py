"""Clients and commands that are asked to stop while their model waits at a gate, and small disks."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from distributed import Client
from tests.faults.resuming import (
    assert_is_whole,
    files_of_records,
    header_of,
    left_alone,
    object_files,
    predict,
    records_of,
    resume,
)
from tests.faults.support import wait_for
from tests.support import note, noted, tree

import tilewright as tw
from tilewright.transport.clients import open_embedded_cluster

STOPPED = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT)
COMPACT: dict[str, Any] = {}
ALIGNED: dict[str, Any] = {"layout": "aligned", "memory_nbytes": 2**17}
GATE_AT = 12
"""At which call the model waits."""


@dataclass
class Gated:
    """Negate tiles; from one call on, say that it has come to that, and wait for a file."""

    folder: str
    gate_at: int = GATE_AT

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        folder = Path(self.folder)
        note(str(folder / "begun"))
        if noted(folder / "begun") >= self.gate_at and not (folder / "go").exists():
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
            options |= {"client": opened.enter_context(client)}
            predict(folder / "out.zarr", Gated(str(folder)), folder / "raw.zarr", **options)
    except BaseException as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    has_ended.set()
    outcome["handlers are restored"] = all(signal.getsignal(number) == before[number] for number in SIGNALS)
    (folder / "outcome.partial").write_text(json.dumps(outcome))
    (folder / "outcome.partial").replace(folder / "outcome")


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


def outcome_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "outcome").read_text())


def assert_stored_is_recorded(output: Path) -> None:
    """The units of which objects are stored are those that the ledger says are stored, and are whole."""
    recorded = {record.unit for record in records_of(output)}
    assert object_files(output) == sorted(files_of_records(output))
    units = range(header_of(output).plan.unit_count)
    assert set(tw.verify(output, progress=False).conditions) == set(units) - recorded


def assert_goes_on(folder: Path, options: dict[str, Any]) -> None:
    """What was stopped is completed to the bytes of a run that was not, and what was stored is left."""
    (folder / "go").touch()
    output, model = folder / "out.zarr", Gated(str(folder))
    recorded = {record.unit for record in records_of(output)}
    with left_alone(files_of_records(output)):
        report = resume(output, model, folder / "raw.zarr", **options)
    assert report.kept_unit_count == len(recorded)
    predict(folder / "whole.zarr", model, folder / "raw.zarr", **options)
    assert_is_whole(output, tree(folder / "whole.zarr"))


# --- Commands.

MODELS = {
    # So long that signals come in each part of the run.
    "slow.py": """
        from time import sleep

        def model(tiles):
            sleep(0.02)
            return -tiles
    """,
    "gates.py": """
        from pathlib import Path
        from tests.faults.stopping import Gated

        gated = Gated(str(Path(__file__).parent))
        hanging = Gated(gated.folder, gate_at=1)
    """,
}
CUT = ("--axes", "YX", "--tile-size", "48,48", "--overlap", "12,12", "--layout", "compact", "--chunks", "24,24")
CUT += ("--levels", "1")
CUT += ("--memory", "256KiB", "--no-progress")


def predict_command(folder: Path, model: str, *options: object, output: object = "out.zarr") -> list[str]:
    """What a person types to predict in a folder."""
    for name, text in MODELS.items():
        (folder / name).write_text(dedent(text))
    command = ["predict", folder / "raw.zarr", folder / str(output), "--model", folder / model, *CUT]
    return [*map(str, command), *map(str, options)]
