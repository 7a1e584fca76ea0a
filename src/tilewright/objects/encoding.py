"""Encoder of stored objects: the bytes that zarr would write, made in the calling thread without an event loop.

The common codecs of Zarr are those of numcodecs, and a shard is its chunks in C order and an index, so both are made
here from the metadata of the array. Any other chain of codecs goes through zarr's own pipeline.

Equal chunks become equal bytes: the header of gzip has no time, and Blosc compresses a chunk in one thread.
"""

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numcodecs
import numpy as np
from google_crc32c import value as crc32c

from tilewright.assemble import AnyArray
from tilewright.objects.stored_array import ArrayView, StoredArray, object_key
from tilewright.stores.metadata import array_metadata
from tilewright.stores.zarr_api import Encoded, encoded_by_zarr

EncodeChunk = Callable[[AnyArray], Encoded]

_CHECKSUM_NBYTES = 4
_NOT_STORED = 2**64 - 1
"""Offset and length of a missing chunk in the index of a shard."""
_BLOSC_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@dataclass(frozen=True)
class ObjectEncoder:
    """Encoder of the stored objects of one array, of which only the metadata and the place are used."""

    array: StoredArray
    _encode_chunk: EncodeChunk | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_encode_chunk", _direct_encoder(self.array))

    def __reduce__(self) -> tuple[type["ObjectEncoder"], tuple[StoredArray]]:
        return ObjectEncoder, (self.array,)

    @property
    def is_direct(self) -> bool:
        """Whether the bytes are made here; else zarr's own pipeline makes them."""
        return self._encode_chunk is not None

    @cached_property
    def part_extents(self) -> tuple[int, ...]:
        """Extents of one part: a chunk, or a whole object where zarr encodes."""
        return tuple(self.array.chunks if self.is_direct else self.array.shards or self.array.chunks)

    def key(self, position: tuple[int, ...]) -> str:
        """Return the key of an object by its position on the grid of the plan."""
        return object_key(self.array, position)

    @cached_property
    def _document(self) -> dict[str, Any]:
        return array_metadata(self.array)

    @cached_property
    def _is_shard(self) -> bool:
        return self.is_direct and self.array.shards is not None

    def encode_part(self, part: AnyArray) -> Encoded:
        """Return the bytes of one part: a contiguous array of `part_extents` in the data type of the array."""
        if isinstance(self.array, ArrayView):
            part = self.array.part(part)
        return encoded_by_zarr(self._document, part) if self._encode_chunk is None else self._encode_chunk(part)

    def join(self, parts: Iterable[Encoded | None]) -> Iterator[Encoded]:
        """Iterate over the bytes of an object, and keep no part of it unless the index of a shard comes first.

        The parts come in C order of the Zarr array, each valid until the next one; None for a chunk beyond its end.
        """
        if not self._is_shard:
            yield from filter(None, parts)
        elif _index_is_first(self.array):
            kept = [None if part is None else bytes(part) for part in parts]
            lengths = [None if part is None else len(part) for part in kept]
            yield _index_of_shard(lengths, start=16 * len(lengths) + _CHECKSUM_NBYTES)
            yield from filter(None, kept)
        else:
            lengths = []
            for part in parts:
                lengths.append(None if part is None else memoryview(part).nbytes)
                if part is not None:
                    yield part
            yield _index_of_shard(lengths, start=0)


def _direct_encoder(array: StoredArray) -> EncodeChunk | None:
    """Return a function that encodes one chunk, or None where zarr must do it."""
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        if metadata.order != "C" or metadata.filters:
            return None
        return _chain([] if metadata.compressor is None else [_encode_function(metadata.compressor)])
    codecs: list[dict[str, Any]] = [_as_dict(codec) for codec in metadata.codecs]
    if codecs[0]["name"] == "sharding_indexed":
        sharding: Any = codecs[0]["configuration"]
        index_names = [_as_dict(codec)["name"] for codec in sharding["index_codecs"]]
        if len(codecs) > 1 or index_names != ["bytes", "crc32c"]:
            return None
        codecs = [_as_dict(codec) for codec in sharding["codecs"]]
    first, *others = codecs
    endian = dict(first.get("configuration") or {}).get("endian")
    if first["name"] != "bytes" or (endian == "big" and array.dtype.itemsize > 1):
        return None
    if any(codec["name"] not in ("zstd", "gzip", "blosc") for codec in others):
        return None
    return _chain([_encode_function(_numcodec(codec)) for codec in others], as_bytes=True)


def _as_dict(codec: Any) -> dict[str, Any]:
    return dict(codec) if isinstance(codec, dict) else dict(codec.to_dict())


def _numcodec(codec: dict[str, Any]) -> Any:
    """Return the codec of numcodecs that makes the same bytes as one of Zarr 3."""
    options = {"id": codec["name"], **(codec.get("configuration") or {})}
    if "shuffle" in options:
        options["shuffle"] = _BLOSC_SHUFFLES[options["shuffle"]]
    return numcodecs.get_codec(options)


def _encode_function(codec: Any) -> Callable[[Any], Any]:
    """Return the function of a codec of numcodecs that makes equal bytes of equal chunks."""

    def gzip(raw: Any) -> bytes:
        encoded: bytes = codec.encode(raw)
        # Bytes 4 to 8 are the time (RFC 1952).
        return encoded[:4] + bytes(4) + encoded[8:]

    def blosc(raw: Any) -> Any:
        # Several threads put their blocks down in any order; numcodecs has them in the main thread only.
        if threading.current_thread() is not threading.main_thread():
            return codec.encode(raw)
        before, numcodecs.blosc.use_threads = numcodecs.blosc.use_threads, False
        try:
            return codec.encode(raw)
        finally:
            numcodecs.blosc.use_threads = before

    if isinstance(codec, numcodecs.GZip):
        return gzip
    return blosc if isinstance(codec, numcodecs.Blosc) else codec.encode


def _chain(encoders: Sequence[Callable[[Any], Any]], *, as_bytes: bool = False) -> EncodeChunk:
    def encode(chunk: AnyArray) -> Encoded:
        little = chunk if chunk.dtype.byteorder != ">" else chunk.astype(chunk.dtype.newbyteorder("<"))
        raw: Any = little.reshape(-1).view(np.uint8) if as_bytes or not encoders else little
        for encode_next in encoders:
            raw = encode_next(raw)
        encoded: Encoded = raw.data if isinstance(raw, np.ndarray) else raw
        return encoded

    return encode


def _index_of_shard(lengths: Sequence[int | None], *, start: int) -> bytes:
    """Return the index of consecutive chunks: start and length of each, in bytes."""
    entries: list[int] = []
    for length in lengths:
        entries += [_NOT_STORED, _NOT_STORED] if length is None else [start, length]
        start += length or 0
    index = struct.pack(f"<{len(entries)}Q", *entries)
    return index + int(crc32c(index)).to_bytes(_CHECKSUM_NBYTES, "little")


def _index_is_first(array: StoredArray) -> bool:
    metadata: Any = array.metadata
    sharding = metadata.codecs[0].to_dict()["configuration"]
    return str(getattr(sharding["index_location"], "value", sharding["index_location"])) == "start"
