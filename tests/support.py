"""What several test modules share: a stitching in plain NumPy, models that notice wrong crops, stores that count."""

import errno
import gzip
import json
import os
import resource
import struct
import subprocess
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from distributed import Client
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from hypothesis import strategies as st
from zarr.abc.store import Store
from zarr.storage import MemoryStore, WrapperStore

from tests.strategies import LEVELS, in_small_units, plan_with_levels
from tilewright.conversion import to_dtype
from tilewright.coordinator import Coordinator
from tilewright.coordinator.invariants import check_invariants
from tilewright.executors.placement import Placement
from tilewright.executors.serial import SerialExecutor
from tilewright.executors.work import Work
from tilewright.ledger.receipts import UnitReceipt
from tilewright.model.predictor import Predictor
from tilewright.model.tile_prediction import TilePrediction
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.unit_writer import UnitWriter
from tilewright.outputs.arrays import create_arrays, open_arrays
from tilewright.outputs.options import OutputOptions
from tilewright.outputs.output import Output
from tilewright.plan import WritePlan
from tilewright.runs.run import Run
from tilewright.sources.opening import open_source

# --- A stitching in plain NumPy, from the words of the specification alone.

Window = tuple[int, int, int]
"""Where a tile starts to read, and where its valid region starts and stops, on one axis."""


def compact_windows(extent: int, tile: int, overlap: int) -> list[Window]:
    """Tiles start at 0, step, 2 step, ...; the last is shifted back and keeps what the one before it left."""
    if extent <= tile:
        return [(0, 0, extent)]
    starts = [0]
    while starts[-1] + tile < extent:
        starts.append(min(starts[-1] + tile - overlap, extent - tile))
    hi = overlap - overlap // 2
    windows: list[Window] = []
    for start in starts:
        valid_start = windows[-1][2] if windows else 0
        valid_stop = extent if start == starts[-1] else start + tile - hi
        windows.append((start, valid_start, valid_stop))
    return windows


def windows_of(plan: WritePlan) -> list[list[Window]]:
    """The tiles of a plan on each spatial axis, for the layout that has no words of its own."""
    return [
        [(tiling.read(i)[0], *tiling.valid(i)) for i in range(tiling.count)]
        for tiling, name in zip(plan.tilings, plan.axes, strict=True)
        if name in "ZYX"
    ]


def reflected(start: int, stop: int, extent: int) -> np.ndarray:
    """Coordinates from start to stop, of which those outside the axis are mirrored at its ends."""
    if extent == 1:
        return np.zeros(stop - start, int)
    period = 2 * (extent - 1)
    folded = np.arange(start, stop) % period
    return np.where(folded < extent, folded, period - folded)


def stitched(
    image: np.ndarray,
    axes: str,
    tile_size: Sequence[int],
    overlap: Sequence[int],
    model: Any,
    windows: list[list[Window]] | None = None,
) -> np.ndarray:
    """Predict tile by tile, crop, paste; the axes of the result are those of the output."""
    spatial = [name for name in "ZYX" if name in axes]
    order = [axes.index(name) for name in "STC" if name in axes] + [axes.index(name) for name in spatial]
    ordered = image.transpose(order)
    for position, name in enumerate("STC"):
        if name not in axes:
            ordered = np.expand_dims(ordered, position)
    extents = ordered.shape[3:]
    if windows is None:
        windows = [compact_windows(*numbers) for numbers in zip(extents, tile_size, overlap, strict=True)]
    before = [max(0, tile - extent) // 2 for tile, extent in zip(tile_size, extents, strict=True)]
    result = None
    for sample, frame in np.ndindex(*ordered.shape[:2]):
        for tile in product(*windows):
            seen = ordered[sample, frame]
            for axis, (start, _, _) in enumerate(tile):
                first = start - before[axis]
                seen = np.take(seen, reflected(first, first + tile_size[axis], extents[axis]), axis=axis + 1)
            predicted = model(np.ascontiguousarray(seen)[np.newaxis])[0]
            if result is None:
                result = np.empty((*ordered.shape[:2], len(predicted), *extents), predicted.dtype)
            crop = [
                slice(valid_start - start + pad, valid_stop - start + pad)
                for (start, valid_start, valid_stop), pad in zip(tile, before, strict=True)
            ]
            place = [slice(valid_start, valid_stop) for _, valid_start, valid_stop in tile]
            result[sample, frame, :, *place] = predicted[:, *crop]
    assert result is not None
    dropped = [p for p, name in enumerate("STC") if name not in axes and (name != "C" or result.shape[2] == 1)]
    return result.squeeze(tuple(dropped))


def with_axes_of_source(image: np.ndarray, axes: str) -> np.ndarray:
    """Give an image, as `stitched` makes it, the axes of its source; further channels come before the spatial axes."""
    planned = [name for name in "STCZYX" if name in axes or (name == "C" and image.ndim > len(axes))]
    wanted = list(axes)
    if len(planned) > len(wanted):
        wanted.insert(min(map(axes.index, planned[-2:] + ["Z"] * ("Z" in axes))), "C")
    return image.transpose([planned.index(name) for name in wanted])


# --- Models.


class PositionModel:
    """Each element depends on its neighbours in the tile, on its place in the tile and on its channel."""

    def __init__(self, channels: int, dtype: str) -> None:
        self.channels = channels
        self.dtype = np.dtype(dtype)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        spatial = batch.shape[2:]
        ramp = np.zeros(spatial, np.int64)
        for axis, extent in enumerate(spatial):
            shape = [extent if i == axis else 1 for i in range(len(spatial))]
            ramp = ramp + 31**axis * np.arange(extent).reshape(shape)
        outputs = []
        for channel in range(self.channels):
            seen = batch[:, channel % batch.shape[1]].astype(np.int64)
            padded = np.pad(seen, [(0, 0)] + [(1, 1)] * len(spatial))
            blurred = sum(
                padded[:, *(slice(shift, shift + extent) for shift, extent in zip(shifts, spatial, strict=True))]
                for shifts in product(range(3), repeat=len(spatial))
            )
            outputs.append(blurred + 7 * ramp + 101 * channel)
        values = np.stack(outputs, axis=1)
        if self.dtype == "int32":
            # Labels that float32 cannot hold.
            return (values + 2**24 + 1).astype("int32")
        if self.dtype.kind == "f":
            return (values % 40_000 / 16).astype(self.dtype)
        return (values % 251).astype(self.dtype)


@dataclass(frozen=True)
class SeesItsCompany:
    """A model that gives a tile other values in other company, as sums of floats do in their last digits."""

    model: PositionModel

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        predicted = self.model(batch)
        return (predicted + np.asarray(batch.astype(np.int64).sum() % 97).astype(predicted.dtype)).astype(
            predicted.dtype
        )


@dataclass
class CallCounter:
    """A model that returns what it was given, and writes down each call in a file, from whatever process."""

    path: str

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        note(self.path)
        return batch


class LayerError(Exception):
    """What a model raises; it needs two arguments, as the errors of many libraries do."""

    def __init__(self, layer: int, reason: str) -> None:
        super().__init__(layer, reason)
        self.layer = layer
        self.reason = reason

    def __str__(self) -> str:
        return f"layer {self.layer}: {self.reason}"


@dataclass
class BreaksOn:
    """A model that fails on every tile that holds this value."""

    value: int

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        if (batch == self.value).any():
            raise_in_the_third_layer()
        return batch


def raise_in_the_third_layer() -> None:
    raise LayerError(3, "out of luck")


@dataclass
class NotingFactory:
    """Make a model, and write down in a file which process did."""

    path: str

    def __call__(self) -> Any:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        os.close(descriptor)
        return np.positive


def note(path: str) -> None:
    """Add one byte to a file, whole even where several processes do so at once."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b".")
    os.close(descriptor)


def noted(path: str | Path) -> int:
    """How often `note` was called."""
    return Path(path).stat().st_size if Path(path).exists() else 0


# --- Files.


def write_n5(path: Path, image: np.ndarray, block: tuple[int, ...]) -> Path:
    """Write a dataset of N5 from the words of its specification alone; extents and dimensions are in C order here."""
    said = {"dimensions": image.shape[::-1], "blockSize": block[::-1], "dataType": image.dtype.name}
    path.mkdir(parents=True)
    (path / "attributes.json").write_text(json.dumps({**said, "compression": {"type": "gzip", "level": -1}}))
    for position in np.ndindex(*(-(-extent // step) for extent, step in zip(image.shape, block, strict=True))):
        window = tuple(slice(index * step, (index + 1) * step) for index, step in zip(position, block, strict=True))
        extents = image[window].shape[::-1]
        file = path.joinpath(*map(str, position[::-1]))
        file.parent.mkdir(parents=True, exist_ok=True)
        header = struct.pack(f">HH{len(extents)}I", 0, len(extents), *extents)
        file.write_bytes(header + gzip.compress(image[window].astype(image.dtype.newbyteorder(">")).tobytes()))
    return path


def write_hdf5(path: Path, image: np.ndarray, dataset: str = "volumes/raw", **options: Any) -> Path:
    """Write a dataset of an HDF5 file, and return its address."""
    with pytest.importorskip("h5py").File(path, "a") as file:
        file.create_dataset(dataset, data=image, **options)
    return Path(f"{path}:/{dataset}")


# --- Runs.


@dataclass(frozen=True)
class Case:
    """One image, one plan, one way to store it."""

    image: np.ndarray
    axes: str
    plan: WritePlan
    model: Any
    compressors: Any = None
    zarr_format: int = 3
    batch_size: int = 1

    def expected(self) -> np.ndarray:
        windows = None if self.plan.layout == "compact" else windows_of(self.plan)
        return stitched(self.image, self.axes, self.plan.tile_size, self.plan.overlap, self.model, windows)

    def levels(self) -> list[np.ndarray]:
        """What each level must hold: blocks of the level below, cut out and reduced one by one."""
        levels = [self.expected()]
        for factors in self.plan.factors:
            levels.append(coarser(levels[-1], factors, self.plan.reduction))
        return levels

    def as_stored(self, level: np.ndarray) -> np.ndarray:
        """Give a level the axes that are stored."""
        return level if self.plan.stored_axes is None else with_axes_of_source(level, self.axes)

    def create(self, destination: Any) -> tuple[zarr.Array, ...]:
        options, output = OutputOptions(self.compressors, zarr_format=self.zarr_format), Output.at(destination)
        return (create_arrays if output.is_vacant else open_arrays)(output, self.plan, options)

    def prediction(self) -> TilePrediction:
        return TilePrediction(open_source(self.image, self.axes), Predictor(self.model), self.batch_size)


def coarser(image: np.ndarray, factors: Sequence[int], reduction: str) -> np.ndarray:
    """Reduce each block of an image by itself: the slow way, which is plainly right."""
    counts = [-(-extent // factor) for extent, factor in zip(image.shape, factors, strict=True)]
    made = np.empty(counts, image.dtype)
    for index in np.ndindex(*counts):
        block = image[tuple(slice(i * factor, (i + 1) * factor) for i, factor in zip(index, factors, strict=True))]
        if reduction == "mode":
            values, count = np.unique(block, return_counts=True)
            made[index] = values[count.argmax()]
        else:
            mean = block.astype("float64").mean()
            made[index] = mean if image.dtype.kind == "f" else np.rint(mean)
    return made


class Receipts(list[UnitReceipt]):
    """A recorder that keeps the receipts of a run, and the units that were given up."""

    def __init__(self) -> None:
        super().__init__()
        self.units_given_up: list[int] = []

    def written(self, receipt: UnitReceipt) -> None:
        self.append(receipt)

    def given_up(self, unit: int) -> None:
        self.units_given_up.append(unit)

    def flush(self) -> None:
        pass


def run(case: Case, destination: Any, client: Client | None = None, kept: Collection[int] = ()) -> zarr.Array:
    """Predict and write a case, but for units that are kept: one after the other in this thread, or on a cluster."""
    arrays = case.create(destination)
    writer = UnitWriter(case.plan, tuple(map(ObjectEncoder, arrays)))
    receipts = Receipts()
    coordinator = Coordinator(case.plan, written=kept)
    prediction = case.prediction()
    if client is None:
        Run(coordinator, SerialExecutor(Work(case.plan, writer, prediction)), receipts).predict_and_write()
    else:
        with Placement(client, prediction) as placement:
            executor = placement.executor(case.plan, writer)
            try:
                Run(coordinator, executor, receipts).predict_and_write()
            finally:
                executor.close()
    check_invariants(coordinator)
    assert coordinator.is_complete
    assert sorted(receipt.unit for receipt in receipts) == sorted(set(range(case.plan.unit_count)) - set(kept))
    assert coordinator.peak_live_nbytes <= case.plan.peak_live_nbytes
    assert coordinator.peak_coarser_nbytes <= case.plan.coarser_nbytes
    return arrays[0]


COMPRESSORS_3 = [None, "auto", zarr.codecs.BloscCodec(cname="lz4", clevel=3, shuffle="shuffle")]


def running_clusters() -> set[SpecCluster]:
    """The clusters that this process has opened and not closed."""
    return {made for made in SpecCluster._instances if made.status is Status.running}


@st.composite
def cases(draw: st.DrawFn, spatial_axes: tuple[str, ...] = ("YX", "ZYX")) -> Case:
    """Random shapes, tiles, overlaps, chunks, shards, types, channels, samples, frames, layouts and formats."""
    import numcodecs

    spatial = draw(st.sampled_from(spatial_axes))
    names = draw(st.permutations(draw(st.sampled_from(["", "S", "T", "C", "ST", "SC"])) + spatial))
    axes = "".join(names)
    longest = 20 if len(spatial) == 2 else 11
    shape = [draw(st.integers(1, 3)) if name in "STC" else draw(st.integers(1, longest)) for name in axes]
    tile_size = [draw(st.integers(1, 8)) for _ in spatial]
    overlap = [draw(st.integers(0, tile - 1)) for tile in tile_size]
    dtype = draw(st.sampled_from(["float32", "float16", "uint8", "int32"]))
    source_channels = shape[axes.index("C")] if "C" in axes else 1
    channels = draw(st.sampled_from([source_channels, 1, 2, 3]))
    zarr_format = draw(st.sampled_from([3, 3, 2]))
    output_axis_count = len(axes) + ("C" not in axes and channels > 1)
    chunks: Any = "auto"
    shards: Any = None
    if draw(st.booleans()):
        chunks = [draw(st.integers(1, 7)) for _ in range(draw(st.sampled_from([output_axis_count, len(spatial)])))]
        if zarr_format == 3 and draw(st.booleans()):
            shards = [chunk * draw(st.integers(1, 3)) for chunk in chunks]
    plan = plan_with_levels(
        draw(LEVELS),
        shape=shape,
        axes=axes,
        tile_size=tile_size,
        overlap=overlap,
        layout=draw(st.sampled_from(["compact", "aligned", "auto"])),
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        channels=channels,
        labels=draw(st.booleans()) and not dtype.startswith("float"),
        output_axes=draw(st.sampled_from(["STCZYX", "STCZYX", "source"])),
    )
    if draw(st.booleans()):
        plan = in_small_units(plan, draw(st.sampled_from([1, 500, 2**20])))
    image = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 60_000, shape).astype("uint16")
    blosc_2 = numcodecs.Blosc("zstd", 1, numcodecs.Blosc.BITSHUFFLE)
    return Case(
        image,
        axes,
        plan,
        PositionModel(channels, dtype),
        draw(st.sampled_from(COMPRESSORS_3 if zarr_format == 3 else [None, "auto", blosc_2])),
        zarr_format,
        draw(st.integers(1, 3)),
    )


# --- What is stored.


def tree(folder: str | Path) -> dict[str, bytes]:
    """Every file below a folder, and what is in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def stored_files(folder: str | Path) -> dict[str, bytes]:
    """Every file of an output, without what its attributes tell of call and model: others may store the same."""
    files = tree(folder)
    document = json.loads(files["zarr.json"])
    assert document["attributes"]["tilewright"].pop("provenance")
    return files | {"zarr.json": json.dumps(document).encode()}


def objects(store: MemoryStore, *, prefix: str = "") -> dict[str, bytes]:
    """Every data object of a store in memory, by its key."""
    return {
        key: value.to_bytes()
        for key, value in store._store_dict.items()
        if key.startswith(prefix) and not is_metadata(key)
    }


def identities(files: list[Path]) -> dict[Path, tuple[int, int]]:
    """What tells whether a file was written again: also with the same bytes it would be another one."""
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """Let the system refuse what any file of this process would have beyond this length, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Disk:
    """A small disk of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, nbytes: int) -> None:
        self.path.mkdir()
        self._call("mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(self.path))

    def enlarge(self, nbytes: int) -> None:
        self._call("mount", "-o", f"remount,size={nbytes}", str(self.path))

    def unmount(self) -> None:
        self._call("umount", "-l", str(self.path))

    def fill(self, *, but_nbytes: int = 0) -> Path:
        """Leave no more than some bytes, and return the file that takes the rest."""
        filler = self.path / "filler"
        descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
        try:
            free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize - but_nbytes
            while free > 0:
                free -= os.write(descriptor, bytes(min(free, 2**16)))
        finally:
            os.close(descriptor)
        return filler

    @staticmethod
    def _call(*command: str) -> None:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip(f"there is no {command[0]} here")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"a small disk cannot be mounted here: {error.stderr.strip()}")


def is_metadata(key: str) -> bool:
    return key.rsplit("/", 1)[-1] in {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}


def read_by_tensorstore(array_folder: str | Path, zarr_format: int) -> np.ndarray:
    spec = {
        "driver": "zarr3" if zarr_format == 3 else "zarr",
        "kvstore": {"driver": "file", "path": str(array_folder)},
    }
    return tensorstore.open(spec).result().read().result()


def read_level(folder: str | Path, level: int, zarr_format: int = 3) -> np.ndarray:
    """Read one level of an output; images of samples are stacked along an axis of their own."""
    folder = Path(folder)
    if not (folder / "OME").exists():
        return read_by_tensorstore(folder / f"{level}", zarr_format)
    samples = zarr.open_group(folder / "OME", mode="r").attrs.asdict()
    paths = samples.get("ome", samples)["series"]
    return np.stack([read_by_tensorstore(folder / path / f"{level}", zarr_format) for path in paths])


class CountingStore(WrapperStore[MemoryStore]):
    """A store in memory that counts what is done to each key."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__(MemoryStore() if store is None else store)
        self.sets: Counter[str] = Counter()
        self.gets: Counter[str] = Counter()
        self.deletes: Counter[str] = Counter()

    def _with_store(self, store: MemoryStore) -> "CountingStore":
        # What is done through a read-only view counts too.
        view = type(self)(store)
        view.sets, view.gets, view.deletes = self.sets, self.gets, self.deletes
        return view

    async def set(self, key: str, value: Any) -> None:
        self.sets[key] += 1
        await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        self.sets[key] += 1
        await self._store.set_if_not_exists(key, value)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.gets[key] += 1
        return await self._store.get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        ranges = list(key_ranges)
        self.gets.update(key for key, _ in ranges)
        return await self._store.get_partial_values(prototype, ranges)

    async def delete(self, key: str) -> None:
        self.deletes[key] += 1
        await self._store.delete(key)


class FullStore(WrapperStore[MemoryStore]):
    """A store that takes some objects, then has no space left."""

    def __init__(self, store: MemoryStore | None = None, room: int = 2) -> None:
        super().__init__(MemoryStore() if store is None else store)
        self.room = room

    async def set(self, key: str, value: Any) -> None:
        if not is_metadata(key):
            if self.room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= 1
        await self._store.set(key, value)


class ForeignStore(Store):
    """A store of a class of which nothing is known, and which says nothing of where it keeps what it is given."""

    def __init__(self, held: Store, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self._held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ForeignStore) and other._held == self._held

    __hash__ = None  # type: ignore[assignment]

    def with_read_only(self, read_only: bool = False) -> "ForeignStore":
        return ForeignStore(self._held, read_only=read_only)


def _passing_on(name: str) -> Any:
    def method(self: ForeignStore, *args: Any, **keywords: Any) -> Any:
        return getattr(self._held, name)(*args, **keywords)

    return method


for _name in Store.__abstractmethods__ - {"__eq__"}:
    _value = getattr(MemoryStore, _name)
    setattr(ForeignStore, _name, _value if isinstance(_value, bool) else _passing_on(_name))
ForeignStore.__abstractmethods__ = frozenset()


__all__ = [
    "COMPRESSORS_3",
    "BreaksOn",
    "CallCounter",
    "Case",
    "CountingStore",
    "Disk",
    "ForeignStore",
    "FullStore",
    "LayerError",
    "NotingFactory",
    "PositionModel",
    "Receipts",
    "SeesItsCompany",
    "cases",
    "compact_windows",
    "is_metadata",
    "note",
    "noted",
    "objects",
    "read_by_tensorstore",
    "read_level",
    "run",
    "running_clusters",
    "stitched",
    "to_dtype",
    "tree",
    "windows_of",
]


class Recording:
    """An array that is read lazily, and remembers the windows that were read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.windows: list[tuple[tuple[int, int], ...]] = []

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        self.windows.append(tuple((part.start, part.stop) for part in slices))
        return self.array[slices]
