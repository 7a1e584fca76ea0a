"""Who takes part, and in what: everything that sets one contestant apart from another is said here."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.environments import CAREAMICS, Environment
from benchmarks.peers.raw_files import read_planes
from benchmarks.workloads import CODECS, NONE, WORKLOADS, Assignment, Codec, Workload, Write

TILEWRIGHT = "tilewright"
ALL_WORKLOADS = tuple(workload.name for workload in WORKLOADS)
ALL_CODECS = tuple(codec.name for codec in CODECS)


def open_zarr(path: str, folder: Path, shape: tuple[int, ...]) -> Any:
    return zarr.open_array(folder / path, mode="r")


def open_prediction(folder: Path, shape: tuple[int, ...]) -> Any:
    return open_zarr("prediction.zarr", folder, shape)


@dataclass(frozen=True)
class Contestant:
    """One way to write the volume."""

    name: str
    module: str
    """The module of `benchmarks.peers`, and the function in it that gets an assignment."""
    function: str
    package: str | None = None
    """The distribution that is measured, of which the version is kept."""
    opened: Callable[[Path, tuple[int, ...]], Any] | None = open_prediction
    """Opens what was written, to compare it; None where nothing is stored."""
    starts_processes: bool = False
    """Whether writing starts processes, the memory of which counts too."""
    environment: Environment | None = None
    """Where it runs, if not beside tilewright."""
    workloads: tuple[str, ...] = ALL_WORKLOADS
    """Where it takes part when it is not asked for by name: the slow ones in less."""
    codecs: tuple[str, ...] = ALL_CODECS
    rounds: int | None = None
    """How many rounds it takes part in at most."""

    def prepare(self, assignment: Assignment) -> Write:
        """Import the peer, and let it prepare what may be prepared before the clock runs."""
        function = getattr(import_module(f"benchmarks.peers.{self.module}"), self.function)
        write: Write = function(assignment)
        return write

    def takes_part(self, workload: Workload, codec: Codec, asked_for: list[str] | None) -> bool:
        if asked_for is not None:
            return self.name in asked_for
        return workload.name in self.workloads and codec.name in self.codecs

    def interpreter(self) -> Path:
        return Path(sys.executable) if self.environment is None else self.environment.interpreter()


def wrong_voxels(written: Any, volume: np.ndarray) -> tuple[int, float]:
    """How many voxels are not those of the volume, and by how much at most."""
    count, most = 0, 0.0
    leading = (0,) * (written.ndim - volume.ndim)
    for start in range(0, len(volume), 64):
        slab = slice(start, start + 64)
        expected = volume[slab]
        found = written[(*leading, slab)]
        wrong = found != expected
        if wrong.any():
            count += int(wrong.sum())
            most = max(most, float(np.abs(found - expected).max()))
    return count, most


CALLBACK = Contestant(
    TILEWRIGHT,
    "tilewright_callback",
    "callback",
    TILEWRIGHT,
    opened=partial(open_zarr, "prediction.zarr/0/0"),
)
WRITING_PATH = (
    CALLBACK,
    Contestant("tensorstore", "tensorstore_pass", "one_pass", "tensorstore"),
    Contestant("zarr-python", "zarr_pass", "slabs", "zarr"),
    Contestant("zarr-python-empty-chunks", "zarr_pass", "slabs_with_empty_chunks", "zarr"),
    Contestant("zarrs", "zarrs_pass", "one_pass", "zarrs"),
    Contestant("raw-files", "raw_files", "planes", opened=read_planes),
    Contestant("memory-copy", "memory_copy", "copy", opened=None),
    Contestant("dask", "dask_overlap", "map_overlap", "dask"),
    Contestant("cubed", "cubed_overlap", "map_overlap", "cubed"),
    Contestant("daisy", "daisy_blocks", "blockwise", "daisy", starts_processes=True),
    Contestant(
        "careamics",
        "careamics_tiles",
        "tile_writer",
        "careamics",
        opened=partial(open_zarr, "prediction.zarr/0"),
        environment=CAREAMICS,
        codecs=(NONE.name, "zstd"),
        rounds=2,
    ),
    Contestant(
        "monai",
        "monai_merger",
        "average",
        "monai",
        workloads=("aligned chunks",),
        codecs=(NONE.name,),
        rounds=1,
    ),
)
HAND_OVER = (
    Contestant(
        "tilewright-processes",
        "tilewright_callback",
        "callback_of_processes",
        TILEWRIGHT,
        opened=partial(open_zarr, "prediction.zarr/0/0"),
        starts_processes=True,
    ),
    Contestant("scatter", "bare_scatter", "scatter", "distributed", opened=None, starts_processes=True),
    CALLBACK,
)
PREDICTION = (
    Contestant(
        "tilewright-prediction",
        "tilewright_prediction",
        "identity",
        TILEWRIGHT,
        opened=partial(open_zarr, "prediction.zarr/0"),
        starts_processes=True,
    ),
    Contestant("dask-prediction", "dask_overlap", "map_overlap_on_processes", "dask", starts_processes=True),
    Contestant("daisy-prediction", "daisy_blocks", "blockwise_from_zarr", "daisy", starts_processes=True),
)
BY_NAME = {contestant.name: contestant for contestant in (*WRITING_PATH, *HAND_OVER, *PREDICTION)}
