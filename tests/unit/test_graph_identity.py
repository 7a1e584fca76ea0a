"""A dask array is told by what it is computed from and how, in whichever process, and not by the names of its tasks."""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import torch
import zarr
from zarr.storage import FsspecStore, MemoryStore

from tilewright.identity.graphs import graph_identity
from tilewright.sources.opening import open_source
from tilewright.sources.source_identity import source_identity

IMAGE = np.arange(64 * 64, dtype="float32").reshape(64, 64)


def identity(array: dask.array.Array) -> str:
    return source_identity(open_source(array, "YX"))


def first() -> dask.array.Array:
    return dask.array.from_array(IMAGE, chunks=16)


def second() -> dask.array.Array:
    return dask.array.from_array(IMAGE[::-1].copy(), chunks=16)


def loaded(name: str) -> dask.array.Array:
    return dask.array.from_delayed(dask.delayed(np.load)(name), (64, 64), "float32")


def scaled(block: np.ndarray, factor: float = 2) -> np.ndarray:
    return block * np.asarray(factor).reshape(-1)[0]


class Scale:
    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def of(self, block: np.ndarray) -> np.ndarray:
        return scaled(block, self.factor)


def stored(value: int) -> zarr.Array:
    array = zarr.create_array(MemoryStore(), shape=(64, 64), dtype="uint8", chunks=(16, 16))
    array[...] = value
    return array


def network(bias: float) -> torch.nn.Module:
    torch.manual_seed(3)
    module = torch.nn.Linear(3, 3)
    torch.nn.init.constant_(module.bias, bias)
    return module


Make = Callable[[], dask.array.Array]
PAIRS: dict[str, tuple[Make, Make]] = {
    "a constant": (lambda: first() + 1, lambda: first() + 2),
    "its type": (lambda: first().map_blocks(scaled, 1), lambda: first().map_blocks(scaled, 1.0)),
    "the order of arguments": (lambda: first() - second(), lambda: second() - first()),
    "the order of parts": (
        lambda: dask.array.concatenate([first(), second()]),
        lambda: dask.array.concatenate([second(), first()]),
    ),
    "the order of steps": (lambda: (first() - 1) * 2, lambda: (first() * 2) - 1),
    "a window": (lambda: first()[3:60], lambda: first()[4:61]),
    "an axis": (first, lambda: first().T),
    "chunks": (first, lambda: dask.array.from_array(IMAGE, chunks=32)),
    "one more step": (lambda: first() + 1, lambda: first() + 1 + 1),
    "no array": (first, lambda: dask.array.zeros(IMAGE.shape, dtype=IMAGE.dtype)),
    "an array": (first, second),
    "a digit of a path": (lambda: loaded("/data/20240101.npy"), lambda: loaded("/data/20240102.npy")),
    "a path of hexadecimal digits": (lambda: loaded("/data/deadbeef.npy"), lambda: loaded("/data/deadbee0.npy")),
    "a function": (lambda: first().map_blocks(lambda x: x + 1), lambda: first().map_blocks(lambda x: x + 2)),
    "an argument of a partial function": (
        lambda: first().map_blocks(functools.partial(scaled, factor=3)),
        lambda: first().map_blocks(functools.partial(scaled, factor=4)),
    ),
    "what a method is bound to": (
        lambda: first().map_blocks(Scale(3).of),
        lambda: first().map_blocks(Scale(4).of),
    ),
    "an array deep in an object": (
        lambda: first().map_blocks(Scale([{"a": (IMAGE[:3],)}]).of, meta=IMAGE[:0]),
        lambda: first().map_blocks(Scale([{"a": (IMAGE[1:4],)}]).of, meta=IMAGE[:0]),
    ),
    "what is stored": (
        lambda: dask.array.from_zarr(stored(1)) + 1,
        lambda: dask.array.from_zarr(stored(2)) + 1,
    ),
    "the weights of a model": (
        lambda: first().map_blocks(functools.partial(scaled, factor=network(0)), meta=IMAGE[:0]),
        lambda: first().map_blocks(functools.partial(scaled, factor=network(1)), meta=IMAGE[:0]),
    ),
    "the seed": (
        lambda: dask.array.random.default_rng(1).random((64, 64), chunks=16),
        lambda: dask.array.random.default_rng(2).random((64, 64), chunks=16),
    ),
    "an optimised graph": (
        lambda: dask.optimize((first() + 1)[3:] * 2)[0],
        lambda: dask.optimize((first() + 2)[3:] * 2)[0],
    ),
    "a graph of old": (
        lambda: dask.array.Array({("x", 0, 0): (np.add, IMAGE, 1)}, "x", ((64,), (64,)), "float32"),
        lambda: dask.array.Array({("x", 0, 0): (np.add, IMAGE, 2)}, "x", ((64,), (64,)), "float32"),
    ),
}


@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS)
def test_what_differs_in_one_thing_is_told_apart_and_what_is_made_again_is_not(one: Make, other: Make) -> None:
    assert identity(one()) == identity(one()) != identity(other())
    assert re.fullmatch("dask array [0-9a-f]{16}", identity(one()))


def test_names_of_tasks_do_not_count() -> None:
    assert identity(loaded("a.npy")) == identity(loaded("a.npy"))
    assert loaded("a.npy").name != loaded("a.npy").name
    named = (dask.array.from_array(IMAGE, chunks=16, name=name) + 1 for name in ("a", "b", False))
    assert len(set(map(identity, named))) == 1


@pytest.mark.slow
def test_it_is_the_same_in_another_process() -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.unit import test_graph_identity as tests
for one, other in tests.PAIRS.values():
    print(tests.identity(one()), tests.identity(other()))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().split(b"\n")) == len(PAIRS) + 1


def test_it_is_short_and_holds_no_secret() -> None:
    held = {"token": "secret", "data": b"secret" * 2**20, "url": "s3://me:secret@bucket/a"}
    found = identity(first().map_blocks(functools.partial(scaled, held=held), meta=IMAGE[:0]))
    assert "secret" not in found
    assert len(found) < 40


def test_the_same_array_of_a_server_with_another_password_is_the_same() -> None:
    def of(user: str) -> str:
        store = FsspecStore.from_url("memory://b/raw.zarr", storage_options={"secret": user})
        return identity(dask.array.from_zarr(zarr.open_array(store, mode="r")))

    zarr.create_array(FsspecStore.from_url("memory://b/raw.zarr"), data=IMAGE, chunks=(16, 16), overwrite=True)
    assert of("a") == of("b")


class Locked:
    """An object of which nothing can be known."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("locked")


def test_what_is_not_compared_is_named_without_an_address() -> None:
    found = identity(first().map_blocks(functools.partial(scaled, other=Locked()), meta=IMAGE[:0]))
    assert re.fullmatch(r"dask array [0-9a-f]{16}, not compared: .*\.Locked", found)


def test_a_large_graph_is_not_made() -> None:
    array = dask.array.zeros((10**6, 10**6), chunks=100) + 1
    assert graph_identity(array, str) != graph_identity(array + 1, str)
