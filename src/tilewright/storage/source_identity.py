"""A source is told from others by its place and by samples of what is stored there: all of it may be many terabytes."""

import json
import re
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array
import numpy as np
import zarr
from xxhash import xxh3_64
from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from tilewright.storage.apart import Nowhere
from tilewright.storage.metadata import array_metadata
from tilewright.storage.places import place_of_store
from tilewright.storage.source import Source
from tilewright.storage.value_identity import array_digest, digest_of, name_of, value_identity

SAMPLED_OBJECTS = 8
"""Stored objects of which a sample is taken, at most,"""
SAMPLED_NBYTES = 2**16
"""and bytes of each, at its beginning and at its end."""
_TOKEN = re.compile(r"[0-9a-f]{8,}(-[0-9a-f]{4,})*")


def source_identity(source: Source) -> str:
    """Return what tells a source from others at its path.

    Of a file that is its size and time; of a Zarr array its metadata and a sample of its stored objects; of an array in
    memory a digest of its elements, or of 64 MiB of them; of a dask array what it is computed from, and how.

    Parameters
    ----------
    source : Source
        The source.
    """
    if source.path is not None and source.path.is_file():
        status = source.path.stat()
        return f"file of {status.st_size} bytes, written at {status.st_mtime_ns / 1e9:.6f}{source.view}"
    opened = source.opened()
    if isinstance(opened, zarr.Array):
        place = place_of_store(opened.store, opened.path)
        # The memory of another process has another name.
        is_named = source.path is None and place is not None and not place.service.endswith("memory")
        return f"{_of_zarr(opened)}{f' in {place}' if is_named else ''}{source.view}"
    if isinstance(opened, np.ndarray):
        return f"array {array_digest(opened)}"
    if isinstance(opened, dask.array.Array):
        return f"{_of_graph(opened)}{source.view}"
    return f"{name_of(opened)}, not compared{source.view}"


def _of_zarr(array: zarr.Array[Any]) -> str:
    text = json.dumps(array_metadata(array), sort_keys=True)
    return f"Zarr array {digest_of(text)}, sample {_sample_of(array)}"


def _sample_of(array: zarr.Array[Any]) -> str:
    """Return a digest of the ends of some stored objects, spread evenly over the array."""
    extents = array.shards or array.chunks
    grid = [-(-extent // step) for extent, step in zip(array.shape, extents, strict=True)]
    count = int(np.prod(grid, dtype=object))
    chosen = sorted({round(place) for place in np.linspace(0, max(0, count - 1), min(SAMPLED_OBJECTS, count))})
    digest = xxh3_64()
    try:
        for number in chosen:
            position, rest = [], number
            for extent in reversed(grid):
                rest, index = divmod(rest, extent)
                position.append(index)
            key = array.metadata.encode_chunk_key(tuple(reversed(position)))
            for part in sync(_ends_of(array.store, f"{array.path}/{key}" if array.path else key)):
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


def _of_graph(array: dask.array.Array) -> str:
    """Return a digest of what a dask array is computed from, and by which functions: names of tasks are random."""
    walker = _Walker()
    try:
        walker.dump(array)
        layers = len(getattr(array.dask, "layers", ()))
    except Exception as error:
        return f"{name_of(array)}, not compared ({type(error).__name__})"
    return f"dask array {digest_of(' '.join([str(layers), str(array.chunks), *sorted(walker.parts)]))}"


class _Walker(cloudpickle.Pickler):  # type: ignore[misc]
    """Look at every object that a dask array would take along to a worker, in whatever order."""

    def __init__(self) -> None:
        super().__init__(Nowhere())
        self.parts: list[str] = []

    def persistent_id(self, candidate: Any) -> int | None:
        """Note an object; return a number where there is no need to look into it."""
        match candidate:
            case str():
                # Names of tasks end with tokens that differ from run to run.
                self.parts.append(digest_of(_TOKEN.sub("", candidate)))
            case None | bool() | int() | float() | complex() | bytes() | Path():
                self.parts.append(value_identity(str(candidate) if isinstance(candidate, Path) else candidate))
            case np.ndarray() if not candidate.dtype.hasobject:
                self.parts.append(value_identity(candidate))
                return 0
            case zarr.Array():
                self.parts.append(f"{_of_zarr(candidate)} in {place_of_store(candidate.store, candidate.path)}")
                return 0
            case Store():
                self.parts.append(f"store in {place_of_store(candidate)}")
                return 0
            case _ if type(candidate).__name__ == "Future":
                self.parts.append("a future, not compared")
                return 0
            case _ if callable(candidate) and (hasattr(candidate, "__code__") or hasattr(candidate, "__self__")):
                self.parts.append(value_identity(candidate))
                return 0
        return None
