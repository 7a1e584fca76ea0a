"""The identity of a source covers its place and a sample of its data: it may have many terabytes."""

import json
import posixpath
from collections.abc import Callable, Sequence
from typing import Any

import dask.array
import numpy as np
import zarr
from xxhash import xxh3_64
from zarr.abc.store import RangeByteRequest, Store
from zarr.storage import LocalStore

from tilewright.geometry import position_of
from tilewright.identity.graphs import graph_identity
from tilewright.identity.values import array_digest, digest_of, name_of
from tilewright.sources.readers.n5 import N5Array
from tilewright.sources.source import Source
from tilewright.stores.metadata import array_metadata
from tilewright.stores.places import place_of_store
from tilewright.stores.zarr_api import default_buffer_prototype, sync

SAMPLED_OBJECTS = 8
"""Sampled stored objects, at most."""
SAMPLED_NBYTES = 2**16
"""Bytes at the beginning of a sampled object, and at its end."""


def source_identity(source: Source) -> str:
    """Return the identity of a source.

    For a file its size and time; for an array of Zarr or N5 its metadata and a sample of its stored objects; for an
    array in memory a digest of at most 64 MiB of its elements; for a dask array a digest of its graph.
    """
    if source.path is not None and source.path.is_file():
        status = source.path.stat()
        return f"file of {status.st_size} bytes, written at {status.st_mtime_ns / 1e9:.6f}{source.reader.view}"
    opened = source.opened()
    if isinstance(opened, zarr.Array):
        place = place_of_store(opened.store, opened.path)
        # Memory has another name in each process.
        is_named = source.path is None and place is not None and not place.is_memory
        return f"{_of_zarr(opened)}{f' in {place}' if is_named else ''}{source.reader.view}"
    if isinstance(opened, N5Array):
        return _of_n5(opened)
    if isinstance(opened, np.ndarray):
        return f"array {array_digest(opened)}"
    if isinstance(opened, dask.array.Array):
        return f"{graph_identity(opened, _of_zarr)}{source.reader.view}"
    content = source.reader.content
    return f"{name_of(opened)}, {f'content {content}' if content else 'not compared'}{source.reader.view}"


def _of_zarr(array: zarr.Array[Any]) -> str:
    text = json.dumps(array_metadata(array), sort_keys=True)
    return f"Zarr array {digest_of(text)}, sample {_sample_of(array)}"


def _of_n5(array: N5Array) -> str:
    text = json.dumps(array.metadata, sort_keys=True)
    store = LocalStore(array.filename, read_only=True)
    return f"N5 dataset {digest_of(text)}, sample {_sample_in(store, array.shape, array.chunks, array.key)}"


def _sample_of(array: zarr.Array[Any]) -> str:
    def key_of(position: tuple[int, ...]) -> str:
        return posixpath.join(array.path, array.metadata.encode_chunk_key(position))

    return _sample_in(array.store, array.shape, array.shards or array.chunks, key_of)


def _sample_in(
    store: Store, shape: Sequence[int], extents: Sequence[int], key_of: Callable[[tuple[int, ...]], str]
) -> str:
    """Return a digest of the ends of stored objects that are spread evenly over an array."""
    grid = tuple(-(-extent // step) for extent, step in zip(shape, extents, strict=True))
    count = int(np.prod(grid, dtype=object))
    chosen = sorted({round(place) for place in np.linspace(0, max(0, count - 1), min(SAMPLED_OBJECTS, count))})
    digest = xxh3_64()
    try:
        for number in chosen:
            # The modulus, since rounding may exceed the last number of a huge array.
            for part in sync(_ends_of(store, key_of(position_of(number % count, grid)))):
                digest.update(part)
    except Exception as error:
        return f"not compared ({type(error).__name__})"
    return digest.hexdigest()


async def _ends_of(store: Store, key: str) -> list[bytes]:
    try:
        nbytes = await store.getsize(key)
    except FileNotFoundError:
        return [b"missing"]
    parts = [b"%d" % nbytes]
    for start in {0, max(0, nbytes - SAMPLED_NBYTES)} if nbytes else ():
        request = RangeByteRequest(start, min(nbytes, start + SAMPLED_NBYTES))
        found = await store.get(key, default_buffer_prototype(), request)
        parts.append(b"missing" if found is None else found.to_bytes())
    return parts
