"""Other ways to write the same volume: one aligned pass over an array that lies in memory as a whole, and raw files."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorstore
import zarr

from benchmarks.workloads import Codec, Workload

Write = Callable[[Path], None]


def tensorstore_pass(workload: Workload, codec: Codec, volume: np.ndarray, threads: int) -> Write:
    """One write of the whole volume; tensorstore cuts it into whole objects, and does not wait for the disk either."""
    codecs = codec.metadata
    if workload.shards is not None:
        little = codec.metadata[0]
        configuration = {
            "chunk_shape": list(workload.chunks),
            "codecs": codecs,
            "index_codecs": [little, {"name": "crc32c"}],
        }
        codecs = [{"name": "sharding_indexed", "configuration": configuration}]

    def write(folder: Path) -> None:
        array = tensorstore.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(folder / "tensorstore.zarr")},
                "metadata": {
                    "shape": list(workload.shape),
                    "data_type": "float32",
                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(workload.objects)}},
                    "codecs": codecs,
                    "fill_value": 0.0,
                },
                "store_data_equal_to_fill_value": True,
                "context": {
                    "data_copy_concurrency": {"limit": threads},
                    "file_io_concurrency": {"limit": threads},
                    "file_io_sync": False,
                },
            },
            create=True,
        ).result()
        array.write(volume).result()

    return write


def zarr_pass(
    workload: Workload, codec: Codec, volume: np.ndarray, threads: int, *, write_empty_chunks: bool = False
) -> Write:
    """The array API of zarr-python, a slab of whole objects at a time."""

    def write(folder: Path) -> None:
        array = zarr.create_array(
            folder / "zarr.zarr",
            shape=workload.shape,
            dtype="float32",
            chunks=workload.chunks,
            shards=workload.shards,
            compressors=codec.zarr,
            config={"write_empty_chunks": write_empty_chunks},
        )
        depth = workload.objects[0]

        def write_slab(start: int) -> None:
            array[start : start + depth] = volume[start : start + depth]

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(write_slab, range(0, workload.shape[0], depth)))

    return write


def raw_files(volume: np.ndarray, threads: int) -> Write:
    """The bytes of the volume, in files of 16 MiB, without any format."""

    def write(folder: Path) -> None:
        def write_planes(plane: int) -> None:
            volume[plane : plane + 4].tofile(folder / str(plane))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(write_planes, range(0, volume.shape[0], 4)))

    return write
