"""A stored object is what zarr would write and reads, made in the calling thread, without a turn of an event loop.

The common codecs are numcodecs under other names, and a shard is its chunks one after the other and an index, so both
are put together here from the metadata of the array, by the public specification of Zarr. Chunks have the
bytes that zarr makes; in a shard they lie in C order. Any other chain of codecs
goes through zarr's own pipeline. This is the one module that touches what zarr does not document.

Equal chunks become equal bytes, whenever and wherever that is: the time in the header of gzip is left out, and Blosc
compresses a chunk in one thread.
"""

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numcodecs
import numpy as np
import zarr
from google_crc32c import value as crc32c

from tilewright.assemble import AnyArray
from tilewright.stores.metadata import array_metadata
from tilewright.stores.zarr_api import Encoded, encoded_by_zarr

EncodeChunk = Callable[[AnyArray], Encoded]

_CHECKSUM_NBYTES = 4
_NOT_STORED = 2**64 - 1
"""The offset and the length, in the index of a shard, of a chunk that it does not hold."""


@dataclass(frozen=True)
class ObjectEncoder:
    """Turn the chunks of one array into stored objects.

    Parameters
    ----------
    array : zarr.Array
        The array. Only its metadata is used.

    Attributes
    ----------
    is_direct : bool
        Whether the bytes are made here; else zarr's own pipeline makes them.
    """

    array: zarr.Array[Any]
    _encode_chunk: EncodeChunk | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_encode_chunk", _direct_encoder(self.array))

    def __reduce__(self) -> tuple[type["ObjectEncoder"], tuple[zarr.Array[Any]]]:
        return ObjectEncoder, (self.array,)

    @property
    def is_direct(self) -> bool:
        """Whether the bytes are made here; else zarr's own pipeline makes them."""
        return self._encode_chunk is not None

    @cached_property
    def part_extents(self) -> tuple[int, ...]:
        """The extents of the arrays that `encode` takes: chunks, or whole objects where zarr encodes."""
        if self.is_direct:
            return tuple(self.array.chunks)
        return tuple(self.array.shards or self.array.chunks)

    def key(self, position: tuple[int, ...]) -> str:
        """Return the key in the store of the object at this position of the grid."""
        return self._folder + self.array.metadata.encode_chunk_key(position)

    @cached_property
    def _folder(self) -> str:
        return f"{self.array.path}/" if self.array.path else ""

    @cached_property
    def _document(self) -> dict[str, Any]:
        return array_metadata(self.array)

    @cached_property
    def _is_sharded(self) -> bool:
        return self.array.shards is not None

    def encode_part(self, part: AnyArray) -> Encoded:
        """Return the bytes of one part of an object: a chunk, or a whole object where zarr encodes.

        Parameters
        ----------
        part : array
            Contiguous, of `part_extents`, in the data type of the array.
        """
        if self._encode_chunk is not None:
            return self._encode_chunk(part)
        return encoded_by_zarr(self._document, part)

    def join(self, parts: Iterable[Encoded | None]) -> Iterator[Encoded]:
        """Iterate over what makes up an object, in order, and keep none of it where the index of a shard is its end.

        Parameters
        ----------
        parts : iterable of bytes-like or None
            Its encoded parts in C order, each of which need not last until the next one; None for a chunk of a shard
            that lies beyond the end of the image.
        """
        if not self._is_sharded or not self.is_direct:
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


def _direct_encoder(array: zarr.Array[Any]) -> EncodeChunk | None:
    """Return a function that encodes one chunk, or None where zarr must do it."""
    metadata = array.metadata
    if metadata.zarr_format == 2:
        if metadata.order != "C" or metadata.filters:
            return None
        return _chain([] if metadata.compressor is None else [_repeatable(metadata.compressor)])
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
    makers = [_numcodec(codec) for codec in others]
    return None if None in makers else _chain([codec for codec in makers if codec is not None], as_bytes=True)


def _as_dict(codec: Any) -> dict[str, Any]:
    return dict(codec) if isinstance(codec, dict) else dict(codec.to_dict())


def _numcodec(codec: Any) -> Any:
    """Return the numcodecs codec that makes the same bytes as this one of Zarr 3, or None."""
    options = dict(codec.get("configuration") or {})
    match codec["name"]:
        case "zstd":
            return numcodecs.Zstd(level=options["level"], checksum=options["checksum"])
        case "gzip":
            return _repeatable(numcodecs.GZip(level=options["level"]))
        case "blosc":
            shuffles = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
            blosc = numcodecs.Blosc(
                cname=options["cname"],
                clevel=options["clevel"],
                shuffle=shuffles[options["shuffle"]],
                blocksize=options["blocksize"],
                typesize=options["typesize"],
            )
            return _repeatable(blosc)
    return None


class _TimelessGzip:
    """Compress as a gzip codec does, but for the seconds of the day in bytes 4 to 8 of the header (RFC 1952)."""

    def __init__(self, codec: numcodecs.GZip) -> None:
        self._codec = codec

    def encode(self, raw: AnyArray) -> bytes:
        encoded: bytes = self._codec.encode(raw)
        return encoded[:4] + bytes(4) + encoded[8:]


class _OneThreadBlosc:
    """Compress in the calling thread alone: several put their blocks down in the order in which they finish them."""

    def __init__(self, codec: numcodecs.Blosc) -> None:
        self._codec = codec

    def encode(self, raw: AnyArray) -> bytes:
        with _without_further_threads():
            encoded: bytes = self._codec.encode(raw)
        return encoded


@contextmanager
def _without_further_threads() -> Iterator[None]:
    """Keep Blosc from using further threads, which numcodecs lets it do in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, numcodecs.blosc.use_threads = numcodecs.blosc.use_threads, False
    try:
        yield
    finally:
        numcodecs.blosc.use_threads = before


def _repeatable(codec: Any) -> Any:
    """Return a codec that makes the same bytes of the same chunk each time."""
    if isinstance(codec, numcodecs.GZip):
        return _TimelessGzip(codec)
    return _OneThreadBlosc(codec) if isinstance(codec, numcodecs.Blosc) else codec


def _chain(codecs: Sequence[Any], *, as_bytes: bool = False) -> EncodeChunk:
    def encode(chunk: AnyArray) -> Encoded:
        little = chunk if chunk.dtype.byteorder != ">" else chunk.astype(chunk.dtype.newbyteorder("<"))
        raw: Any = little.reshape(-1).view(np.uint8) if as_bytes or not codecs else little
        for codec in codecs:
            raw = codec.encode(raw)
        encoded: Encoded = raw.data if isinstance(raw, np.ndarray) else raw
        return encoded

    return encode


def _index_of_shard(lengths: Sequence[int | None], *, start: int) -> bytes:
    """Return the index of chunks that lie one after the other: where each begins and how long it is, in bytes."""
    entries: list[int] = []
    for length in lengths:
        entries += [_NOT_STORED, _NOT_STORED] if length is None else [start, length]
        start += length or 0
    index = struct.pack(f"<{len(entries)}Q", *entries)
    return index + int(crc32c(index)).to_bytes(_CHECKSUM_NBYTES, "little")


def _index_is_first(array: zarr.Array[Any]) -> bool:
    metadata: Any = array.metadata
    sharding = metadata.codecs[0].to_dict()["configuration"]
    return str(getattr(sharding["index_location"], "value", sharding["index_location"])) == "start"
