"""What a prediction from Zarr to Zarr takes, against a bare loop of the same forwards over tiles that lie in memory.

    python -m benchmarks.end_to_end [--runs 5] [--folder DIR] [--depth 192] [--plane 480] [--threads N]

A small 3D U-Net, untrained, predicts on the processors. The bare loop calls it for each tile, with as many threads of
torch, and drops what it returns: nobody can be faster with this model and these tiles. tilewright reads, predicts,
crops, compresses, writes and records, on its embedded cluster, which is started and closed within the time; once with
`predict_to_zarr`, once behind a Lightning trainer. It may take 8 % longer. The model's own seconds are taken inside of
it, so that the rest of the wall time is what was not hidden behind the model.
"""

import logging
import warnings
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import get_ident
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import zarr
from torch.utils.data import DataLoader

import tilewright as tw
from benchmarks.measure import in_turn, median, save, table
from tilewright.plan import WritePlan, plan_write
from tilewright.sources.opening import open_source

TILE_SIZE, OVERLAP = (64, 128, 128), (16, 32, 32)
BAR = 1.08


def convolutions(channels_in: int, channels_out: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv3d(channels_in, channels_out, 3, padding=1),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv3d(channels_out, channels_out, 3, padding=1),
        torch.nn.ReLU(inplace=True),
    )


class SmallUNet(torch.nn.Module):
    """Two levels of a 3D U-Net, that notes how long it was at work, and in which threads."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine = convolutions(1, channels)
        self.coarse = convolutions(channels, 2 * channels)
        self.up = torch.nn.ConvTranspose3d(2 * channels, channels, 2, stride=2)
        self.merge = convolutions(2 * channels, channels)
        self.head = torch.nn.Conv3d(channels, 1, 1)
        self.forget()

    def forget(self) -> None:
        self.seconds = 0.0
        self.forwards: Counter[tuple[int, int]] = Counter()

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        start = perf_counter()
        fine = self.fine(tiles)
        coarse = self.coarse(torch.nn.functional.max_pool3d(fine, 2))
        predicted = self.head(self.merge(torch.cat((fine, self.up(coarse)), 1)))
        self.seconds += perf_counter() - start
        self.forwards[get_ident(), torch.get_num_threads()] += 1
        return predicted


class Predictor(pl.LightningModule):
    """The same network for a trainer."""

    def __init__(self, network: SmallUNet) -> None:
        super().__init__()
        self.network = network

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        tiles, infos = batch
        return self.network(tiles), infos


def write_source(path: Path, shape: tuple[int, int, int]) -> None:
    array = zarr.create_array(path, shape=shape, dtype="float32", chunks=(32, 120, 120))
    random = np.random.default_rng(0)
    for start in range(0, shape[0], 32):
        array[start : start + 32] = random.random(array[start : start + 32].shape, dtype=np.float32)


def read_tiles(source: Path, plan: WritePlan) -> list[np.ndarray]:
    """The tiles of a plan, each a batch of its own."""
    opened = open_source(source, "ZYX")
    positions = map(plan.tile_position, range(plan.tile_count))
    return [opened.read_tile(plan.axes, plan.tilings, position)[np.newaxis] for position in positions]


def bare_loop(
    network: SmallUNet, tiles: list[np.ndarray], keep: Callable[[int, np.ndarray], None] | None = None
) -> None:
    with torch.inference_mode():
        for number, tile in enumerate(tiles):
            predicted = network(torch.from_numpy(tile)).numpy()
            if keep is not None:
                keep(number, predicted)


def stitched(network: SmallUNet, tiles: list[np.ndarray], plan: WritePlan) -> np.ndarray:
    """What NumPy alone makes of the predictions of the bare loop."""
    volume = np.empty(plan.shape, plan.dtype)

    def place(number: int, predicted: np.ndarray) -> None:
        inside = tuple(slice(*interval) for interval in plan.crop_region(number))
        volume[tuple(slice(*interval) for interval in plan.valid_region(number))] = predicted[0, 0][inside]

    bare_loop(network, tiles, place)
    return volume


def predict_directly(network: SmallUNet, source: Path, folder: Path) -> None:
    tw.predict_to_zarr(
        network,
        source,
        folder / "source.zarr",
        axes="ZYX",
        tile_size=TILE_SIZE,
        overlap=OVERLAP,
        levels=1,
        progress=False,
    )


def predict_by_trainer(network: SmallUNet, source: Path, folder: Path) -> None:
    dataset = tw.IterableTiledPredDataset(source, axes="ZYX", tile_size=TILE_SIZE, overlaps=OVERLAP)
    writer = tw.PredictionWriterCallback(tw.WriteTilesZarr(levels=1), dirpath=folder)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        trainer = pl.Trainer(callbacks=[writer], **quiet)
        loader = DataLoader(dataset, collate_fn=tw.collate_tiles)
        trainer.predict(Predictor(network), loader, return_predictions=False)


class Contestant:
    """Notes, of each run, what the model took of it, and how much time of processors."""

    def __init__(self, name: str, network: SmallUNet, run: Callable[[Path], None]) -> None:
        self._name = name
        self._network = network
        self._run = run
        self.model_seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self.threads: list[list[int]] = []

    def __call__(self, folder: Path) -> None:
        self._network.forget()
        start, wall = process_time(), perf_counter()
        self._run(folder)
        wall = perf_counter() - wall
        self.processor_seconds.append(process_time() - start)
        self.model_seconds.append(self._network.seconds)
        self.threads.append([threads for _, threads in self._network.forwards])
        model, processor = self.model_seconds[-1], self.processor_seconds[-1]
        print(
            f"{self._name}: {wall:.2f} s, of the model {model:.2f} s, of the processors {processor:.2f} s", flush=True
        )


def check(contestants: dict[str, Contestant], expected: np.ndarray, folder: Path) -> None:
    """Leave the program where an output is not what NumPy puts together."""

    def compare(name: str) -> Callable[[Path], None]:
        def run(empty: Path) -> None:
            contestants[name](empty)
            written = zarr.open_array(empty / "source.zarr" / "0", mode="r")[:]
            if not np.array_equal(written, expected):
                raise SystemExit(f"{name} wrote something else than NumPy puts together")

        return run

    in_turn({name: compare(name) for name in list(contestants)[1:]}, folder, 1)


def measured(
    source: Path, plan: WritePlan, folder: Path, runs: int
) -> tuple[dict[str, Contestant], dict[str, list[float]]]:
    """Check all contestants once, then let them run in turn."""
    network = SmallUNet().eval()
    tiles = read_tiles(source, plan)
    runs_by_name: dict[str, Callable[[Path], None]] = {
        "bare loop": lambda _: bare_loop(network, tiles),
        "predict_to_zarr": lambda empty: predict_directly(network, source, empty),
        "trainer and WriteTilesZarr": lambda empty: predict_by_trainer(network, source, empty),
    }
    contestants = {name: Contestant(name, network, run) for name, run in runs_by_name.items()}
    check(contestants, stitched(network, tiles, plan), folder)
    for contestant in contestants.values():
        contestant.model_seconds.clear()
        contestant.processor_seconds.clear()
        contestant.threads.clear()
    return contestants, in_turn(contestants, folder, runs)


def ratios_to(bare: list[float], ours: list[float]) -> list[float]:
    return [mine / theirs for theirs, mine in zip(bare, ours, strict=True)]


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--depth", type=int, default=192)
    parser.add_argument("--plane", type=int, default=480)
    parser.add_argument("--threads", type=int, help="of torch; where not given, those that it takes")
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    shape = (arguments.depth, arguments.plane, arguments.plane)
    plan = plan_write(shape, "ZYX", TILE_SIZE, OVERLAP)
    if plan.tile_count != plan.compact_tile_count:
        raise SystemExit("the trainer would predict another number of tiles; choose another depth or plane")
    with TemporaryDirectory() as beside:
        source = Path(beside) / "source.zarr"
        write_source(source, shape)
        contestants, seconds = measured(source, plan, arguments.folder, arguments.runs)
    rows, results = [], {}
    for name, contestant in contestants.items():
        ratios = ratios_to(seconds["bare loop"], seconds[name])
        more = ratios_to(contestants["bare loop"].processor_seconds, contestant.processor_seconds)
        other = [1 - model / wall for model, wall in zip(contestant.model_seconds, seconds[name], strict=True)]
        rows.append(
            [
                name,
                f"{median(seconds[name]):.1f}",
                f"{median(ratios):.3f}",
                f"{min(ratios):.3f} to {max(ratios):.3f}",
                f"{median(contestant.model_seconds):.1f}",
                f"{median(other):.1%}",
                f"{median(contestant.processor_seconds):.1f}",
                f"{median(more):.3f}",
                " + ".join(map(str, contestant.threads[-1])),
            ]
        )
        results[name] = {"seconds": seconds[name], **vars(contestant)}
        results[name] = {key: value for key, value in results[name].items() if not key.startswith("_")}
    head = ["run", "seconds", "ratio", "ratios", "model seconds", "not the model", "processor seconds", "ratio"]
    head += ["torch threads of each caller"]
    print(table(head, rows))
    print(
        f"{plan.tile_count} tiles, {plan.layout}, {plan.unit_count} units, medians of {arguments.runs} runs; bar {BAR}"
    )
    print(save("end_to_end", results))


if __name__ == "__main__":
    main()
