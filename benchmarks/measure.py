"""What all benchmarks share: turns in alternation, medians, a table on screen, and JSON beside it."""

import json
import os
import platform
import shutil
import statistics
from collections.abc import Callable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from time import perf_counter

from benchmarks.environments import FOLDER

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tilewright", "dask", "distributed", "zarr", "numcodecs", "numpy", "torch")
PEERS = ("tensorstore", "zarrs", "monai", "cubed", "daisy", "careamics")


def installed_version(name: str) -> str | None:
    """The version of a package here, or in an environment of its own."""
    elsewhere = [str(path) for path in FOLDER.glob("*/lib/python*/site-packages")]
    for places in ({}, {"path": elsewhere}):
        for distribution in distributions(name=name, **places):
            return distribution.version
    return None


def machine() -> dict[str, str | None]:
    """What a figure depends on."""
    return {
        "processors": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: installed_version(name) for name in (*PACKAGES, *PEERS)},
    }


def in_turn(contestants: Mapping[str, Callable[[Path], None]], folder: Path, runs: int) -> dict[str, list[float]]:
    """Let every contestant write to an empty folder once a round, and return the seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, write in contestants.items():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            os.sync()
            start = perf_counter()
            write(folder)
            seconds[name].append(perf_counter() - start)
    shutil.rmtree(folder, ignore_errors=True)
    return seconds


def median(values: list[float]) -> float:
    return statistics.median(values)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, aligned for the eye."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def save(name: str, result: object) -> Path:
    """Write a result, with what it was measured on, as JSON."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "result": result}, indent=2))
    return path
