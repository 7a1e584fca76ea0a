"""Uses of zarr beyond its public API, known for the versions 3.1.4 to 3.4."""

import json
from collections.abc import Iterable
from typing import Any

import zarr
from zarr.core.array import AsyncArray
from zarr.core.buffer import Buffer, BufferPrototype, cpu, default_buffer_prototype
from zarr.core.group import AsyncGroup
from zarr.core.sync import sync
from zarr.storage import MemoryStore, WrapperStore, ZipStore

__all__ = [
    "AsyncArray",
    "AsyncGroup",
    "Buffer",
    "BufferPrototype",
    "buffer_of",
    "default_buffer_prototype",
    "encoded_by_zarr",
    "ensure_open",
    "is_unopened_zip",
    "memory_number",
    "sync",
    "unwrapped",
]

Encoded = bytes | bytearray | memoryview
"""Bytes that a file takes as they are."""


def unwrapped(store: Any) -> Any:
    """Return the innermost store of a wrapper."""
    while isinstance(store, WrapperStore):
        store = store._store
    return store


def memory_number(store: MemoryStore) -> int:
    """Return the identity of the memory of a store in this process."""
    return id(store._store_dict)


def is_unopened_zip(store: Any) -> bool:
    """Tell whether a store is a zip file that is not open yet."""
    inner = unwrapped(store)
    return isinstance(inner, ZipStore) and not inner._is_open


def ensure_open(store: Any) -> None:
    """Open the zip file of a store, where it is not open yet."""
    if is_unopened_zip(store):
        unwrapped(store)._sync_open()


def buffer_of(parts: Iterable[Encoded]) -> cpu.Buffer:
    """Return a copy of the parts of an object as one buffer for a zarr store, which may keep it."""
    whole = bytearray()
    for part in parts:
        whole += part
    return cpu.Buffer.from_bytes(whole)


def encoded_by_zarr(metadata: dict[str, Any], part: Any) -> bytes:
    """Return the bytes of one whole object as zarr stores it, also one of fill values only; any format of metadata."""
    prototype = default_buffer_prototype()
    store = MemoryStore()
    name = "zarr.json" if metadata["zarr_format"] == 3 else ".zarray"
    document = json.dumps({**metadata, "shape": list(part.shape)}).encode()
    sync(store.set(name, buffer_of([document])))
    array = zarr.open_array(store, mode="r+", config={"write_empty_chunks": True})
    array[...] = part
    encoded = sync(store.get(array.metadata.encode_chunk_key((0,) * part.ndim), prototype))
    if encoded is None:
        raise RuntimeError("zarr encoded a chunk to nothing")
    return encoded.to_bytes()
