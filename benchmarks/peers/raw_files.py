"""The bytes of the volume in files of four planes, without any format: it costs what the disk costs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.workloads import Assignment, Write

PLANES = 4


def planes(assignment: Assignment) -> Write:
    volume = assignment.volume

    def write(folder: Path) -> None:
        def write_planes(start: int) -> None:
            volume[start : start + PLANES].tofile(folder / f"{start:06}.raw")

        with ThreadPoolExecutor(assignment.threads) as pool:
            list(pool.map(write_planes, range(0, len(volume), PLANES)))

    return write


def read_planes(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """All that has been written, as one volume."""
    files = sorted(folder.glob("*.raw"))
    return np.concatenate([np.fromfile(file, np.float32) for file in files]).reshape(shape)
