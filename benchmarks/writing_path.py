"""How fast tiles that lie in memory become finished objects, against aligned passes of tensorstore and of zarr-python.

    python -m benchmarks.writing_path [--runs 5] [--folder DIR] [--codec NAME]

The volume is 1 GiB, the cluster is embedded, all use as many threads as there are processors. The peers have the whole
volume as one array and write it in whole chunks or shards, so that they never read anything back; tilewright gets tiles
with halos, in the order of tiles, and crops, assembles, writes and records them. zarr looks for empty chunks unless it
is told not to; both ways are shown. "raw files" are the same bytes uncompressed, without any format.
"""

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import zarr
from distributed import Client

import tilewright as tw
from benchmarks.measure import in_turn, median, save, table
from benchmarks.peers import Write, raw_files, tensorstore_pass, zarr_pass
from benchmarks.workloads import CODECS, WORKLOADS, Codec, Workload
from tilewright.execution.cluster import open_embedded_cluster


def tilewright_writer(workload: Workload, codec: Codec, volume: np.ndarray, client: Client) -> Write:
    """The callback of a trainer, which is handed one tile after the other."""
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

    def write(folder: Path) -> None:
        writer = tw.WriteTilesZarr(
            client=client, chunks=workload.chunks, shards=workload.shards, compressors=codec.zarr
        )
        for number, (tile, information) in enumerate(tiles):
            writer.write_batch(trainer, None, (tile, [information]), None, None, number, 0, folder)
        writer.finalize()

    return write


def contestants(
    workload: Workload, codec: Codec, volume: np.ndarray, client: Client, threads: int
) -> dict[str, Callable[[Path], None]]:
    """Return who takes part, tilewright first."""
    return {
        "tilewright": tilewright_writer(workload, codec, volume, client),
        "tensorstore": tensorstore_pass(workload, codec, volume, threads),
        "zarr": zarr_pass(workload, codec, volume, threads),
        "zarr, empty chunks too": zarr_pass(workload, codec, volume, threads, write_empty_chunks=True),
        "raw files": raw_files(volume, threads),
    }


def check(write: Write, volume: np.ndarray) -> None:
    """Leave the program where what tilewright has written is not what it was given."""
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
    parser.add_argument("--codec", choices=[codec.name for codec in CODECS])
    arguments = parser.parse_args()
    codecs = [codec for codec in CODECS if arguments.codec in (None, codec.name)]
    volume = np.random.default_rng(0).random(WORKLOADS[0].shape, dtype=np.float32)
    results, rows = [], []
    with open_embedded_cluster() as client:
        threads = sum(client.nthreads().values())
        for codec, workload in product(codecs, WORKLOADS):
            writers = contestants(workload, codec, volume, client, threads)
            check(writers["tilewright"], volume)
            in_turn(writers, arguments.folder, 1)
            seconds = in_turn(writers, arguments.folder, arguments.runs)
            # Of each turn, since the machine is not equally fast in all of them.
            ratios = {
                name: median([theirs / ours for ours, theirs in zip(seconds["tilewright"], values, strict=True)])
                for name, values in seconds.items()
            }
            speed = {name: volume.nbytes / 1e6 / median(values) for name, values in seconds.items()}
            results.append(
                {
                    **asdict(workload),
                    "codec": codec.name,
                    "seconds": seconds,
                    "megabytes_per_second": speed,
                    "ratio": ratios,
                }
            )
            rows.append(
                [workload.name, codec.name]
                + [f"{value:.0f}" for value in speed.values()]
                + [f"{ratios[name]:.2f}" for name in ("tensorstore", "zarr", "zarr, empty chunks too")]
            )
            head = ["MB/s", "codec", *speed, "ratio to tensorstore", "ratio to zarr", "ratio, empty too"]
            print(table(head, rows[-1:]), flush=True)
    print(f"\nmedians of {arguments.runs} alternating runs, and of the ratios of each, {threads} threads")
    print(table(head, rows))
    print(save("writing_path", results))


if __name__ == "__main__":
    main()
