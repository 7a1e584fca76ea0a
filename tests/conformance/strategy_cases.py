"""Strategies as the conformance suite knows them: how each is made, what it takes, and where it writes what."""

import functools
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
import torch
import zarr
from hypothesis import strategies as st
from tests.support import PositionModel, read_level, stitched, with_axes_of_source

import tilewright as tw
from tilewright.images.lazy_image import takes_lazy_image
from tilewright.plan.choice import group

RNG = np.random.default_rng(12)
IMAGE = RNG.integers(0, 60_000, (40, 48)).astype("uint16")
STACK = np.stack([IMAGE, IMAGE[::-1], IMAGE // 2])
TILE, OVERLAP = (16, 16), (5, 4)
Item = tuple[torch.Tensor, Any]
Model = Callable[[np.ndarray], Any]
Make = Callable[..., Any]

# --- Functions that write. They reach other processes by the name of this module.


def save(*, file_path: Path, img: Any, **options: Any) -> None:
    """Write an image and the options, and note the process."""
    assert isinstance(file_path, Path)
    assert type(img) is np.ndarray
    with Path(f"{file_path}.calls").open("a") as calls:
        calls.write(f"{os.getpid()}\n")
    with file_path.open("wb") as file:
        np.save(file, img)
    if options:
        file_path.with_name(f"{file_path.name}.json").write_text(json.dumps(options, sort_keys=True))


def fail_for_b(*, file_path: Path, img: Any) -> None:
    if file_path.stem == "b":
        raise ValueError("no ink left")
    save(file_path=file_path, img=img)


def save_slowly(*, file_path: Path, img: Any) -> None:
    """Write an image more slowly than the next one is predicted."""
    threading.Event().wait(0.1)
    save(file_path=file_path, img=img)


@takes_lazy_image
def save_lazily(*, file_path: Path, img: Any, scheduler: str | None = "synchronous", chunked: bool = False) -> None:
    """Compute an image, by that scheduler or by the one that is there, and write it."""
    assert isinstance(img, dask.array.Array)
    assert img.npartitions > chunked
    if scheduler is None and multiprocessing.parent_process() is None:
        # A worker in this process would make its client that of all tests to come.
        scheduler = "synchronous"
    computed = img.compute() if scheduler is None else img.compute(scheduler=scheduler)
    assert (computed.shape, computed.dtype) == (img.shape, img.dtype)
    save(file_path=file_path, img=computed)


WRITERS: dict[str, Any] = {
    "eager": save,
    "lazy, synchronous": save_lazily,
    "lazy, as it comes": functools.partial(save_lazily, scheduler=None),
    "lazy, through two partials": functools.partial(functools.partial(save_lazily, chunked=False), scheduler="threads"),
}


def writers_of(path: Path) -> list[int]:
    """Return the process of each call that wrote a file."""
    return [int(line) for line in Path(f"{path}.calls").read_text().split()]


def made_of_zarr(client: Any = None, *, extension: str = ".zarr", **options: Any) -> tw.WriteTilesZarr:
    return tw.WriteTilesZarr(client, **{"if_exists": "overwrite", "compressors": None} | options)


def made_of(strategy_type: Any) -> Callable[..., Any]:
    def make(client: Any = None, *, extension: str = ".npy", write_func: Any = save, **options: Any) -> Any:
        write_func = {".zarr": tw.write_zarr, ".tif": tw.write_tiff}.get(extension, write_func)
        return strategy_type(write_func, extension, options.pop("kwargs", {}), client=client, **options)

    return make


def identity(batch: np.ndarray) -> np.ndarray:
    return batch


@dataclass(frozen=True)
class Kind:
    """A strategy, and what distinguishes it from the others."""

    make: Callable[..., Any]
    is_tiled: bool
    options: dict[str, st.SearchStrategy[Any]] = field(default_factory=dict)

    @property
    def is_zarr(self) -> bool:
        """Whether outputs are arrays of the axes of their sources, begun with the first tile; else images, at once."""
        return self.make is made_of_zarr

    @property
    def dataset_type(self) -> str:
        return "IterableTiledPredDataset" if self.is_tiled else "IterablePredDataset"

    def dataset(self, sources: Any = IMAGE, axes: str = "YX", **options: Any) -> Any:
        if self.is_tiled:
            return tw.IterableTiledPredDataset(sources, axes, **{"tile_size": TILE, "overlaps": OVERLAP} | options)
        return tw.IterablePredDataset(sources, axes, **{k: v for k, v in options.items() if k == "dtype"})

    def output(self, label: str | int) -> str:
        """Return the name of the output of a file, without its extension, or of an array of that number."""
        if self.is_zarr:
            return f"prediction.zarr/{label}" if isinstance(label, int) else f"{label}.zarr"
        return f"prediction_{label}.npy" if isinstance(label, int) else f"{label}.npy"

    def read(self, folder: Path) -> dict[str, np.ndarray]:
        """Return all outputs in a folder."""
        if not self.is_zarr:
            return {str(path.relative_to(folder)): np.load(path) for path in folder.rglob("*.npy")}
        documents = {path.parent: json.loads(path.read_text()) for path in folder.rglob("zarr.json")}
        outputs = [group for group, document in documents.items() if "tilewright" in document.get("attributes", {})]
        # The array of a run that has failed may be missing.
        begun = [group for group in outputs if {group / "0", group / "0" / "0"} & set(documents)]
        return {str(group.relative_to(folder)): read_level(group, 0) for group in begun}

    def expected(
        self, dataset: Any, image: np.ndarray, model: Model = identity, number: int = 0, order: str = "STCZYX"
    ) -> np.ndarray:
        """Return what must be written of an image of a dataset, by a stitching in plain NumPy."""
        axes, extents = dataset.axes, dict(zip(dataset.axes, image.shape, strict=True))
        spatial = [extents[name] for name in "ZYX" if name in axes]
        tiles, windows = (spatial, [0] * len(spatial)), None
        if self.is_tiled:
            tiles = (dataset.tile_size, dataset.overlaps)
            if max(dataset.borders) > 1:
                # Tiles with borders have no words of their own in the specification: the dataset says where they lie.
                tilings = dataset.images[number].tilings(1)[-len(spatial) :]
                windows = [[(axis.read(i)[0], *axis.valid(i)) for i in range(axis.count)] for axis in tilings]
        result = stitched(image.astype(dataset.dtype), axes, *tiles, model, windows)
        if order == "source":
            return np.ascontiguousarray(with_axes_of_source(result, axes))
        if self.is_zarr:
            return result
        samples = extents.get("S", 1) * extents.get("T", 1)
        return result.reshape(-1, *spatial) if samples == 1 else result.reshape(samples, -1, *spatial)

    def check(self, folder: Path, expected: dict[str | int, np.ndarray], *, whole: bool = True) -> None:
        """Compare the outputs in a folder, which may hold parts of others where a run was not whole."""
        written = self.read(folder)
        names = {self.output(label) for label in expected}
        assert names <= set(written) if self.is_zarr and not whole else names == set(written)
        # Beside outputs there are ledgers, and notes of calls, and nothing else.
        found = {path.name.removesuffix(".ledger").removesuffix(".calls") for path in folder.iterdir()}
        assert not whole or found == {Path(name).parts[0] for name in names}
        for label, image in expected.items():
            np.testing.assert_array_equal(written[self.output(label)], image, strict=True)
            assert written[self.output(label)].tobytes() == image.tobytes()
            assert self.is_zarr or len(writers_of(folder / self.output(label))) == 1


ZARR = Kind(
    made_of_zarr,
    is_tiled=True,
    options={
        "chunks": st.sampled_from(["auto", 1, 3, 7]),
        "shards": st.sampled_from(["auto", None]),
        "window_nbytes": st.sampled_from([None, 1, 300, 2000]),
        "axes": st.sampled_from(["STCZYX", "source"]),
    },
)
IMAGE_OPTIONS = {
    "write_func": st.sampled_from([save, save_lazily]),
    "memory_nbytes": st.sampled_from([None, 1, 5000]),
    "axes": st.sampled_from(["STCZYX", "source"]),
}
CACHE = Kind(made_of(tw.CacheTiles), is_tiled=True, options=IMAGE_OPTIONS)
WHOLE = Kind(made_of(tw.WriteImage), is_tiled=False, options=IMAGE_OPTIONS)
KINDS = {"WriteTilesZarr": ZARR, "CacheTiles": CACHE, "WriteImage": WHOLE}
CLIENTS = [None, "embedded", "two_processes"]
EXAMPLES = {None: 25, "embedded": 20, "two_processes": 8}


# --- What stands in for a trainer: it has data loaders, and hands over one batch after the other.


def trainer_of(*datasets: Any, num_workers: int = 0) -> SimpleNamespace:
    # Foreign datasets may be of any class, and nothing is asked of a loader but its dataset and its workers.
    loaders = [SimpleNamespace(dataset=dataset, num_workers=num_workers) for dataset in datasets]
    return SimpleNamespace(predict_dataloaders=loaders if len(loaders) > 1 else loaders[0])


def batched(items: Sequence[Item], batch_size: int) -> list[Sequence[Item]]:
    return [items[start : start + batch_size] for start in range(0, len(items), batch_size)]


def collated(items: Sequence[Item]) -> tuple[torch.Tensor, Any]:
    """Return a batch as data loaders make it: tiles and their information, or samples and a tensor of numbers."""
    values, where = zip(*items, strict=True)
    inputs = torch.stack([torch.as_tensor(one) for one in values])
    return inputs, list(where) if hasattr(where[0], "stitch_coords") else torch.tensor(where)


class Memory:
    """The memory in which a model returns its predictions: its own each time, or one of so many in turn."""

    def __init__(self, count: int) -> None:
        self.buffers = [np.empty(2**20, "uint8") for _ in range(count)]

    @contextmanager
    def holding(self, values: Any) -> Iterator[Any]:
        if not self.buffers:
            yield values
            return
        self.buffers.append(self.buffers.pop(0))
        held = self.buffers[0][: values.nbytes].view(values.dtype).reshape(values.shape)
        held[...] = values
        yield held
        held[...] = 99


def give(strategy: Any, dataset: Any, folder: Any, prediction: Any, batch: Any, loader: int = 0) -> None:
    """Hand over one batch, all arguments by their place."""
    trainer = trainer_of(*(dataset if isinstance(dataset, list) else [dataset]))
    strategy.write_batch(trainer, None, prediction, None, batch, 0, loader, folder)


def hand_over(
    strategy: Any,
    dataset: Any,
    folder: Any,
    items: Sequence[Item] | None = None,
    *,
    model: Model = identity,
    batch_size: int = 3,
    memory: Memory | None = None,
    loader: int = 0,
) -> None:
    """Predict and hand over what a dataset yields, or what is given; a list of datasets is one of data loaders."""
    datasets = dataset if isinstance(dataset, list) else [dataset]
    for batch in batched(list(datasets[loader]) if items is None else items, batch_size):
        inputs, where = collated(batch)
        with (memory or Memory(0)).holding(model(inputs.numpy())) as values:
            strategy.write_batch(
                trainer=trainer_of(*datasets),
                pl_module=None,
                prediction=(values, where) if isinstance(where, list) else values,
                batch_indices=None,
                batch=[inputs, where],
                batch_idx=0,
                dataloader_idx=loader,
                dirpath=folder,
            )


def write(strategy: Any, dataset: Any, folder: Any, items: Sequence[Item] | None = None, **options: Any) -> Any:
    hand_over(strategy, dataset, folder, items, **options)
    return strategy.finalize()


def as_workers_yield(items: Sequence[Any], worker_count: int = 3) -> list[Any]:
    """Return items in the order of several data-loader workers, each of which has a share of the images."""
    share = -(-len(items) // worker_count)
    shares = [items[start : start + share] for start in range(0, len(items), share)]
    return [part[index] for index in range(share) for part in shares if index < len(part)]


# --- Sources.


def tiff(path: Path, image: np.ndarray = IMAGE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, photometric="minisblack")
    return path


def stored(path: Path, image: np.ndarray = IMAGE, group: str = "") -> Path:
    """Write a Zarr array, or a group that has one."""
    zarr.create_array(path / group, shape=image.shape, dtype=image.dtype, chunks=(16,) * image.ndim)[...] = image
    if group:
        zarr.open_group(path, mode="a")
    return path


# --- Runs.


@contextmanager
def small_units() -> Iterator[None]:
    """Write small images in many units, as large images are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "SMALL_UNIT_NBYTES", 1)
        yield


@dataclass(frozen=True)
class ARun:
    """Images of one or two data loaders, a model, and the order in which the batches come."""

    datasets: list[Any]
    images: list[list[np.ndarray]]
    model: PositionModel
    options: dict[str, Any]
    batches: list[tuple[int, Sequence[Item]]]
    memories: int
    is_in_order: bool


@st.composite
def runs(draw: st.DrawFn, kind: Kind) -> ARun:
    """Some images of the same axes in one or two data loaders; their tiles or samples come in any order, some twice."""
    spatial = draw(st.sampled_from(["YX", "ZYX"]))
    axes = "".join(draw(st.permutations(draw(st.sampled_from(["", "S", "T", "C", "ST", "SC"])) + spatial)))
    batch_size = draw(st.sampled_from([1, 2, 4, 100]))
    extent = st.integers(1, 20 if spatial == "YX" else 9)
    # What is in one batch has one number of channels, and samples that are not cut have one shape.
    fixed = {"C": draw(st.integers(1, 3))}
    if not kind.is_tiled and batch_size > 1:
        fixed |= {name: draw(extent) for name in spatial}
    images, datasets = [], []
    for loader in range(draw(st.sampled_from([1, 1, 2]))):
        tile_size = [draw(st.integers(1, 8)) for _ in spatial]
        overlaps = [draw(st.integers(0, tile - 1)) for tile in tile_size]
        borders = draw(st.sampled_from([None, [draw(st.integers(1, 6)) for _ in spatial]]))
        rng = np.random.default_rng(loader)
        shapes = [
            [fixed.get(name) or draw(st.integers(1, 2) if name in "ST" else extent) for name in axes]
            for _ in range(draw(st.integers(1, 3)))
        ]
        images.append([rng.integers(0, 60_000, shape).astype("uint16") for shape in shapes])
        tiles = {"tile_size": tile_size, "overlaps": overlaps, "borders": borders}
        datasets.append(kind.dataset(images[-1], axes, **tiles))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    is_in_order = draw(st.booleans())
    batches: list[tuple[int, Sequence[Item]]] = []
    for loader, dataset in enumerate(datasets):
        items = list(dataset)
        if not is_in_order:
            order = rng.permutation([*range(len(items)), *rng.integers(0, len(items), draw(st.integers(0, 4)))])
            items = [items[index] for index in order]
        batches.extend((loader, batch) for batch in batched(items, batch_size))
    if not is_in_order:
        batches = [batches[index] for index in rng.permutation(len(batches))]
    options = {name: draw(values) for name, values in kind.options.items()}
    if isinstance(options.get("chunks"), int):
        options["chunks"] = [draw(st.integers(1, options["chunks"])) for _ in spatial]
    model = PositionModel(draw(st.integers(1, 3)), draw(st.sampled_from(["float32", "float16", "uint8", "int32"])))
    return ARun(datasets, images, model, options, batches, draw(st.sampled_from([0, 0, 1, 2])), is_in_order)


def volume_of(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(0, 60_000, shape).astype(dtype)


def ones_and_zeros(batch: np.ndarray) -> np.ndarray:
    return batch % 2 == 1


def not_finite() -> np.ndarray:
    image = IMAGE.astype("float32")
    image[3, 4], image[20, 30], image[39, 47] = np.nan, np.inf, -np.inf
    return image


@dataclass(frozen=True)
class Case:
    """Images of one data loader that a strategy must not get wrong."""

    images: Sequence[np.ndarray]
    axes: str = "YX"
    model: Model = field(default=PositionModel(1, "float32"))
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 4
    memories: int = 0


ZYX_TILES = {"tile_size": (3, *TILE), "overlaps": (1, *OVERLAP)}
CASES: dict[str, Case] = {
    "images that come interleaved": Case([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]]),
    "one memory for all predictions": Case([IMAGE, IMAGE[::-1], IMAGE // 2], batch_size=1, memories=1),
    "two memories in turn": Case([IMAGE, IMAGE[::-1], IMAGE // 2], batch_size=1, memories=2),
    "images in one batch": Case([volume_of(9, 11) for _ in range(12)], batch_size=100),
    "images of one tile": Case([IMAGE[:16, number : number + 16] for number in range(5)], batch_size=2),
    "one element": Case([IMAGE[:1, :1]]),
    "smaller than the tile on an axis": Case([IMAGE[:3], IMAGE[3:6]]),
    "as large as the tile": Case([IMAGE[:16, :16]]),
    "smaller and larger than the tile": Case([IMAGE[:15, :17]]),
    "frames and samples": Case([volume_of(26, 3, 21, 2)], "XTYS", PositionModel(3, "float32")),
    "frames, channels and samples": Case(
        [volume_of(3, 2, 2, 21, 26)], "TCSYX", PositionModel(2, "int32"), batch_size=5
    ),
    "volumes": Case([volume_of(2, 5, 21, 26)], "SZYX", PositionModel(3, "float32"), ZYX_TILES),
    "channels of volumes": Case([volume_of(4, 2, 9, 10)], "ZCYX", identity, ZYX_TILES),
    "one channel of three": Case([volume_of(21, 26, 3)], "YXC", PositionModel(1, "float32")),
    "five channels of three": Case([volume_of(3, 21, 26)], "CYX", PositionModel(5, "float32")),
    "five channels of none": Case([volume_of(21, 26)], "YX", PositionModel(5, "float32")),
    "labels that float32 cannot hold": Case(
        [(2**24 + 1 + np.arange(40 * 48)).reshape(40, 48).astype("int32")], model=identity, options={"dtype": "int32"}
    ),
    "not a number": Case([not_finite()], model=identity),
    "borders": Case([IMAGE], options={"borders": (8, 8)}),
    "borders in the middle of tiles": Case([IMAGE], options={"borders": (12, 5)}),
    "bool": Case([IMAGE], model=ones_and_zeros),
    **{
        dtype: Case([volume_of(20, 24) % 120], model=identity, options={"dtype": dtype})
        for dtype in ("float16", "float64", "uint8", "int16", "int64")
    },
}
