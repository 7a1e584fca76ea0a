"""How much of the writing of `CacheTiles` is hidden behind prediction, against the same run without a cluster.

    python -m benchmarks.overlap [--runs 5] [--images 8] [--folder DIR]

A Lightning trainer predicts images tile by tile on one thread. The function that writes an image is `write_tiff`, and
then waits, as for slow storage, until it has taken as long as predicting an image does; that is measured first. Without
a client each image is written before the next batch is predicted; with one, on two worker processes meanwhile. If all
of the writing but that of the last image were hidden, the ratio would be (images + 1) / (2 x images).
"""

import logging
import time
import warnings
from argparse import ArgumentParser
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import dask
import numpy as np
import pytorch_lightning as pl
import tifffile
import torch
from distributed import Client, LocalCluster
from torch.utils.data import DataLoader

import tilewright as tw
from benchmarks.measure import in_turn, median, save, table

EXTENT, TILE, OVERLAP = 1024, 128, 32
LIMIT = 0.65


class Network(pl.LightningModule):
    """Some work per tile."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 24, 24, 1]
        layers = [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        self.network = torch.nn.Sequential(*layers)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        tiles, infos = batch
        return self.network(tiles), infos


def write_slowly(file_path: Path, img: np.ndarray, seconds: float) -> None:
    """Write an image, and take that long in all."""
    start = perf_counter()
    tw.write_tiff(file_path, img)
    time.sleep(max(0.0, seconds - (perf_counter() - start)))


def predict(folder: Path, images: list[np.ndarray], network: Network, strategy: Any) -> None:
    dataset = tw.IterableTiledPredDataset(images, "YX", (TILE, TILE), (OVERLAP, OVERLAP))
    loader = DataLoader(dataset, batch_size=4, collate_fn=tw.collate_tiles)
    callback = tw.PredictionWriterCallback(strategy, folder.absolute())
    trainer = pl.Trainer(
        callbacks=[callback], logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    trainer.predict(network, loader, return_predictions=False)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-output"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Network()
    generator = np.random.default_rng(0)
    images = [generator.random((EXTENT, EXTENT), dtype=np.float32) for _ in range(arguments.images)]
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        alone = in_turn(
            {"predict": lambda folder: predict(folder, images, network, tw.CacheTiles(discard, ".tiff"))},
            arguments.folder,
            3,
        )
        seconds_per_image = median(alone["predict"]) / len(images)
        kwargs = {"seconds": seconds_per_image}
        strategies = {
            "local": partial(tw.CacheTiles, write_slowly, ".tiff", kwargs),
            "two processes": partial(tw.CacheTiles, write_slowly, ".tiff", kwargs, client=client),
        }
        check(arguments.folder, images, network, strategies)
        seconds = in_turn(
            {
                name: partial(lambda folder, make: predict(folder, images, network, make()), make=make)
                for name, make in strategies.items()
            },
            arguments.folder,
            arguments.runs,
        )
    local, cluster_seconds = (median(seconds[name]) for name in strategies)
    ratio = cluster_seconds / local
    print(f"\n{len(images)} images of {EXTENT} x {EXTENT}, medians of {arguments.runs} alternating runs")
    rows = [
        ["predict, write nothing", f"{median(alone['predict']):.2f}", ""],
        ["predict and write, local", f"{local:.2f}", "1.00"],
        ["predict and write, two processes", f"{cluster_seconds:.2f}", f"{ratio:.2f}"],
    ]
    print(table(["run", "seconds", "ratio"], rows))
    print(f"bound {(len(images) + 1) / (2 * len(images)):.2f}, wanted at most {LIMIT}")
    print(save("overlap", {"images": len(images), "predict": alone["predict"], "seconds": seconds, "ratio": ratio}))


def discard(file_path: Path, img: np.ndarray) -> None:
    """Write nothing."""


def check(folder: Path, images: list[np.ndarray], network: Network, strategies: dict[str, Any]) -> None:
    """Write the first image both ways, and compare it with the network on the whole image, away from the border."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        whole = network.network(torch.from_numpy(images[0])[None, None])[0].numpy()
    for make in strategies.values():
        predict(folder, images[:1], network, make())
        written = tifffile.imread(folder / "prediction_0.tiff").reshape(whole.shape)
        if not np.allclose(written, whole, atol=1e-5):
            raise SystemExit("what was written is not what the network gives")


if __name__ == "__main__":
    main()
