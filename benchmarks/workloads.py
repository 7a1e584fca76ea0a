"""What is written, and how it is stored: the same for tilewright and for every peer."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from zarr.codecs import BloscCodec, ZstdCodec

Write = Callable[[Path], None]
"""Writes the volume into an empty folder."""
Extents = tuple[int, int, int]


@dataclass(frozen=True)
class Workload:
    """One way to store a volume of 1 GiB that comes in tiles with halos."""

    name: str
    chunks: Extents
    shards: Extents | None = None
    shape: Extents = (256, 1024, 1024)
    tile_size: Extents = (64, 256, 256)
    overlap: Extents = (16, 64, 64)

    @property
    def objects(self) -> Extents:
        """The extents of a stored object."""
        return self.shards or self.chunks

    @property
    def halo(self) -> Extents:
        """The context on each side of a tile."""
        z, y, x = self.overlap
        return z // 2, y // 2, x // 2

    @property
    def valid(self) -> Extents:
        """What a tile alone contributes, away from the border of the volume."""
        z, y, x = (size - overlap for size, overlap in zip(self.tile_size, self.overlap, strict=True))
        return z, y, x

    @property
    def aligned_valid(self) -> Extents:
        """The same, cut to whole stored objects along each axis where one fits."""
        z, y, x = (valid // extent * extent or valid for valid, extent in zip(self.valid, self.objects, strict=True))
        return z, y, x

    def windows(self) -> list[tuple[slice, slice, slice]]:
        """Where the tiles lie; the last one along an axis ends with it."""
        axes = []
        for length, size, step in zip(self.shape, self.tile_size, self.valid, strict=True):
            starts = [*range(0, max(0, length - size), step), max(0, length - size)]
            axes.append([slice(start, min(start + size, length)) for start in starts])
        return list(product(*axes))


@dataclass(frozen=True)
class Codec:
    """One way to compress chunks."""

    name: str
    zarr: Any = None

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """The same, as it stands in the metadata of an array."""
        little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
        return [little] if self.zarr is None else [little, self.zarr.to_dict()]


@dataclass(frozen=True)
class Assignment:
    """What one contestant is asked to write; the volume is also there as a file, for processes that it starts."""

    workload: Workload
    codec: Codec
    volume: np.ndarray
    volume_path: Path
    threads: int

    @property
    def source_path(self) -> Path:
        """The volume as a Zarr array, where a benchmark has made one."""
        return self.volume_path.with_suffix(".zarr")

    def object_codecs(self, leading: tuple[int, ...] = ()) -> list[dict[str, Any]]:
        """The codecs of a stored object, which may have more axes, as they stand in the metadata of an array."""
        codecs = self.codec.metadata
        if self.workload.shards is None:
            return codecs
        configuration = {
            "chunk_shape": [*leading, *self.workload.chunks],
            "codecs": codecs,
            "index_codecs": [codecs[0], {"name": "crc32c"}],
        }
        return [{"name": "sharding_indexed", "configuration": configuration}]

    @property
    def array_options(self) -> dict[str, Any]:
        """What `zarr.create_array` is called with."""
        return {
            "shape": self.workload.shape,
            "dtype": "float32",
            "chunks": self.workload.chunks,
            "shards": self.workload.shards,
            "compressors": self.codec.zarr,
        }


WORKLOADS = (
    Workload("aligned chunks", chunks=(32, 128, 128)),
    Workload("straddling chunks", chunks=(64, 64, 64)),
    Workload("shards", chunks=(32, 128, 128), shards=(64, 256, 256)),
)
NONE = Codec("none")
ZSTD = Codec("zstd", ZstdCodec(level=0))
"""What zarr takes where nothing is said."""
BLOSC = Codec("blosc lz4", BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4, blocksize=0))
CODECS = (NONE, ZSTD, BLOSC)
