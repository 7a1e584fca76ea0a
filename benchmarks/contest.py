"""Contestants write in turn, each to an empty folder on a quiet disk, so that all meet the same machine."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from benchmarks.contestants import Contestant, wrong_voxels
from benchmarks.workloads import Codec, Workload


@dataclass(frozen=True)
class Turn:
    """What one contestant says about one time that it has written the volume."""

    seconds: float
    peak_nbytes: int
    files: int
    stored_nbytes: int


@dataclass
class Outcome:
    """All that is known about one contestant; an error says why it takes part no longer."""

    name: str
    version: str | None = None
    threads: int | None = None
    wrong_voxels: int | None = None
    largest_difference: float | None = None
    turns: list[Turn] = field(default_factory=list)
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class ContestantProcess:
    """A contestant in its process, until it is closed."""

    def __init__(self, contestant: Contestant, workload: Workload, codec: Codec, volume: Path) -> None:
        self.contestant = contestant
        self._errors = TemporaryFile()  # noqa: SIM115  # closed with the process
        command = [str(contestant.interpreter()), "-m", "benchmarks.contestant", contestant.name]
        command += ["--workload", workload.name, "--codec", codec.name, "--volume", str(volume)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def answer(self) -> dict[str, Any]:
        """Wait for the next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"ended with {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def write(self, folder: Path) -> Turn:
        """Let it write into a folder, which is made empty before."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.sync()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder.absolute()}\n")
        self._process.stdin.flush()
        return Turn(**self.answer())

    def close(self) -> None:
        """Let it end by itself, which it does at the end of its input."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def compete(
    contestants: list[Contestant], workload: Workload, codec: Codec, volume_path: Path, folder: Path, rounds: int
) -> list[Outcome]:
    """Let all of them write once to warm up, which is compared with the volume, and then in turn."""
    volume = np.load(volume_path, mmap_mode="r")
    outcomes = {contestant.name: Outcome(contestant.name) for contestant in contestants}
    taking_part: list[ContestantProcess] = []

    def leave(contestant: Contestant, error: Exception) -> None:
        outcomes[contestant.name].error = str(error) or type(error).__name__
        print(f"{contestant.name} takes part no longer: {error}", file=sys.stderr, flush=True)

    with ExitStack() as opened:
        for contestant in contestants:
            try:
                process = ContestantProcess(contestant, workload, codec, volume_path)
            except (OSError, subprocess.CalledProcessError) as error:
                leave(contestant, error)
                continue
            opened.callback(process.close)
            taking_part.append(process)
        for process in list(taking_part):
            outcome = outcomes[process.contestant.name]
            try:
                prepared = process.answer()
                outcome.version, outcome.threads = prepared["version"], prepared["threads"]
                process.write(folder)
                if process.contestant.opened is not None:
                    written = process.contestant.opened(folder, volume.shape)
                    outcome.wrong_voxels, outcome.largest_difference = wrong_voxels(written, volume)
            except (RuntimeError, OSError, ValueError) as error:
                leave(process.contestant, error)
                taking_part.remove(process)
        for number in range(rounds):
            for process in list(taking_part):
                if process.contestant.rounds is not None and number >= process.contestant.rounds:
                    continue
                try:
                    outcomes[process.contestant.name].turns.append(process.write(folder))
                except (RuntimeError, OSError) as error:
                    leave(process.contestant, error)
                    taking_part.remove(process)
    shutil.rmtree(folder, ignore_errors=True)
    return list(outcomes.values())
