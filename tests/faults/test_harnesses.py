"""A part of the harnesses that are played in full by hand: crash points, and lost locks."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CRASH_POINTS = ["benchmarks.crash_points", "--every", "61", "--first", "5", "--jobs", "2", "--kind"]
PARTS = {
    **{f"crash points of {kind}": [*CRASH_POINTS, kind] for kind in ("predictions", "functions", "trainers")},
    "lost locks": ["benchmarks.lost_locks", "--runs", "6"],
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_harness_finds_nothing(part: str) -> None:
    # In processes of their own, which are forked before any thread is there.
    command = [sys.executable, "-W", "ignore", "-m", *PARTS[part]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
