"""How far the values of a model of CAREamics move with the layout, the overlap, the chunks and the batch size.

    python -m benchmarks.careamics_values

Needs CAREamics (`.ci/careamics FOLDER`). Networks are trained for a moment, in 2D and 3D. `CAREamist.predict` is the
reference, with the same tiles and batches of one; differences are the largest ones, as a share of its range of values.
The reach of a network is how far from an element its prediction still changes, and its grid the down-sampling of its
deepest level: a tile that begins elsewhere on this grid is pooled in other groups.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

import tilewright as tw
from benchmarks.measure import save, table

KINDS = {"YX": ((256, 272), (64, 64)), "ZYX": ((72, 88, 88), (64, 64, 64))}
"""Shape of the image and of a tile, by the axes."""


def image_of(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return noise on a slope."""
    slope = sum(np.ogrid[tuple(slice(extent) for extent in shape)])
    return (100 * np.random.default_rng(seed).random(shape) + slope).astype("float32")


def trained(axes: str, folder: Path) -> Any:
    """Return a CAREamist that was trained for some steps."""
    from careamics.config.factories import create_n2v_config

    from careamics import CAREamist

    patch = [32] * len(axes)
    config = create_n2v_config("values", "array", axes, patch, 4, num_epochs=1, num_steps=10, n_val_patches=1)
    careamist = CAREamist(config, work_dir=folder, enable_progress_bar=False)
    careamist.train(train_data=image_of((96,) * len(axes), seed=1))
    return careamist


def reach_of(careamist: Any, ndim: int) -> int:
    """Return how far the change of one element reaches, in elements."""
    size = 128 if ndim == 2 else 80
    batch = torch.rand(1, 1, *[size] * ndim, generator=torch.manual_seed(0))
    network, middle = careamist.model.model.eval(), size // 2
    with torch.inference_mode():
        before = network(batch)
        batch[0, 0, *[middle] * ndim] += 1
        changed = (network(batch) != before)[0, 0].nonzero()
    return int((changed - middle).abs().max())


def compared(careamist: Any, axes: str, folder: Path) -> dict[str, Any]:
    """Predict one image in all ways, and return differences and seconds."""
    shape, tile = KINDS[axes]
    image, reach = image_of(shape, seed=2), reach_of(careamist, len(axes))
    grid = 2**careamist.config.algorithm_config.model.depth
    # The halo is half of it: long enough, and a step on the grid.
    enough = -(-reach // grid) * grid * 2
    ways = {
        "compact, batch 1": {"layout": "compact"},
        "compact, batch 4": {"layout": "compact", "batch_size": 4},
        # No tile but the first has room for two chunks.
        f"aligned, chunks of {8 * grid}": {"layout": "aligned", "chunks": [8 * grid] * len(axes)},
        f"aligned, chunks of {8 * grid - 1}": {"layout": "aligned", "chunks": [8 * grid - 1] * len(axes)},
    }
    rows: dict[str, Any] = {"reach": reach, "grid": grid, "overlaps": {}}
    for overlap in ([16] * len(axes), [enough] * len(axes)):
        careamist.predict(image[..., :64], tile_size=tile, tile_overlap=overlap, batch_size=1)
        start = perf_counter()
        (expected,), _ = careamist.predict(image, tile_size=tile, tile_overlap=overlap, batch_size=1)
        seconds = {"CAREamist.predict": perf_counter() - start}
        differences = {}
        for name, options in ways.items():
            start = perf_counter()
            place = folder / f"{axes} {overlap} {name}.zarr"
            tiles = {"tile_size": tile, "overlap": overlap, "progress": False}
            report = tw.predict_to_zarr(careamist, image, place, **tiles, **options)
            seconds[name] = perf_counter() - start
            differences[name] = float(np.abs(report.array[:] - expected).max() / np.ptp(expected))
        rows["overlaps"][str(overlap[0])] = {"differences": differences, "seconds": seconds}
    return rows


def main() -> None:
    result, rows = {}, []
    for axes in KINDS:
        with TemporaryDirectory() as folder:
            result[axes] = compared(trained(axes, Path(folder)), axes, Path(folder))
        for overlap, found in result[axes]["overlaps"].items():
            reference = found["seconds"]["CAREamist.predict"]
            for way, difference in found["differences"].items():
                ratio = f"{found['seconds'][way] / reference:.2f}"
                facts = [str(result[axes]["reach"]), str(result[axes]["grid"])]
                rows.append([axes, *facts, overlap, way, f"{difference:.1e}", ratio])
    print(table(["axes", "reach", "grid", "overlap", "way", "largest difference", "time, ratio"], rows))
    print(save("careamics_values", result))


if __name__ == "__main__":
    main()
