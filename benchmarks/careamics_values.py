"""How far the values of a model of CAREamics move with the layout, the overlap, the chunks and the batch size.

    python -m benchmarks.careamics_values

Needs CAREamics (`.ci/careamics FOLDER`). Networks are trained for a moment, in 2D and 3D. They are compared with
`CAREamist.predict`, with the same tiles in batches of one, and with the whole image as one tile; differences are the
largest ones, as a share of the range of values.

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


def ways_of(reach: int, grid: int, ndim: int) -> list[tuple[str, int, dict[str, Any]]]:
    """Return what is compared: why, the overlap, and options."""
    enough = -(-reach // grid) * grid * 2
    aligned = {"layout": "aligned", "chunks": [8 * grid] * ndim}
    return [
        ("halo shorter than the reach", 16, {}),
        ("tiles off the grid", enough - 2, {}),
        ("halo and grid right", enough, {}),
        ("halo and grid right, batches of 4", enough, {"batch_size": 4}),
        ("halo and grid right, aligned", enough, aligned),
        ("halo shorter than the reach, aligned", 16, aligned),
    ]


def compared(careamist: Any, axes: str, folder: Path) -> dict[str, Any]:
    """Predict one image in all ways, and return differences and seconds."""
    shape, tile = KINDS[axes]
    image, reach = image_of(shape, seed=2), reach_of(careamist, len(axes))
    grid = 2**careamist.config.algorithm_config.model.depth
    (untiled,), _ = careamist.predict(image, batch_size=1)
    spread = float(np.ptp(untiled))
    rows: dict[str, Any] = {"reach": reach, "grid": grid, "ways": {}}
    for number, (why, overlap, options) in enumerate(ways_of(reach, grid, len(axes))):
        overlaps = [overlap] * len(axes)
        start = perf_counter()
        (theirs,), _ = careamist.predict(image, tile_size=tile, tile_overlap=overlaps, batch_size=1)
        seconds = {"theirs": perf_counter() - start}
        place, start = folder / f"{axes} {number}.zarr", perf_counter()
        tiles: dict[str, Any] = {"tile_size": tile, "overlap": overlaps, "layout": "compact", "progress": False}
        ours = tw.predict_to_zarr(careamist, image, place, **tiles | options).array[:]
        seconds["ours"] = perf_counter() - start
        references = {"same tiles": theirs, "untiled": untiled}
        differences = {name: float(np.abs(ours - other).max()) / spread for name, other in references.items()}
        rows["ways"][f"overlap {overlap}: {why}"] = {"differences": differences, "seconds": seconds}
    return rows


def main() -> None:
    result, rows = {}, []
    for axes in KINDS:
        with TemporaryDirectory() as folder:
            result[axes] = compared(trained(axes, Path(folder)), axes, Path(folder))
        for way, found in result[axes]["ways"].items():
            differences = [f"{found['differences'][name]:.1e}" for name in ("same tiles", "untiled")]
            ratio = f"{found['seconds']['ours'] / found['seconds']['theirs']:.2f}"
            rows.append([axes, str(result[axes]["reach"]), str(result[axes]["grid"]), way, *differences, ratio])
    columns = ["axes", "reach", "grid", "predict_to_zarr", "from CAREamist.predict", "from one tile", "time, ratio"]
    print(table(columns, rows))
    print(save("careamics_values", result))


if __name__ == "__main__":
    main()
