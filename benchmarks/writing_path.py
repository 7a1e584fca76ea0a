"""How fast tiles that lie in memory become finished objects, against one aligned pass of zarr-python's array API.

    python -m benchmarks.writing_path [--runs 5] [--folder DIR]

The volume is 1 GiB, uncompressed, the cluster is embedded, both use as many threads as there are processors. zarr gets
the whole volume in slabs of whole chunks or shards, so it never reads anything back; tilewright gets tiles with halos,
in the order of tiles, and crops, assembles and writes them. zarr looks for empty chunks unless it is told not to; both
ways are shown. The last column is the bound: the same bytes in files of 16 MiB, without any format.
"""

from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import zarr
from distributed import Client

import tilewright as tw
from benchmarks.measure import in_turn, median, save, table
from tilewright.execution.cluster import open_embedded_cluster


@dataclass(frozen=True)
class Workload:
    """One way to store the same volume."""

    name: str
    chunks: tuple[int, int, int]
    shards: tuple[int, int, int] | None = None
    borders: tuple[int, int, int] | None = None
    shape: tuple[int, int, int] = (256, 1024, 1024)
    tile_size: tuple[int, int, int] = (64, 256, 256)
    overlap: tuple[int, int, int] = (16, 64, 64)


WORKLOADS = (
    Workload("aligned chunks", chunks=(32, 128, 128), borders=(32, 128, 128)),
    Workload("straddling chunks", chunks=(64, 64, 64)),
    Workload("shards", chunks=(32, 128, 128), shards=(64, 256, 256)),
)


def contestants(
    workload: Workload, volume: np.ndarray, client: Client, threads: int, compressors: str | None = None
) -> dict[str, Callable[[Path], None]]:
    dataset = tw.IterableTiledPredDataset(volume, "ZYX", workload.tile_size, workload.overlap, borders=workload.borders)
    image = dataset.images[0]
    # Ready in memory: views of the volume with the halo around them, as a model would return them.
    tilings = image.tilings(channels=1)
    positions = product(*(range(tiling.count) for tiling in tilings))
    windows = [[slice(*t.read(i)) for t, i in zip(tilings, position, strict=True)] for position in positions]
    tiles = [
        (volume[tuple(window)][np.newaxis, np.newaxis], image.read_tile(number)[1])
        for number, window in enumerate(windows)
    ]
    trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset))

    def tilewright(folder: Path) -> None:
        writer = tw.WriteTilesZarr(
            client=client, chunks=workload.chunks, shards=workload.shards, compressors=compressors
        )
        for number, (tile, information) in enumerate(tiles):
            writer.write_batch(trainer, None, (tile, [information]), None, None, number, 0, folder)
        writer.finalize()

    def zarr_pass(folder: Path, *, write_empty_chunks: bool) -> None:
        array = zarr.create_array(
            folder / "zarr.zarr",
            shape=workload.shape,
            dtype="float32",
            chunks=workload.chunks,
            shards=workload.shards,
            compressors=None,
            config={"write_empty_chunks": write_empty_chunks},
        )
        depth = (workload.shards or workload.chunks)[0]

        def write(start: int) -> None:
            array[start : start + depth] = volume[start : start + depth]

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(write, range(0, workload.shape[0], depth)))

    def raw_files(folder: Path) -> None:
        def write(plane: int) -> None:
            volume[plane : plane + 4].tofile(folder / str(plane))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(write, range(0, workload.shape[0], 4)))

    return {
        "tilewright": tilewright,
        "zarr": lambda folder: zarr_pass(folder, write_empty_chunks=False),
        "zarr, empty chunks too": lambda folder: zarr_pass(folder, write_empty_chunks=True),
        "raw files": raw_files,
    }


def check(write: Callable[[Path], None], volume: np.ndarray) -> None:
    with TemporaryDirectory() as folder:
        write(Path(folder))
        written = zarr.open_array(Path(folder) / "prediction.zarr" / "0" / "0", mode="r")
        for plane in range(0, volume.shape[0], 64):
            if not np.array_equal(written[plane : plane + 64], volume[plane : plane + 64]):
                raise SystemExit("tilewright wrote something else than it was given")


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-output"))
    arguments = parser.parse_args()
    volume = np.random.default_rng(0).random(WORKLOADS[0].shape, dtype=np.float32)
    results, rows = [], []
    with open_embedded_cluster() as client:
        threads = sum(client.nthreads().values())
        for workload in WORKLOADS:
            writers = contestants(workload, volume, client, threads)
            check(writers["tilewright"], volume)
            seconds = in_turn(writers, arguments.folder, arguments.runs)
            speed = {name: volume.nbytes / 1e6 / median(values) for name, values in seconds.items()}
            ratios = {name: speed["tilewright"] / value for name, value in speed.items()}
            results.append({**asdict(workload), "seconds": seconds, "megabytes_per_second": speed, "ratio": ratios})
            rows.append(
                [workload.name]
                + [f"{value:.0f}" for value in speed.values()]
                + [f"{ratios[name]:.2f}" for name in ("zarr", "zarr, empty chunks too", "raw files")]
            )
            print(table(["MB/s", *speed, "ratio to zarr", "ratio, empty too", "ratio to raw"], rows[-1:]), flush=True)
    print(f"\nmedians of {arguments.runs} alternating runs, {threads} threads")
    print(table(["MB/s", *speed, "ratio to zarr", "ratio, empty too", "ratio to raw"], rows))
    print(save("writing_path", results))


if __name__ == "__main__":
    main()
