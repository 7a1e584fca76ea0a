"""The bytes of an object are those that zarr itself writes."""

import errno
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.zarr3
import numpy as np
import pytest
import zarr
from google_crc32c import value as crc32c
from tests.strategies import in_small_units
from tests.support import Case, PositionModel, Receipts, objects, run
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from tilewright.coordinator import Coordinator
from tilewright.executors.serial import SerialExecutor
from tilewright.executors.work import Work
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.unit_writer import UnitWriter
from tilewright.outputs.arrays import template_arrays
from tilewright.outputs.options import OutputOptions
from tilewright.plan import WritePlan, plan_write
from tilewright.runs.run import Run
from tilewright.stores import put as objects_module
from tilewright.stores.patience import Patience

SHAPE = (13, 17)
"""Its last chunks and shards reach beyond the image on both axes."""


def plan_of(dtype: str, shards: tuple[int, int] | None) -> WritePlan:
    plan = plan_write(SHAPE, "YX", (8, 8), (2, 3), chunks=(3, 4), shards=shards, dtype=dtype, layout="compact")
    return in_small_units(plan)


def values_of(dtype: str) -> np.ndarray:
    values = np.random.default_rng(3).integers(0, 5, SHAPE)
    return (values * 0.5 - 1).astype(dtype) if np.dtype(dtype).kind == "f" else values.astype(dtype)


def valid_part(plan: WritePlan, values: np.ndarray, tile: int) -> np.ndarray:
    return values[tuple(slice(*interval) for interval in plan.valid_region(tile))]


def written_by_units(plan: WritePlan, array: zarr.Array, values: np.ndarray) -> dict[str, bytes]:
    """Cut values into the valid regions of tiles, hand them over, and return the stored objects."""
    executor = SerialExecutor(Work(plan, UnitWriter(plan, (ObjectEncoder(array),))))
    run_of_tiles = Run(Coordinator(plan), executor, Receipts())
    for tile in range(plan.tile_count):
        run_of_tiles.hand_over([tile], [valid_part(plan, values, tile)])
    run_of_tiles.finish()
    return objects(array.store)


def create(**options: Any) -> zarr.Array:
    return zarr.create_array(MemoryStore(), name="group/0", shape=SHAPE, **options)


def written_by_zarr(array: zarr.Array, values: np.ndarray) -> dict[str, bytes]:
    array.with_config({"write_empty_chunks": True})[...] = values
    return objects(array.store)


def inner_chunks(shard: bytes, grid: tuple[int, int], index_location: str = "end") -> dict[tuple[int, int], bytes]:
    """The chunks that a shard holds, by their position in it; what lies where in the file is the writer's choice."""
    nbytes = 16 * prod(grid) + 4
    index = shard[:nbytes] if index_location == "start" else shard[-nbytes:]
    assert int.from_bytes(index[-4:], "little") == crc32c(index[:-4])
    table = np.frombuffer(index[:-4], "<u8").reshape(*grid, 2)
    places = {position: table[position].tolist() for position in np.ndindex(*grid)}
    held = {position: place for position, place in places.items() if place != [2**64 - 1, 2**64 - 1]}
    # Nothing but the chunks and the index is in the file.
    assert sum(length for _, length in held.values()) + nbytes == len(shard)
    return {position: shard[start : start + length] for position, (start, length) in held.items()}


def chunks_of(stored: dict[str, bytes], shards: tuple[int, int] | None, **where: str) -> dict[Any, bytes]:
    """All encoded chunks inside the image, by object and position in it."""
    if shards is None:
        return dict(stored)
    grid = (shards[0] // 3, shards[1] // 4)
    found = {}
    for key, shard in stored.items():
        row, column = (int(number) for number in key.split("/")[-2:])
        for (y, x), chunk in inner_chunks(shard, grid, **where).items():
            if row * shards[0] + 3 * y < SHAPE[0] and column * shards[1] + 4 * x < SHAPE[1]:
                found[key, y, x] = chunk
    return found


def without_time(stored: bytes) -> bytes:
    """A gzip member with no time in its header, bytes 4 to 8."""
    return stored[:4] + bytes(4) + stored[8:]


def both_written(
    dtype: str, shards: tuple[int, int] | None = None, *, is_direct: bool = True, **options: Any
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The objects of an array as we write them, which are read back here, and as zarr does."""
    if "serializer" not in options:
        options |= {"chunks": (3, 4), "shards": shards}
    values = values_of(dtype)
    ours, theirs = (create(dtype=dtype, **options) for _ in range(2))
    assert ObjectEncoder(ours).is_direct == is_direct
    written = written_by_units(plan_of(dtype, shards), ours, values)
    np.testing.assert_array_equal(ours[...], values)
    return written, written_by_zarr(theirs, values)


CODECS: dict[str, Any] = {
    "none": None,
    "auto": "auto",
    "zstd 0": ZstdCodec(level=0),
    "zstd 9": ZstdCodec(level=9),
    "zstd with checksum": ZstdCodec(level=3, checksum=True),
    "blosc": BloscCodec(),
    **{
        f"blosc {name} {shuffle}": BloscCodec(cname=name, clevel=5, shuffle=shuffle)
        for name in ("lz4", "zstd")
        for shuffle in ("noshuffle", "shuffle", "bitshuffle")
    },
    "blosc with sizes": BloscCodec(cname="lz4hc", clevel=1, shuffle="shuffle", typesize=2, blocksize=64),
    "two in a row": [BloscCodec(cname="lz4"), ZstdCodec(level=1)],
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int32", "float16", "bool"])
@pytest.mark.parametrize("shards", [None, (6, 8), (9, 20)], ids=["chunks", "shards", "one shard in X"])
@pytest.mark.parametrize("codec", CODECS)
def test_objects_of_zarr_3_are_those_of_zarr(codec: str, shards: tuple[int, int] | None, dtype: str) -> None:
    ours, theirs = both_written(dtype, shards, compressors=CODECS[codec])
    assert chunks_of(ours, shards) == chunks_of(theirs, shards)
    # At the end of the image a shard holds no chunks beyond it.
    assert {key: len(value) for key, value in ours.items()} == {key: len(value) for key, value in theirs.items()}


GZIP: list[dict[str, Any]] = [
    {"compressors": GzipCodec(level=1)},
    {"compressors": GzipCodec(level=9)},
    {"compressors": GzipCodec(level=1), "shards": (6, 8)},
    {"compressors": GzipCodec(level=9), "shards": (6, 8)},
    {"compressors": numcodecs.GZip(level=5), "zarr_format": 2},
]


@pytest.mark.parametrize("options", GZIP)
def test_gzip_objects_are_those_of_zarr_without_the_time(options: dict[str, Any]) -> None:
    shards = options.get("shards")
    ours, theirs = both_written("float32", **options)
    expected = {place: without_time(chunk) for place, chunk in chunks_of(theirs, shards).items()}
    assert chunks_of(ours, shards) == expected


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("inner", [[], [ZstdCodec(level=1)], [BloscCodec(cname="zstd")]])
def test_the_index_of_a_shard_lies_where_the_array_says(location: str, inner: list[Any]) -> None:
    sharding = ShardingCodec(chunk_shape=(3, 4), codecs=[BytesCodec(), *inner], index_location=location)
    options: dict[str, Any] = {"chunks": (6, 8), "serializer": sharding, "compressors": None, "filters": None}
    assert create(dtype="float32", **options).shards == (6, 8)
    ours, theirs = both_written("float32", (6, 8), **options)
    assert chunks_of(ours, (6, 8), index_location=location) == chunks_of(theirs, (6, 8), index_location=location)


ZARR_2: dict[str, Any] = {
    "none": None,
    "auto": "auto",
    "blosc": numcodecs.Blosc(),
    "blosc lz4 bitshuffle": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.BITSHUFFLE),
    "blosc zstd noshuffle": numcodecs.Blosc("zstd", 5, numcodecs.Blosc.NOSHUFFLE),
    "zstd": numcodecs.Zstd(level=5),
    "bz2": numcodecs.BZ2(),
    "lz4": numcodecs.LZ4(),
}


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int32", "bool"])
@pytest.mark.parametrize("codec", ZARR_2)
def test_objects_of_zarr_2_are_those_of_zarr(codec: str, dtype: str) -> None:
    ours, theirs = both_written(dtype, compressors=ZARR_2[codec], zarr_format=2)
    assert ours == theirs


TRANSPOSED: dict[str, Any] = {"filters": [TransposeCodec(order=(1, 0))], "compressors": ZstdCodec()}
DELTA = {"dtype": "<i4"}
INDIRECT: dict[str, Callable[[], dict[str, Any]]] = {
    "Zarr 2 in F order": lambda: {"order": "F", "zarr_format": 2, "compressors": numcodecs.Zstd()},
    "Zarr 2 with a filter": lambda: {
        "filters": [numcodecs.Delta(**DELTA)],
        "zarr_format": 2,
        "compressors": numcodecs.Zstd(),
    },
    "transposed": lambda: TRANSPOSED,
    "big-endian": lambda: {"serializer": BytesCodec(endian="big"), "compressors": None, "chunks": (3, 4)},
    "checksum": lambda: {"compressors": [Crc32cCodec()]},
    "shards with a transposed inside": lambda: {"shards": (6, 8), **TRANSPOSED},
    "only known to numcodecs": lambda: {"filters": [numcodecs.zarr3.Delta(**DELTA)], "compressors": None},
}


# zarr and numcodecs warn of codecs that other readers may not know.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", INDIRECT)
def test_any_other_chain_of_codecs_goes_through_zarr(name: str) -> None:
    options = INDIRECT[name]()
    shards = options.get("shards")
    ours, theirs = both_written("int32", is_direct=False, **options)
    assert chunks_of(ours, shards) == chunks_of(theirs, shards)


@pytest.mark.parametrize("fill_value", [0, 7])
@pytest.mark.parametrize("zarr_format", [3, 2])
def test_what_reaches_beyond_the_image_holds_the_fill_value(fill_value: int, zarr_format: int) -> None:
    ours, theirs = both_written("uint8", compressors=None, fill_value=fill_value, zarr_format=zarr_format)
    assert ours == theirs


def test_an_encoder_travels_to_other_processes(tmp_path: Path) -> None:
    image = np.ones((9, 9), "uint8")
    plan = plan_write((9, 9), "YX", (4, 4), (1, 1), dtype="uint8")
    array = run(Case(image, "YX", plan, PositionModel(1, "uint8")), tmp_path)
    encoder = pickle.loads(pickle.dumps(ObjectEncoder(array)))
    assert encoder.is_direct
    assert encoder.key((0, 0)) == ObjectEncoder(array).key((0, 0)) == "0/c/0/0"


def test_blosc_makes_the_same_bytes_in_the_main_thread_and_in_others_and_leaves_its_setting_alone() -> None:
    # Several blocks, which several threads of Blosc would put down in any order.
    chunk = np.random.default_rng(0).random((32, 128, 128), dtype=np.float32)
    codec = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
    array = zarr.create_array(MemoryStore(), shape=chunk.shape, chunks=chunk.shape, dtype="float32", compressors=codec)
    encoder = ObjectEncoder(array)
    assert encoder.is_direct
    before = numcodecs.blosc.use_threads
    with ThreadPoolExecutor(2) as threads:
        elsewhere = [bytes(encoded) for encoded in threads.map(encoder.encode_part, [chunk] * 4)]
        here = [bytes(encoder.encode_part(chunk)) for _ in range(4)]
    assert len({*elsewhere, *here}) == 1
    assert numcodecs.blosc.use_threads is before


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "name"), [("float32", "lz4"), ("float64", "lz4"), ("uint8", "zstd"), ("int32", "zstd")]
)
def test_the_default_codec_is_blosc_with_shuffled_bits_and_encoded_here(
    dtype: str, name: str, zarr_format: int
) -> None:
    plan = plan_of(dtype, None)
    array = template_arrays(plan, OutputOptions(zarr_format=zarr_format))[0]
    (codec,) = array.compressors
    found = codec.get_config() if zarr_format == 2 else codec.to_dict()["configuration"]
    assert found["cname"] == name
    assert found["shuffle"] in (numcodecs.Blosc.BITSHUFFLE, "bitshuffle")
    assert found.get("typesize") in (None, np.dtype(dtype).itemsize)
    assert ObjectEncoder(array).is_direct


@pytest.mark.parametrize("codec", [None, "auto"])
@pytest.mark.parametrize("location", ["start", "end"])
def test_a_shard_that_could_not_be_stored_half_way_is_put_together_anew(
    location: str, codec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharding = ShardingCodec(chunk_shape=(3, 4), codecs=[BytesCodec()], index_location=location)
    values = values_of("float32")
    plan = plan_of("float32", (6, 8))
    store = LocalStore(tmp_path)
    array = zarr.create_array(store, shape=SHAPE, chunks=(6, 8), dtype="float32", serializer=sharding, compressors=None)
    if codec is not None:
        array = zarr.create_array(store, shape=SHAPE, chunks=(3, 4), shards=(6, 8), dtype="float32", overwrite=True)
    tiles = {tile: valid_part(plan, values, tile) for tile in range(plan.tile_count)}
    writer = UnitWriter(plan, (ObjectEncoder(array),), Patience(pause_seconds=0))
    assert writer.encoders[0].is_direct
    write, calls = os.write, []

    def write_with_trouble(descriptor: int, content: Any) -> int:
        calls.append(len(content))
        if len(calls) % 7 == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return write(descriptor, content)

    monkeypatch.setattr(objects_module.os, "write", write_with_trouble)
    receipts = [writer.write_tiles(unit, tiles) for unit in range(plan.unit_count)]
    monkeypatch.undo()
    assert len(calls) > plan.object_count
    np.testing.assert_array_equal(zarr.open_array(tmp_path, mode="r")[...], values)
    undisturbed = [writer.write_tiles(unit, tiles) for unit in range(plan.unit_count)]
    stored, expected = ([s.receipt for s in units] for units in (receipts, undisturbed))
    assert [(r.digest, r.stored_nbytes) for r in stored] == [(r.digest, r.stored_nbytes) for r in expected]
