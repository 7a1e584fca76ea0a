"""What compressors make of predictions: how small, how fast there, and how fast back, on one thread.

    python -m benchmarks.compressors [--runs 5] [--training-seconds 30] [--planes 64]

The predictions are those of the demo's network, trained on the spot: a denoised volume as float32 and as uint16, and
the probability of foreground that follows from it as float32 and as uint8. They are compressed in chunks of
(32, 128, 128), as numcodecs does it for tilewright and for zarr. The last column is what a chunk costs where four
threads encode for one disk of 500 MB/s: the slower one of encoding and writing, the rate of which is what a user sees.
"""

from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numcodecs
import numpy as np
import torch
import zarr
from numcodecs import Blosc, GZip, Zstd

from benchmarks.measure import median, save, table
from tilewright.demo.network import PlaneByPlane, train_denoiser
from tilewright.demo.samples import NOISE_LEVEL, load_microscopy_image, write_synthetic_volume

CHUNK = (32, 128, 128)
PLANE = 512
DISK_BYTES_PER_SECOND = 500e6
THREADS = 4
CODECS: dict[str, Any] = {
    "zstd 0, zarr's default": Zstd(level=0),
    "zstd 1": Zstd(level=1),
    "gzip 5": GZip(level=5),
    "blosc lz4 5, bytes": Blosc("lz4", 5, Blosc.SHUFFLE),
    "blosc lz4 5, bits": Blosc("lz4", 5, Blosc.BITSHUFFLE),
    "blosc zstd 1, bytes": Blosc("zstd", 1, Blosc.SHUFFLE),
    "blosc zstd 1, bits": Blosc("zstd", 1, Blosc.BITSHUFFLE),
    "blosc zstd 3, bytes": Blosc("zstd", 3, Blosc.SHUFFLE),
    "blosc zstd 3, bits": Blosc("zstd", 3, Blosc.BITSHUFFLE),
    "blosc zstd 5, bytes": Blosc("zstd", 5, Blosc.SHUFFLE),
}


def predictions(training_seconds: float, planes: int) -> dict[str, np.ndarray]:
    """Train, predict a volume, and return what people store of it."""
    clean = load_microscopy_image()
    network, _ = train_denoiser(clean, noise_level=NOISE_LEVEL, seconds=training_seconds, seed=0)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "noisy.zarr"
        write_synthetic_volume(path, (planes, PLANE, PLANE), plane=0, seed=0)
        noisy = zarr.open_array(path, mode="r")[:]
    with torch.inference_mode():
        denoised = PlaneByPlane(network)(torch.from_numpy(noisy)[None, None]).numpy()[0, 0]
    probability = 1 / (1 + np.exp(-(denoised - 0.2) / 0.03))
    return {
        "denoised, float32": denoised,
        "denoised, uint16": (denoised.clip(0, 1) * 65535).astype("uint16"),
        "probability, float32": probability,
        "probability, uint8": (probability * 255).round().astype("uint8"),
    }


def chunks_of(volume: np.ndarray) -> list[np.ndarray]:
    starts = [range(0, extent, chunk) for extent, chunk in zip(volume.shape, CHUNK, strict=True)]
    return [
        np.ascontiguousarray(volume[z : z + CHUNK[0], y : y + CHUNK[1], x : x + CHUNK[2]])
        for z in starts[0]
        for y in starts[1]
        for x in starts[2]
    ]


def measure(codec: Any, chunks: list[np.ndarray]) -> tuple[float, float, int]:
    """Return the seconds to encode and to decode all chunks, and the bytes that they become."""
    start = perf_counter()
    encoded = [codec.encode(chunk) for chunk in chunks]
    middle = perf_counter()
    for chunk, stored in zip(chunks, encoded, strict=True):
        if len(codec.decode(stored)) != chunk.nbytes:
            raise SystemExit(f"{codec} decodes to another size")
    return middle - start, perf_counter() - middle, sum(map(len, encoded))


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--training-seconds", type=float, default=30.0)
    parser.add_argument("--planes", type=int, default=64)
    arguments = parser.parse_args()
    # As in a thread of a worker: one thread for each chunk.
    numcodecs.blosc.use_threads = False
    results = []
    for name, volume in predictions(arguments.training_seconds, arguments.planes).items():
        chunks = chunks_of(volume)
        turns: dict[str, list[tuple[float, float, int]]] = {codec: [] for codec in CODECS}
        for _ in range(arguments.runs):
            for codec, numcodec in CODECS.items():
                turns[codec].append(measure(numcodec, chunks))
        rows = []
        for codec, measured in turns.items():
            encode, decode = (median([turn[i] for turn in measured]) for i in (0, 1))
            nbytes = measured[0][2]
            seen = max(encode / THREADS, nbytes / DISK_BYTES_PER_SECOND)
            rates = [volume.nbytes / 1e6 / seconds for seconds in (encode, decode, seen)]
            rows.append([codec, f"{volume.nbytes / nbytes:.2f}", *(f"{rate:.0f}" for rate in rates)])
            results.append({"prediction": name, "codec": codec, "nbytes": volume.nbytes, "turns": measured})
        print(f"\n{name}, {volume.nbytes / 2**20:.0f} MiB, {arguments.runs} rounds\n")
        print(table(["codec", "ratio", "encode MB/s", "decode MB/s", "4 threads and a disk, MB/s"], rows), flush=True)
    print(f"\n{save('compressors', results)}")


if __name__ == "__main__":
    main()
