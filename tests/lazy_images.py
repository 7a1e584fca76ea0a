"""Images that are computed chunk by chunk, and what a process needs to write them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np


def image_of(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    values = np.random.default_rng(8).integers(0, 60_000, shape)
    if dtype == "bool":
        return values % 3 == 0
    # Labels that float32 cannot hold.
    return (values + (2**24 + 1 if dtype in {"int32", "int64", "uint64"} else 0)).astype(dtype)


def in_odd_chunks(image: np.ndarray) -> dask.array.Array:
    """Chunks that are not regular, nor of the extents of anything in the file."""
    chunks = []
    for extent in image.shape:
        first = min(extent, 1 + extent // 5)
        second = (extent - first) * 2 // 3
        chunks.append(tuple(part for part in (first, second, extent - first - second) if part))
    return dask.array.from_array(image, chunks=tuple(chunks))


def calling(
    function: Callable[[tuple[int, ...]], None], shape: tuple[int, ...], chunks: tuple[int, ...]
) -> dask.array.Array:
    """An image of ones that calls a function for each chunk, with its position, when it is computed."""

    def computed(block: np.ndarray, block_id: tuple[int, ...]) -> np.ndarray:
        function(block_id)
        return block

    ones = dask.array.ones(shape, chunks=chunks, dtype="uint8")
    return ones.map_blocks(computed, meta=np.empty((0,) * len(shape), "uint8"))


def failing(error: BaseException) -> dask.array.Array:
    """An image of which one of the last chunks cannot be computed."""

    def fail(block_id: tuple[int, ...]) -> None:
        if block_id == (2, 1, 0):
            raise error

    return calling(fail, (4, 30, 30), (1, 16, 16))


MEMORY = """
import re
from pathlib import Path
import dask.array, numpy as np
from tilewright.images.MODULE import write_MODULE as write

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def image(shape, chunks):
    ones = dask.array.ones(shape, chunks=chunks, dtype="uint16")
    return ones.map_blocks(np.add, np.uint16(7), dtype="uint16")

for shape, part, chunks, options in CASES:
    write(PATH, image(part, chunks), **options)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = peak_mib()
    write(PATH, image(shape, chunks), **options)
    print(peak_mib() - before)
"""


def memory_growth_mib(module: str, path: Path, cases: list[Any]) -> list[float]:
    """How much more memory a process takes that writes an image than one that writes a part of it, for each case."""
    script = MEMORY.replace("MODULE", module).replace("PATH", repr(str(path))).replace("CASES", repr(cases))
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    grown = [float(line) for line in done.stdout.split()]
    assert len(grown) == len(cases)
    return grown
