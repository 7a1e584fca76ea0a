"""A command that is asked to end, at whatever moment, ends in order, and goes on later to the same bytes.

    python -m benchmarks.stop_moments [--runs 40] [--seed 1] [--folder DIR]

`tilewright predict` gets SIGTERM at random moments between its start and its end. It must end with the status 75, or 0
where it was done, without a traceback, and be completed by `--if-exists resume`, with nothing left over. Before Python
has started, which takes some hundredths of a second, no program can take a signal: moments in it are counted apart.
"""

import os
import signal
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any

import numpy as np
import tifffile

from benchmarks.crash_scenarios import IMAGE
from benchmarks.measure import save, table
from benchmarks.trees import differing, tree

MODEL = """
from time import sleep

def double(tiles):
    sleep(0.05)
    return 2 * tiles
"""
COMMAND = [sys.executable, "-m", "tilewright.cli", "predict", "raw.tif", "out.zarr", "--model", "models.py:double"]
COMMAND += ["--axes", "YX", "--tile-size", "32,32", "--overlap", "8,8", "--chunks", "16,16", "--memory", "8192"]
STOPPED = (75, 0)


def prepare(folder: Path) -> None:
    """Write the source and the model."""
    folder.mkdir()
    tifffile.imwrite(folder / "raw.tif", np.tile(IMAGE, (2, 2)))
    (folder / "models.py").write_text(MODEL)


def command(folder: Path, *options: str) -> "subprocess.Popen[str]":
    """Start the command."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *options], cwd=folder, env=environment, **pipes)


def play(moment: float, folder: Path, whole: dict[str, bytes], python_seconds: float) -> dict[str, Any]:
    """Send the signal at one moment, and say what became of it."""
    prepare(folder)
    process = command(folder)
    sleep(moment)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    is_before_python = process.returncode == -signal.SIGTERM and moment < python_seconds
    faults = []
    if process.returncode not in STOPPED and not is_before_python:
        faults.append(f"status {process.returncode}")
    faults += [f"it said {word}" for word in ("Traceback", "Exception ignored") if word in said]
    again = command(folder, "--if-exists", "resume")
    _, said = again.communicate(timeout=120)
    if again.returncode:
        faults.append(f"it does not go on: {said.strip()}")
    if fault := differing(tree(folder), whole):
        faults.append(fault)
    status = "before Python" if is_before_python else str(process.returncode)
    return {"moment": moment, "status": status, "fault": "; ".join(faults)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for, print a table, and return 1 where a run failed."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the files go")
    options = parser.parse_args(arguments)
    random = Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="tilewright-stops-", dir=options.folder) as name:
        folder = Path(name).resolve()
        begun = monotonic()
        # Twice as long as Python takes to start where nothing else runs.
        subprocess.run([sys.executable, "-c", ""], check=True)
        python_seconds = 2 * (monotonic() - begun)
        prepare(folder / "undisturbed")
        begun = monotonic()
        undisturbed = command(folder / "undisturbed")
        _, said = undisturbed.communicate(timeout=120)
        if undisturbed.returncode:
            raise RuntimeError(said)
        seconds = monotonic() - begun
        whole = tree(folder / "undisturbed")
        moments = [random.uniform(0, seconds) for _ in range(options.runs)]
        outcomes = [play(moment, folder / str(number), whole, python_seconds) for number, moment in enumerate(moments)]
    for outcome in outcomes:
        if outcome["fault"]:
            print(f"{outcome['moment']:.3f} s: {outcome['fault']}")
    ends = Counter(outcome["status"] for outcome in outcomes)
    print(f"an undisturbed command takes {seconds:.1f} s")
    print(table(["status", "runs"], [[status, str(count)] for status, count in sorted(ends.items())]))
    save("stop_moments", outcomes)
    return int(any(outcome["fault"] for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
