"""How fast a model that costs nothing predicts from Zarr to Zarr on worker processes, against dask.array and daisy.

    python -m benchmarks.cluster_prediction [--runs 5] [--folder DIR] [--codec NAME] [--workload NAME]

As many worker processes as there are processors read tiles with halos from an uncompressed Zarr array, return what
they got, and write it. The workers of tilewright and of Dask are there before the clock runs; those of daisy start with
each run, as it has no others. A ratio is how many times as long a contestant takes as tilewright.
"""

from pathlib import Path

import numpy as np
import zarr

from benchmarks.contestants import PREDICTION
from benchmarks.writing_path import hold_contests

SOURCE_CHUNKS = (64, 64, 64)
"""As large volumes of electron microscopy are stored."""


def write_source(volume_path: Path) -> None:
    """Write the volume as a Zarr array beside its file."""
    volume = np.load(volume_path, mmap_mode="r")
    chunks = tuple(map(min, SOURCE_CHUNKS, volume.shape))
    path = volume_path.with_suffix(".zarr")
    source = zarr.create_array(path, shape=volume.shape, dtype=volume.dtype, chunks=chunks, compressors=None)
    for start in range(0, len(volume), SOURCE_CHUNKS[0]):
        slab = slice(start, start + SOURCE_CHUNKS[0])
        source[slab] = volume[slab]


def main() -> None:
    hold_contests("cluster_prediction", __doc__.splitlines()[0], PREDICTION, write_source)


if __name__ == "__main__":
    main()
