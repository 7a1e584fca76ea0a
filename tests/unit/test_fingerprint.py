"""An output is completed from what it was begun from alone: what is another thing is told apart, what is not is not."""

import functools
import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
import torch
import zarr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.support import CountingStore
from zarr.storage import MemoryStore

from tilewright.identity.models import model_identity
from tilewright.identity.values import array_digest
from tilewright.model.predictor import Predictor
from tilewright.outputs.arrays import template_arrays
from tilewright.outputs.fingerprint import differences, fingerprint_of
from tilewright.outputs.options import OutputOptions
from tilewright.plan import plan_write
from tilewright.sources.opening import open_source
from tilewright.sources.source_identity import source_identity
from tilewright.stores.metadata import array_metadata

IMAGE = np.random.default_rng(11).integers(0, 60_000, (40, 50)).astype("uint16")


def identity(source: Any, axes: str = "YX") -> str:
    return source_identity(open_source(source, axes))


# --- How two fingerprints differ.


def test_each_difference_is_named_with_what_was_and_what_is() -> None:
    before = {"model": "a", "chunks": [32, 32], "dtype": "uint8", "gone": 1}
    now = {"chunks": [64, 64], "dtype": "uint8", "model": "b", "new": 2}
    assert differences(before, now) == [
        "model: a then, b now",
        "chunks: [32, 32] then, [64, 64] now",
        "gone: 1 then, None now",
        "new: None then, 2 now",
    ]


VALUES = st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(0, 2), max_size=2)


@given(st.dictionaries(st.sampled_from("abcdef"), VALUES), st.dictionaries(st.sampled_from("abcdef"), VALUES))
def test_what_differs_does_so_from_either_side(before: dict[str, Any], now: dict[str, Any]) -> None:
    assert differences(before, deepcopy(before)) == []
    # A missing field is one of None.
    differing = [name for name in "abcdef" if before.get(name) != now.get(name)]
    for first, second in ((before, now), (now, before)):
        found = differences(first, second)
        assert sorted(line.partition(":")[0] for line in found) == differing


# --- The fingerprint of an output.


def fingerprint(source: Any = IMAGE, model: str = "a model", axes: str = "YX", **asked_for: Any) -> dict[str, Any]:
    options = OutputOptions(
        compressors=asked_for.pop("compressors", "auto"),
        fill_value=asked_for.pop("fill_value", 0),
        zarr_format=asked_for.pop("zarr_format", 3),
    )
    opened = open_source(source, axes)
    request: dict[str, Any] = {"tile_size": (16, 16), "overlap": (4, 4), "dtype": "float32", "layout": "compact"}
    plan = plan_write(opened.axes.shape, axes, **request | asked_for)
    return fingerprint_of(opened, model, "predict_to_zarr", plan, template_arrays(plan, options))


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, set()),
        ({"model": "another"}, {"model"}),
        ({"tile_size": (16, 20)}, {"tile size", "chunks"}),
        ({"overlap": (4, 2)}, {"overlap", "chunks"}),
        ({"chunks": (8, 8)}, {"chunks"}),
        ({"chunks": (8, 8), "shards": (16, 16)}, {"chunks", "shards", "codecs"}),
        # The data type chooses the codecs.
        ({"dtype": "float16"}, {"dtype", "codecs"}),
        ({"layout": "aligned"}, {"layout", "chunks"}),
        ({"compressors": None}, {"codecs"}),
        ({"compressors": zarr.codecs.GzipCodec(level=1)}, {"codecs"}),
        ({"fill_value": 7}, {"fill value"}),
        ({"fill_value": float("nan")}, {"fill value"}),
        ({"zarr_format": 2}, {"zarr format", "codecs"}),
        ({"source": IMAGE + 1}, {"source"}),
        ({"source": IMAGE.astype("float32")}, {"source", "source dtype"}),
        ({"source": IMAGE.reshape(50, 40)}, {"source", "source shape", "shape", "chunks"}),
        ({"axes": "XY"}, {"source axes", "shape", "chunks"}),
        ({"source": dask.array.from_array(IMAGE)}, {"source"}),
        # Neither what is stored nor its bytes follow from the memory.
        ({"memory_nbytes": 2**20}, set()),
    ],
    ids=lambda values: "+".join(sorted(values)) or "nothing",
)
def test_what_is_changed_and_nothing_else_is_named(changed: dict[str, Any], names: set[str]) -> None:
    found = {line.partition(":")[0] for line in differences(fingerprint(), fingerprint(**changed))}
    # Chunks are chosen with the tiles, so that they may differ too, or happen not to.
    assert found | {"chunks"} == names | {"chunks"}
    assert names - {"chunks"} <= found


def test_a_fingerprint_is_the_same_after_a_file() -> None:
    made = fingerprint(fill_value=float("nan"), chunks=(8, 8), shards=(16, 16))
    assert differences(made, json.loads(json.dumps(made))) == []
    assert made == json.loads(json.dumps(made))


def test_a_source_that_was_moved_is_not_at_its_path(tmp_path: Path) -> None:
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for path in paths:
        tifffile.imwrite(path, IMAGE)
        os.utime(path, (1000, 1000))
    assert identity(paths[0]) == identity(str(paths[0])) == identity(paths[1])
    first, second = map(fingerprint, paths)
    assert differences(first, second) == [f"source path: {paths[0]} then, {paths[1]} now"]


# --- Sources.


def test_an_array_in_memory_is_told_by_its_elements() -> None:
    changed = IMAGE.copy()
    changed[17, 23] ^= 1
    assert identity(IMAGE) == identity(IMAGE.copy()) == identity(np.repeat(IMAGE, 2, axis=1)[:, ::2])
    assert len({identity(image) for image in (IMAGE, IMAGE[::-1], changed)}) == 3


@given(
    arrays.arrays(
        st.sampled_from(["uint8", "bool", "int16", "float32", "float64"]),
        arrays.array_shapes(min_dims=1, max_dims=4, max_side=6),
        elements={"allow_nan": False},
    ),
    st.data(),
)
def test_the_digest_of_an_array_follows_from_each_element_and_not_from_its_memory(
    array: np.ndarray, data: st.DataObject
) -> None:
    digest = array_digest(array)
    assert array_digest(np.asfortranarray(array)) == digest
    spread = np.zeros([2 * extent for extent in array.shape], array.dtype)[(slice(None, None, 2),) * array.ndim]
    spread[...] = array
    assert array_digest(spread) == digest
    changed = array.copy()
    place = tuple(data.draw(st.integers(0, extent - 1)) for extent in array.shape)
    changed[place] = not changed[place]
    if changed.tobytes() != array.tobytes():
        assert array_digest(changed) != digest


@pytest.mark.parametrize("shape", [(300_000,), (400_000,), (2, 300_000), (3, 1, 400_000), (2, 3, 270_000)])
def test_every_element_of_an_array_of_a_few_megabytes_counts(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.float32)
    before, flat = array_digest(array), array.reshape(-1)
    for place in np.linspace(0, array.size - 1, 37).astype(int):
        flat[place] = 1
        assert array_digest(array) != before, place
        flat[place] = 0


def test_the_digest_of_an_array_is_made_without_another_one_of_its_size() -> None:
    array = np.zeros((64, 2**17), np.float32)[:, ::2]
    array_digest(array)
    tracemalloc.start()
    try:
        array_digest(array)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < array.nbytes / 4


def mapped(path: Path, mode: Any = "r", **options: Any) -> np.memmap:
    return np.memmap(path, "uint16", mode, shape=IMAGE.shape, **options)


def read_by_a_function(path: Path, axes: str) -> np.ndarray:
    return np.fromfile(path, "uint16", IMAGE.size).reshape(IMAGE.shape)


FILES: dict[str, Callable[[Path], str]] = {
    "a TIFF": identity,
    "a compressed TIFF": identity,
    "a memory map": lambda path: identity(mapped(path)),
    "what a function reads": lambda path: source_identity(open_source(path, "YX", read_by_a_function)),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_told_by_its_size_and_time_and_not_by_its_elements(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    if "TIFF" in kind:
        tifffile.imwrite(path, IMAGE, compression="zlib" if "compressed" in kind else None)
    else:
        IMAGE.tofile(path)
    content = path.read_bytes()

    def identity_with(content: bytes, time_ns: int) -> str:
        path.write_bytes(content)
        os.utime(path, ns=(time_ns, time_ns))
        return FILES[kind](path)

    before = identity_with(content, 10**18)
    # As after a copy that keeps times.
    assert identity_with(content, 10**18) == before
    assert identity_with(content, 10**18 + 10_000) != before
    assert identity_with(content + bytes(2), 10**18) != before


def test_parts_of_a_file_that_are_mapped_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    np.concatenate([IMAGE, IMAGE + 1]).tofile(path)
    parts = [mapped(path), mapped(path, offset=IMAGE.nbytes), mapped(path, order="F")]
    assert len(set(map(identity, parts))) == 3


def test_what_was_changed_in_a_copy_on_write_map_is_seen(tmp_path: Path) -> None:
    IMAGE.tofile(tmp_path / "raw")
    image = mapped(tmp_path / "raw", "c")
    before = identity(image)
    assert before == identity(IMAGE)
    image[3, 4] += 1
    assert identity(image) != before


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_array_is_told_by_its_layout_and_not_by_its_attributes(zarr_format: int, tmp_path: Path) -> None:
    def create(name: str, **options: Any) -> Path:
        array = zarr.create_array(
            tmp_path / name,
            **{"shape": IMAGE.shape, "dtype": "uint16", "chunks": (10, 10)} | options,
            zarr_format=zarr_format,
        )
        array[...] = IMAGE
        return tmp_path / name

    path = create("a.zarr")
    before = identity(path)
    assert identity(zarr.open_array(path, mode="r")) == before
    zarr.open_array(path).attrs["stain"] = {"channel": [1, 2]}
    assert identity(path) == before
    zarr.open_array(path).update_attributes({"stain": None})
    assert identity(path) == before
    # Where it lies is another part of the fingerprint.
    assert identity(create("same.zarr")) == before
    others = [{"chunks": (10, 25)}, {"fill_value": 1}, {"compressors": None}, {"dtype": "uint32"}]
    if zarr_format == 3:
        others.append({"shards": (20, 20)})
    found = [identity(create(f"{number}.zarr", **options)) for number, options in enumerate(others)]
    assert len({before, *found}) == len(others) + 1


def test_a_group_is_told_by_its_full_resolution(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    for name, chunks in (("0", (10, 10)), ("1", (20, 20))):
        group.create_array(name, shape=IMAGE.shape, dtype="uint16", chunks=chunks)
    assert identity(tmp_path / "a.zarr") == identity(tmp_path / "a.zarr" / "0") != identity(tmp_path / "a.zarr" / "1")
    group.attrs["ome"] = {"version": "0.5"}
    assert identity(tmp_path / "a.zarr") == identity(tmp_path / "a.zarr" / "0")


def test_zarr_arrays_of_one_layout_are_told_apart_by_what_is_stored(tmp_path: Path) -> None:
    def of(store: Any, value: int, **options: Any) -> str:
        array = zarr.create_array(store, shape=(80, 80), dtype="uint8", chunks=(10, 10), **options)
        array[...] = value
        return identity(array)

    for name, options in (("chunks", {}), ("shards", {"shards": (40, 40)})):
        assert of(MemoryStore(), 1, **options) == of(MemoryStore(), 1, **options) != of(MemoryStore(), 2, **options)
        of(tmp_path / name / "a", 1, **options)
        of(tmp_path / name / "b", 2, **options)
        of(tmp_path / name / "c", 1, **options)
        # Where it lies is another part of the fingerprint.
        first, second, third = (identity(tmp_path / name / letter) for letter in "abc")
        assert first == third != second
        (tmp_path / name / "a" / "c" / "0" / "0").unlink()
        assert identity(tmp_path / name / "a") != first


def test_a_large_zarr_array_is_told_apart_by_few_requests() -> None:
    store = CountingStore()
    array = zarr.create_array(store, shape=(10**6, 10**6), dtype="uint8", chunks=(100, 100))
    store.gets.clear()
    identity(array)
    assert 0 < store.gets.total() <= 3 * 8


def test_a_dask_array_is_told_by_its_graph_and_not_read() -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        raise AssertionError("it was read")

    def lazy() -> dask.array.Array:
        array = dask.array.from_array(IMAGE, chunks=10) + 1
        return array.map_blocks(fail, dtype="uint16", meta=np.empty((0, 0), "uint16"))

    assert identity(lazy()) == identity(lazy()) != identity(lazy() + 1)


@pytest.mark.slow
def test_a_dask_array_has_the_same_identity_in_another_process(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=IMAGE, chunks=(10, 10))
    script = (
        "import sys, dask, dask.array, numpy as np, zarr\n"
        "from tilewright.sources.opening import open_source\n"
        "from tilewright.sources.source_identity import source_identity\n"
        "array = dask.array.from_zarr(zarr.open_array(sys.argv[1], mode='r'))\n"
        "more = dask.array.from_delayed(dask.delayed(np.ones)(array.shape), array.shape, 'float64')\n"
        "print(source_identity(open_source(array.map_blocks(lambda block: 3 * block) + more, 'YX')))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.zarr")]
    found = {
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert b"not compared" not in found.pop()


def test_the_metadata_of_an_array_are_all_but_its_attributes() -> None:
    array = zarr.create_array(MemoryStore(), shape=(8, 8), dtype="uint8", dimension_names=["y", "x"])
    before = array_metadata(array)
    array.attrs["a"] = 1
    assert array_metadata(zarr.open_array(array.store)) == before
    assert "attributes" not in before
    assert before["dimension_names"] == ["y", "x"]
    assert json.loads(json.dumps(before)) == before


# --- Models.


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.BatchNorm2d(2))
        self.last = torch.nn.Conv2d(2, 1, 1)
        self.register_buffer("scale", torch.ones(3))

    def forward(self, tiles: torch.Tensor) -> Any:
        return self.last(self.inner(tiles)) * self.scale[0]


class SameNetwork(Network):
    """Another class, the same weights."""


def network(kind: type[Network] = Network, dtype: torch.dtype = torch.float32, more: float = 0) -> Network:
    torch.manual_seed(3)
    model = kind().to(dtype)
    with torch.no_grad():
        model.last.bias += more
    return model


def holding(**tensors: torch.Tensor) -> torch.nn.Module:
    """A model of these weights."""
    model = torch.nn.Module()
    for name, tensor in tensors.items():
        model.register_buffer(name, tensor)
    return model


def test_the_same_weights_are_the_same_model() -> None:
    before = model_identity(network())
    assert before.startswith("Network ")
    loaded = Network()
    assert model_identity(loaded) != before
    loaded.load_state_dict(network().state_dict())
    copies = [deepcopy(network()), pickle.loads(pickle.dumps(network())), network().requires_grad_(False), loaded]
    assert {model_identity(model) for model in (network(), network().eval(), *copies)} == {before}
    # Of another class it is another model.
    other = model_identity(network(SameNetwork))
    assert other != before
    assert other.split()[1] == before.split()[1]


def test_asking_changes_no_model() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model_identity(model)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_one_changed_weight_or_buffer_is_another_model(dtype: torch.dtype) -> None:
    before = model_identity(network(dtype=dtype))
    found = {before}
    names = list(network().state_dict())
    assert {"scale", "inner.1.running_mean", "inner.1.num_batches_tracked", "last.weight"} <= set(names)
    for name in names:
        model = network(dtype=dtype)
        changed = model.state_dict()[name].reshape(-1)[-1:]
        changed += 1
        found.add(model_identity(model))
    assert len(found) == len(names) + 1


def test_weights_of_another_type_shape_or_name_are_another_model() -> None:
    zeros = torch.zeros(4)
    # Most have the same bytes.
    dtypes = [(4, torch.int32), (2, torch.float64), (8, torch.float16), (8, torch.bfloat16)]
    weights: list[dict[str, torch.Tensor]] = [
        *({"a": zeros.reshape(shape)} for shape in ((4,), (2, 2), (4, 1))),
        *({"a": torch.zeros(count, dtype=dtype)} for count, dtype in dtypes),
        *({"a": zeros, "b": more} for more in (zeros, zeros[:0])),
        *({"a": other} for other in (torch.zeros(()), -zeros)),
        {"b": zeros},
        {},
    ]
    assert len({model_identity(holding(**named)) for named in weights}) == len(weights)


INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int64]
OTHERS = [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", [*INTEGERS, *OTHERS], ids=str)
@pytest.mark.parametrize("change", [lambda t: t, torch.t, lambda t: t[::2], lambda t: t[:, 1:7:2]])
def test_weights_are_told_by_value_however_they_lie_in_memory(
    dtype: torch.dtype, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    # More elements than torch prints.
    whole = torch.arange(60 * 50).reshape(60, 50) % 7 == 0
    view = change(whole.to(dtype))
    before = model_identity(holding(a=view))
    assert model_identity(holding(a=view.clone(memory_format=torch.contiguous_format))) == before
    whole[0, 1] = ~whole[0, 1]
    assert model_identity(holding(a=change(whole.to(dtype)))) != before


class WithState(torch.nn.Module):
    """A module that keeps something beside its weights."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def get_extra_state(self) -> Any:
        return self.state


def test_what_a_module_keeps_beside_its_weights_counts_too() -> None:
    states = [0, 1, "1", {"scale": 2.0}, {"scale": 3.0}, {"scale": torch.ones(2)}, {"scale": torch.zeros(2)}, None]
    found = [model_identity(WithState(state)) for state in states]
    assert found == [model_identity(WithState(deepcopy(state))) for state in states]
    assert len(set(found)) == len(found)


def negate(tiles: np.ndarray) -> np.ndarray:
    return -tiles


class Callable_:
    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return tiles

    def method(self, tiles: np.ndarray) -> np.ndarray:
        return tiles


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (negate, rf"{__name__}\.negate, code [0-9a-f]{{16}}"),
        (lambda tiles: tiles, rf"{__name__}\.<lambda>, code [0-9a-f]{{16}}"),
        (functools.partial(np.multiply, 2), r"numpy\.multiply, arguments [0-9a-f]{16}"),
        (functools.partial(negate, tiles=3), rf"{__name__}\.negate, code [0-9a-f]{{16}}, arguments [0-9a-f]{{16}}"),
        (Callable_(), rf"{__name__}\.Callable_, code [0-9a-f]{{16}}, attributes not compared"),
        (Callable_().method, rf"{__name__}\.Callable_\.method, code .* of .*\.Callable_, .*"),
        (Callable_, rf"{__name__}\.Callable_"),
        (np.negative, r"numpy\.negative"),
        (np.vectorize(abs), r"numpy\.vectorize abs"),
        (len, r"builtins\.len"),
        (torch.relu, r"torch\._VariableFunctionsClass\.relu"),
        (None, "None"),
    ],
    ids=lambda value: value if isinstance(value, str) else "model",
)
def test_what_has_no_weights_is_told_by_its_name_and_code(model: Any, name: str) -> None:
    assert re.fullmatch(name, model_identity(model))


FACTOR = 2


def scaled(tiles: np.ndarray) -> np.ndarray:
    """A model that names a constant of its module."""
    return FACTOR * tiles


def functions_of(source: str) -> Any:
    """The function ``model`` of a module that another process may have, or this one after a change."""
    module: dict[str, Any] = {"__name__": "models"}
    exec(source, module)
    return module["model"]


CODE = "SCALE = 2\ndef helper(x):\n    return x + 1\n"
CODE += "def model(tiles, offset=1):\n    return SCALE * helper(tiles) + offset\n"
CHANGES = {
    "its body": CODE.replace("+ offset", "- offset"),
    "a constant in it": CODE.replace("SCALE * helper", "3 * helper"),
    "a default": CODE.replace("offset=1", "offset=2"),
    "a constant of its module": CODE.replace("SCALE = 2", "SCALE = 3"),
    "a function that it calls": CODE.replace("x + 1", "x + 2"),
}


def enclosing(value: Any) -> Callable[[Any], Any]:
    return lambda tiles: value * tiles


def tied(value: float) -> torch.nn.Module:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight[1, 2] = value
    return model


def traced(more: float) -> Any:
    return torch.jit.trace(network(more=more).eval(), torch.ones(1, 1, 4, 4))


def kept(store: Callable[[torch.Tensor], torch.Tensor], value: float) -> torch.nn.Module:
    """A model of more weights than torch prints, of which one has this value."""
    weights = torch.ones(50, 60)
    weights[25, 30] = value
    return holding(a=store(weights))


def quantised(weights: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(weights, 0.1, 0, torch.qint8)


TOLD_APART: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "tied weights": (tied, 1.0, 2.0),
    "a class without weights": (lambda kind: kind(), torch.nn.ReLU, torch.nn.Sigmoid),
    "extents where nothing is on a device": (lambda extent: torch.nn.Linear(2, extent, device="meta"), 2, 3),
    "weights that were traced": (traced, 0, 1),
    "weights behind a partial function": (lambda more: functools.partial(network(more=more), 3), 0, 1),
    "an argument of a partial function": (lambda axis: functools.partial(np.flip, axis=axis), 2, 3),
    "partial functions": (lambda function: functools.partial(function, 2), np.add, np.multiply),
    "an enclosed number": (enclosing, 2, 3),
    "an enclosed array": (enclosing, np.arange(3), np.arange(1, 4)),
    "an enclosed network": (lambda more: enclosing(network(more=more)), 0, 1),
    "functions of NumPy": (lambda name: getattr(np, name), "negative", "positive"),
    **{f"of a function {name}": (functions_of, CODE, changed) for name, changed in CHANGES.items()},
    "sparse weights": (functools.partial(kept, torch.Tensor.to_sparse), 1.0, 3.0),
    "weights in sparse rows": (functools.partial(kept, torch.Tensor.to_sparse_csr), 1.0, 3.0),
    "quantised weights": (functools.partial(kept, quantised), 1.0, 3.0),
    "conjugate weights": (functools.partial(kept, lambda weights: weights.to(torch.complex64).conj()), 1.0, 3.0),
    "negative weights": (functools.partial(kept, torch._neg_view), 1.0, 3.0),
    # Whatever it is, it has a name.
    "of a number and of an array": (lambda value: value.__mul__, np.float32(2), np.ones(3)),
    "of a type and a class": (lambda model: model, str.upper, Network),
    "a class of torch and one without weights yet": (
        lambda model: model,
        torch.nn.Identity,
        torch.nn.LazyConv2d(1, 3),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", TOLD_APART)
def test_models_that_are_made_alike_are_one_model_and_others_are_not(what: str) -> None:
    make, value, other = TOLD_APART[what]
    assert model_identity(make(value)) == model_identity(make(value)) != model_identity(make(other))


def test_a_comment_a_line_or_a_document_do_not_make_another_model() -> None:
    same = "# A comment.\n\n" + CODE.replace("offset=1):", 'offset=1):\n    """A document."""')
    assert model_identity(functions_of(same)) == model_identity(functions_of(CODE))


def test_a_function_has_the_same_identity_where_it_was_sent_to(two_processes: Client) -> None:
    for model in (scaled, lambda tiles: tiles + FACTOR, functools.partial(scaled, out={"a", "b", "c"})):
        assert two_processes.submit(model_identity, model, pure=False).result() == model_identity(model)


def test_an_identity_is_short_and_holds_no_secret() -> None:
    model = functools.partial(negate, token="secret-5f3a", weights=b"5f3a" * 2**20, more=[("key", "secret-5f3a")])
    identity = model_identity(model)
    assert len(identity) < 200
    assert "secret" not in identity
    assert identity != model_identity(functools.partial(negate, token="secret-5f3b", weights=b"5f3a" * 2**20))


class Doubled(Network):
    """The same weights, and another step."""

    def forward(self, tiles: torch.Tensor) -> Any:
        return 2 * super().forward(tiles)


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_predicts_and_is_told_by_its_weights_and_steps() -> None:
    def identity_of(kind: type[Network], more: float) -> str:
        tiles = torch.ones(1, 1, 4, 4)
        predictor = Predictor(torch.export.export(network(kind, more=more).eval(), (tiles,)))
        assert predictor.predict(tiles.numpy()).shape == (1, 1, 4, 4)
        return predictor.facts.identity

    before = identity_of(Network, 0)
    assert identity_of(Network, 0) == before
    assert len({before, identity_of(Network, 1), identity_of(Doubled, 0)}) == 3
