"""What is written, and how it is stored: the same for tilewright and for every peer."""

from dataclasses import dataclass
from typing import Any

from zarr.codecs import BloscCodec, ZstdCodec


@dataclass(frozen=True)
class Workload:
    """One way to store a volume of 1 GiB that comes in tiles with halos."""

    name: str
    chunks: tuple[int, int, int]
    shards: tuple[int, int, int] | None = None
    borders: tuple[int, int, int] | None = None
    shape: tuple[int, int, int] = (256, 1024, 1024)
    tile_size: tuple[int, int, int] = (64, 256, 256)
    overlap: tuple[int, int, int] = (16, 64, 64)

    @property
    def objects(self) -> tuple[int, int, int]:
        """The extents of a stored object."""
        return self.shards or self.chunks


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


WORKLOADS = (
    Workload("aligned chunks", chunks=(32, 128, 128), borders=(32, 128, 128)),
    Workload("straddling chunks", chunks=(64, 64, 64)),
    Workload("shards", chunks=(32, 128, 128), shards=(64, 256, 256)),
)
NONE = Codec("none")
ZSTD = Codec("zstd", ZstdCodec(level=0))
"""What zarr takes where nothing is said."""
BLOSC = Codec("blosc lz4", BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4, blocksize=0))
CODECS = (NONE, ZSTD, BLOSC)
