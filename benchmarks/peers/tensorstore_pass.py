"""tensorstore writes the whole volume in one call, cut into whole objects: it costs the whole array in memory."""

from pathlib import Path

import tensorstore

from benchmarks.workloads import Assignment, Write


def one_pass(assignment: Assignment) -> Write:
    workload = assignment.workload
    metadata = {
        "shape": list(workload.shape),
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(workload.objects)}},
        "codecs": assignment.object_codecs(),
        "fill_value": 0.0,
    }
    context = {
        "data_copy_concurrency": {"limit": assignment.threads},
        "file_io_concurrency": {"limit": assignment.threads},
        # The others do not wait for the disk either.
        "file_io_sync": False,
    }

    def write(folder: Path) -> None:
        array = tensorstore.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(folder / "prediction.zarr")},
                "metadata": metadata,
                "store_data_equal_to_fill_value": True,
                "context": context,
            },
            create=True,
        ).result()
        array.write(assignment.volume).result()

    return write
