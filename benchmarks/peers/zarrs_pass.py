"""zarr-python writes the whole volume in one call through the pipeline of zarrs: it costs the whole array in memory."""

from pathlib import Path

import zarr
import zarrs  # noqa: F401  # registers its pipeline

from benchmarks.workloads import Assignment, Write


def one_pass(assignment: Assignment) -> Write:
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": assignment.threads})

    def write(folder: Path) -> None:
        array = zarr.create_array(
            folder / "prediction.zarr", **assignment.array_options, config={"write_empty_chunks": True}
        )
        array[:] = assignment.volume

    return write
