"""MONAI's ZarrAvgMerger adds tiles up in Zarr, and divides at the end: it costs reading back, and two more arrays."""

from pathlib import Path

import torch
from monai.inferers.merger import ZarrAvgMerger

from benchmarks.workloads import NONE, Assignment, Write

LEADING = (1, 1)
"""MONAI has a batch and channels before the axes of space."""


def average(assignment: Assignment) -> Write:
    workload, volume = assignment.workload, assignment.volume
    tiles = [(torch.from_numpy(volume[window][None, None]), window) for window in workload.windows()]

    def write(folder: Path) -> None:
        merger = ZarrAvgMerger(
            merged_shape=(*LEADING, *workload.shape),
            store=str(folder / "prediction.zarr"),
            # Beside the output, so that all of it lies on the disk that is measured; uncompressed, which is faster.
            value_store=str(folder / "values.zarr"),
            count_store=str(folder / "counts.zarr"),
            codecs=assignment.object_codecs(LEADING),
            value_codecs=NONE.metadata,
            count_codecs=[{"name": "bytes"}],
            chunks=(*LEADING, *workload.objects),
        )
        for tile, window in tiles:
            merger.aggregate(tile, [axis.start for axis in window])
        merger.finalize()

    return write
