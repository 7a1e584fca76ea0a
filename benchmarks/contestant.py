"""One contestant lives in a process of its own, which writes the volume into each folder that it is told on its input.

    python -m benchmarks.contestant NAME --workload NAME --codec NAME --volume FILE.npy

It says once, in one line of JSON, that it is prepared, and then answers each line, a folder, with one line of JSON: the
seconds that writing took, the peak of private memory above what was there when it was prepared, and what lies in the
folder.
"""

import json
import os
from argparse import ArgumentParser
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import numpy as np

from benchmarks.contestants import BY_NAME
from benchmarks.private_memory import PrivateMemory
from benchmarks.workloads import CODECS, WORKLOADS, Assignment

PAGE_NBYTES = 4096


def take_streams() -> tuple[IO[str], IO[str]]:
    """Keep input and output for the parent alone; what libraries print goes where errors go."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return orders, answers


def touch(volume: np.ndarray) -> None:
    """Make all pages of the volume resident here, so that reading them later is not taken for memory in use."""
    volume.reshape(-1)[:: PAGE_NBYTES // volume.itemsize].sum()


def stored(folder: Path) -> dict[str, int]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"files": len(sizes), "stored_nbytes": sum(sizes)}


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(BY_NAME))
    parser.add_argument("--workload", required=True, choices=[workload.name for workload in WORKLOADS])
    parser.add_argument("--codec", required=True, choices=[codec.name for codec in CODECS])
    parser.add_argument("--volume", required=True, type=Path)
    arguments = parser.parse_args()
    orders, answers = take_streams()

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    contestant = BY_NAME[arguments.name]
    volume = np.asarray(np.load(arguments.volume, mmap_mode="r"))
    (workload,) = (workload for workload in WORKLOADS if workload.name == arguments.workload)
    (codec,) = (codec for codec in CODECS if codec.name == arguments.codec)
    workload = replace(workload, shape=volume.shape)
    threads = len(os.sched_getaffinity(0))
    write = contestant.prepare(Assignment(workload, codec, volume, arguments.volume.absolute(), threads))
    touch(volume)
    memory = PrivateMemory(with_children=contestant.starts_processes)
    answer(version=contestant.package and version(contestant.package), threads=threads)
    for order in orders:
        folder = Path(order.removesuffix("\n"))
        with memory.watched():
            start = perf_counter()
            write(folder)
            seconds = perf_counter() - start
        answer(seconds=seconds, peak_nbytes=memory.peak_nbytes, **stored(folder))


if __name__ == "__main__":
    main()
