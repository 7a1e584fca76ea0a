"""What a tile costs that is so small that the model costs nothing, from a Zarr array to a Zarr array.

    python -m benchmarks.small_tiles [--tiles 100000] [--runs 3] [--folder FOLDER]

A bare loop reads the whole image at once, and calls the model for each tile; it stores nothing. In the same run
tilewright predicts the image on the threads of one process, with the layout that it chooses and with the compact one.
"""

import shutil
from argparse import ArgumentParser
from collections.abc import Callable
from math import isqrt
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter

import numpy as np
import zarr

import tilewright as tw
from benchmarks.measure import median, save, table

TILE, OVERLAP = 24, 8
HEAD = ["what", "tiles", "milliseconds a tile, median", "fastest", "slowest"]


def model(tiles: np.ndarray) -> np.ndarray:
    return np.negative(tiles)


def bare_loop(source: Path) -> int:
    """Call the model for each tile of an image that is in memory."""
    image = zarr.open_array(source, mode="r")[...]
    starts = range(0, image.shape[0] - TILE + 1, TILE - OVERLAP)
    for y in starts:
        for x in starts:
            model(image[y : y + TILE, x : x + TILE][np.newaxis, np.newaxis].copy())
    return len(starts) ** 2


def predicted(source: Path, layout: str) -> int:
    """Predict the image, compare it, and return the number of tiles."""
    output = source.with_name("out.zarr")
    report = tw.predict_to_zarr(
        model,
        source,
        output,
        axes="YX",
        tile_size=(TILE, TILE),
        overlap=(OVERLAP, OVERLAP),
        layout=layout,
        levels=1,
        progress=False,
    )
    seconds = report.total_seconds
    shutil.rmtree(output)
    shutil.rmtree(source.with_name("out.zarr.ledger"))
    if seconds <= 0 or report.unit_count != report.plan.unit_count:
        raise RuntimeError(f"not all is written: {report}")
    return report.tile_count


def main() -> None:
    """Print a table, and write JSON."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = Path(mkdtemp(dir=arguments.folder))
    side = isqrt(arguments.tiles) * (TILE - OVERLAP) + OVERLAP
    source = folder / "raw.zarr"
    zarr.create_array(source, data=np.random.default_rng(0).random((side, side), dtype="f4"), chunks=(256, 256))
    contestants: dict[str, Callable[[], int]] = {
        "bare loop": lambda: bare_loop(source),
        "auto": lambda: predicted(source, "auto"),
        "compact": lambda: predicted(source, "compact"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    counts: dict[str, int] = {}
    for _ in range(arguments.runs):
        for name, contestant in contestants.items():
            begun = perf_counter()
            counts[name] = contestant()
            seconds[name].append((perf_counter() - begun) / counts[name] * 1000)
    shutil.rmtree(folder)
    rows = [
        [name, f"{counts[name]:,}", f"{median(times):.3f}", f"{min(times):.3f}", f"{max(times):.3f}"]
        for name, times in seconds.items()
    ]
    print(table(HEAD, rows))
    print(save("small_tiles", {"tiles": counts, "milliseconds": seconds}))


if __name__ == "__main__":
    main()
