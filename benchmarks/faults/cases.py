"""What is predicted, and by which model: images, and the ways to store them."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from random import random
from time import sleep
from typing import Any

import numpy as np
import zarr

from benchmarks.faults.logs import append_line


@dataclass(frozen=True)
class Kind:
    """A kind of image, and the ways to store it: chunks, and shards."""

    axes: str
    shape: tuple[int, ...]
    tile_size: tuple[int, ...]
    overlap: tuple[int, ...]
    stored: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]]

    @property
    def tile_count(self) -> int:
        """About how many tiles it has, in either layout."""
        steps = zip(self.shape[-len(self.tile_size) :], self.tile_size, self.overlap, strict=True)
        return prod(ceil((extent - shared) / (tile - shared)) for extent, tile, shared in steps) * prod(
            self.shape[: -len(self.tile_size)]
        )


KINDS = {
    "plane": Kind(
        "YX",
        (1500, 1620),
        (192, 192),
        (32, 32),
        {
            "chunks": ((160, 160), None),
            "straddling": ((200, 180), None),
            "shards": ((80, 80), (320, 320)),
        },
    ),
    "volume": Kind(
        "ZYX",
        (30, 290, 300),
        (16, 112, 112),
        (6, 16, 16),
        {
            "chunks": ((10, 96, 96), None),
            "straddling": ((7, 100, 90), None),
            "shards": ((5, 48, 48), (10, 96, 192)),
        },
    ),
    "samples": Kind(
        "SYX",
        (3, 800, 820),
        (192, 192),
        (32, 32),
        {
            "chunks": ((1, 160, 160), None),
            "straddling": ((1, 240, 200), None),
            "shards": ((1, 80, 80), (1, 320, 320)),
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """One image, and one way to predict and to store it."""

    kind: str
    layout: str
    stored: str
    compressor: str
    batch_size: int
    predictor: str

    def __str__(self) -> str:
        return f"{self.kind} {self.layout} {self.stored} {self.compressor} batch {self.batch_size} {self.predictor}"

    def output(self, folder: Path) -> Path:
        """Where the output lies: a trainer names it after the source."""
        return folder / "predictions" / f"{self.kind}.zarr" if self.predictor == "trainer" else folder / "output.zarr"

    @property
    def array(self) -> Kind:
        return KINDS[self.kind]

    @property
    def other(self) -> "Case":
        """Another output of the same image, in the same place: no object of it is like one of this."""
        names = list(self.array.stored)
        stored = names[(names.index(self.stored) + 1) % len(names)]
        return replace(self, stored=stored)

    @property
    def compressors(self) -> Any:
        return zarr.codecs.ZstdCodec(level=1) if self.compressor == "zstd" else None


class InjectedModelError(Exception):
    """What a model raises because it was told to."""


class InjectedStoreError(RuntimeError):
    """What a store raises because it was told to, apart from errors of the system."""


@dataclass(frozen=True)
class Model:
    """Each element depends on its neighbours in the tile, and on all tiles that the model sees at once."""

    folder: str
    delay_seconds: float = 0.0
    error_rate: float = 0.0
    kills_its_process: bool = False
    offset: int = 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        sleep(self.delay_seconds)
        if random() < self.error_rate:
            append_line(Path(self.folder, "model-errors"), "model")
            raise InjectedModelError(f"a batch of {len(batch)}")
        if self.kills_its_process and random() < 0.1:
            with suppress(FileExistsError):
                Path(self.folder, "killed-by-model").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        seen = batch.astype(np.int64)
        blurred = 3 * seen
        for axis in range(2, batch.ndim):
            blurred += np.roll(seen, 1, axis) + 2 * np.roll(seen, -1, axis)
        company = int(seen.sum()) * len(batch) % 1021
        return (blurred + company + self.offset).astype(np.float32)
