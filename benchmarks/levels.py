"""What a pyramid costs: tiles in memory become full resolution alone, or all levels, in turn.

    python -m benchmarks.levels [--runs 7] [--shape Z Y X]

Volumes of 3D and of planes of their own are written with the default codec, by the callback of a trainer. The ratio is
that of the same round, the median of all. Coarser levels hold a seventh more elements where all axes are halved, and a
third more where Z is not.
"""

from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.measure import in_turn, median, save, table
from benchmarks.peers.tilewright_callback import tilewright_writer
from benchmarks.workloads import CODECS, WORKLOADS
from tilewright.transport.clients import open_embedded_cluster

ALONE, ALL = "full resolution alone", "all levels"


def volumes(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Values of the kinds that predictions have."""
    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    smooth = np.add.outer(np.add.outer(np.sin(np.arange(shape[0])), np.arange(shape[1]) / 99), np.arange(shape[2]) / 99)
    return {"float32": smooth.astype("float32") + 0.01 * noise, "uint8": (255 * noise).astype("uint8")}


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 1024, 1024), metavar=("Z", "Y", "X"))
    arguments = parser.parse_args()
    codec = next(codec for codec in CODECS if codec.name == "blosc lz4")
    rows, result = [], {}
    with open_embedded_cluster(2) as client, TemporaryDirectory(dir="/dev/shm") as folder:
        for dtype, volume in volumes(tuple(arguments.shape)).items():
            writers = {
                name: tilewright_writer(WORKLOADS[0], codec, volume, client, levels)
                for name, levels in ((ALONE, 1), (ALL, "auto"))
            }
            in_turn(writers, Path(folder) / "out", 1)
            seconds = in_turn(writers, Path(folder) / "out", arguments.runs)
            ratio = median([both / alone for both, alone in zip(seconds[ALL], seconds[ALONE], strict=True)])
            result[dtype] = {"seconds": seconds, "ratio": ratio}
            medians = [f"{median(seconds[name]):.2f}" for name in (ALONE, ALL)]
            rows.append([dtype, f"{volume.nbytes / 2**20:.0f}", *medians, f"{ratio:.2f}"])
    print(table(["volume", "MiB", f"{ALONE}, s", f"{ALL}, s", "ratio"], rows))
    print(save("levels", result))


if __name__ == "__main__":
    main()
