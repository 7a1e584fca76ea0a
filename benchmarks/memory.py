"""Peak resident memory of predicting, against the size of the volume: it must not grow.

    python -m benchmarks.memory [--sizes 1 4 16 64] [--layouts auto aligned] [--folder DIR]

Source and output lie on disk, uncompressed; one time the size is 512 MiB of float32, so that the output of 64 times
takes 32 GiB there. Each run is a process of its own. Of the embedded cluster that process counts, of the cluster of two
processes each worker and the client. The model is a torch module with one convolution, so that torch and its memory are
there.
"""

import json
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from itertools import product
from pathlib import Path

import numpy as np
import torch
import zarr
from distributed import Client, LocalCluster

import tilewright as tw
from benchmarks.measure import save, table
from tilewright.ledger.receipts import peak_memory_nbytes

SHAPES = {1: (128, 1024, 1024), 4: (256, 1024, 2048), 16: (512, 2048, 2048), 64: (1024, 4096, 2048)}
CHUNKS = (32, 256, 256)
DISTINCT = 13
"""Different chunks of the source, of which it has many more: a prime number, so that they form no pattern."""
CLUSTERS = ("embedded", "two processes")


class Sharpen(torch.nn.Module):
    """A convolution that changes something, and costs little."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        weight = torch.full((1, 1, 1, 3, 1), -0.5)
        weight[0, 0, 0, 1] = 2.0
        return torch.nn.functional.conv3d(tiles, weight, padding=(0, 1, 0))


def write_source(path: Path, shape: tuple[int, int, int]) -> None:
    """Write some chunks, and link all others to them: what is read is as large, and takes no room on the disk."""
    array = zarr.create_array(path, shape=shape, dtype="float32", chunks=CHUNKS, compressors=None)
    random = np.random.default_rng(0)
    positions = list(product(*(range(extent // chunk) for extent, chunk in zip(shape, CHUNKS, strict=True))))
    files = [path / array.metadata.encode_chunk_key(position) for position in positions]
    for position in positions[:DISTINCT]:
        array.set_block_selection(position, random.random(CHUNKS, dtype=np.float32))
    for number, file in enumerate(files[DISTINCT:]):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.hardlink_to(files[number % DISTINCT])


def predict(cluster: str, layout: str, source: Path, destination: Path) -> dict[str, object]:
    options = {
        "axes": "ZYX",
        "tile_size": (64, 256, 256),
        "overlap": (16, 64, 64),
        "compressors": None,
        "layout": layout,
        "progress": False,
        "if_exists": "overwrite",
    }
    if cluster == "embedded":
        report = tw.predict_to_zarr(Sharpen, source, destination, **options)
        peaks = {"process": peak_memory_nbytes()}
    else:
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as workers,
            Client(workers) as client,
        ):
            report = tw.predict_to_zarr(Sharpen, source, destination, client=client, **options)
            peaks = {"worker": max(client.run(peak_memory_nbytes).values()), "client": peak_memory_nbytes()}
    return {
        "peaks": peaks,
        "layout": report.plan.layout,
        "seconds": report.total_seconds,
        "peak_live_nbytes": report.peak_live_nbytes,
        "planned_nbytes": report.plan.peak_live_nbytes,
        "tiles": report.tile_count,
        "objects": report.object_count,
        "output_nbytes": report.output_nbytes,
    }


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 64], choices=sorted(SHAPES))
    parser.add_argument("--folder", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--layouts", nargs="+", default=["auto", "aligned"])
    parser.add_argument("--one", nargs=4, metavar=("CLUSTER", "LAYOUT", "SOURCE", "DESTINATION"))
    arguments = parser.parse_args()
    if arguments.one:
        cluster, layout, source, destination = arguments.one
        print(json.dumps(predict(cluster, layout, Path(source), Path(destination))))
        return
    results = []
    try:
        for size in arguments.sizes:
            source = arguments.folder / f"source-{size}.zarr"
            if not source.exists():
                write_source(source, SHAPES[size])
            for layout in arguments.layouts:
                for cluster in CLUSTERS:
                    destination = arguments.folder / "prediction.zarr"
                    command = [sys.executable, "-m", "benchmarks.memory", "--one", cluster, layout]
                    printed = subprocess.run(
                        [*command, str(source), str(destination)], check=True, capture_output=True, text=True
                    ).stdout
                    results.append(
                        {"size": size, "asked": layout, "cluster": cluster, **json.loads(printed.splitlines()[-1])}
                    )
                    shutil.rmtree(destination)
                    print(f"{size} x, {layout}, {cluster}: {results[-1]['peaks']}", flush=True)
            shutil.rmtree(source)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    first = {(r["asked"], r["cluster"]): r for r in results if r["size"] == arguments.sizes[0]}
    rows = []
    for result in results:
        start = first[result["asked"], result["cluster"]]
        for process, peak in result["peaks"].items():
            rows.append(
                [
                    f"{result['size']} x, {result['output_nbytes'] / 2**30:.1f} GiB",
                    result["asked"] + (f" ({result['layout']})" if result["asked"] == "auto" else ""),
                    result["cluster"],
                    process,
                    f"{peak / 2**20:.0f}",
                    f"{peak / start['peaks'][process]:.2f}",
                    f"{result['peak_live_nbytes'] / 2**20:.0f} of {result['planned_nbytes'] / 2**20:.0f}",
                    f"{result['seconds']:.0f}",
                ]
            )
    head = ["volume", "layout", "cluster", "process", "peak MiB", "ratio", "tiles MiB, of planned", "seconds"]
    print(table(head, rows))
    print(save("memory", results))


if __name__ == "__main__":
    main()
