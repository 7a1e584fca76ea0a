"""Both datasets yield each sample or tile once, with its number or place, and let go of what they have read."""

import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
import torch
import zarr
from tests.support import Recording
from torch.utils.data import DataLoader
from zarr.storage import MemoryStore

import tilewright as tw
from tilewright.errors import GeometryError, SourceError

RNG = np.random.default_rng(23)
EXTENTS = {"S": 3, "T": 2, "C": 2, "Z": 4, "Y": 12, "X": 9}
# Machines with few processors get the advice of torch.
MANY_WORKERS = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")

Make = Callable[..., Any]


def image_of(axes: str) -> np.ndarray:
    return RNG.integers(0, 60_000, [EXTENTS[name] for name in axes]).astype("uint16")


def samples_of(image: np.ndarray, axes: str) -> np.ndarray:
    """The samples, SC(Z)YX, of which number s * T + t is frame t of sample s."""
    for name in "STC":
        if name not in axes:
            image, axes = image[np.newaxis], name + axes
    ordered = image.transpose([axes.index(name) for name in "STCZYX" if name in axes])
    return ordered.reshape(-1, *ordered.shape[2:])


def tiff(path: Path, image: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, image, photometric="minisblack", **options)
    return path


def stored(path: Path | MemoryStore, image: np.ndarray) -> Any:
    array = zarr.create_array(path, shape=image.shape, dtype=image.dtype, chunks=(3,) * image.ndim)
    array[...] = image
    return path if isinstance(path, Path) else array


def mapped(path: Path, image: np.ndarray) -> np.memmap:
    image.tofile(path)
    return np.memmap(path, image.dtype, "r+", shape=image.shape)


KINDS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "tiff": lambda image, folder: tiff(folder / "a.tif", image),
    "compressed tiff": lambda image, folder: str(tiff(folder / "b.tiff", image, compression="zlib")),
    "tiff of the other byte order": lambda image, folder: tiff(folder / "d.tif", image, byteorder=">"),
    "zarr": lambda image, folder: stored(folder / "c.zarr", image),
    "zarr array": lambda image, folder: stored(MemoryStore(), image),
    "dask": lambda image, folder: dask.array.from_array(image, chunks=3),
    "numpy": lambda image, folder: image,
    "memory map": lambda image, folder: mapped(folder / "raw", image),
}


def tiled(sources: Any, axes: str, **options: Any) -> tw.IterableTiledPredDataset:
    spatial = sum(name in "ZYX" for name in axes)
    return tw.IterableTiledPredDataset(sources, axes, (4,) * spatial, (2,) * spatial, **options)


DATASETS = pytest.mark.parametrize("make", [tw.IterablePredDataset, tiled], ids=["untiled", "tiled"])


def content(items: Any) -> dict[Any, bytes]:
    """All that a dataset yields, by its number or tile information; nothing may come twice."""
    found = [(key, value.numpy().tobytes()) for value, key in items]
    assert len(dict(found)) == len(found)
    return dict(found)


def sample_number(key: Any) -> int:
    return key if isinstance(key, int) else key.sample_id


# --- What is yielded.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", ["YX", "ZYX", "CYX", "XY", "YXC", "TSYX", "XTCZYS", "STCZYX"])
def test_each_sample_of_any_source_is_yielded_with_its_number(kind: str, axes: str, tmp_path: Path) -> None:
    image = image_of(axes)
    expected = samples_of(image, axes)
    dataset = tw.IterablePredDataset(KINDS[kind](image, tmp_path), axes, dtype="uint16")
    yielded = list(dataset)
    assert [number for _, number in yielded] == list(range(len(expected)))
    for (sample, number), values in zip(yielded, expected, strict=True):
        assert type(number) is int
        assert isinstance(sample, torch.Tensor)
        assert sample.is_contiguous()
        np.testing.assert_array_equal(sample.numpy(), values)


@DATASETS
def test_samples_are_counted_through_all_sources(make: Make) -> None:
    images = [RNG.random((count, 4, 4)) for count in (2, 1, 3)]
    dataset = make(images, "SYX", dtype="float64")
    assert [image.first_sample for image in dataset.images] == [0, 2, 3]
    values, keys = zip(*dataset, strict=True)
    assert list(map(sample_number, keys)) == list(range(6))
    np.testing.assert_array_equal(torch.cat(values).numpy(), np.concatenate(images))


def test_images_of_several_sizes_go_together_one_at_a_time() -> None:
    images = [RNG.random((5, 6)), RNG.random((9, 2))]
    dataset = tw.IterablePredDataset(images, "YX", dtype="float64")
    for (batch, numbers), image in zip(DataLoader(dataset, batch_size=1), images, strict=True):
        assert numbers.shape == (1,)
        np.testing.assert_array_equal(batch[0, 0].numpy(), image)


@DATASETS
@pytest.mark.parametrize("dtype", [None, "float32", "float16", "float64", "uint8", "int32", "int64"])
def test_values_have_the_data_type_that_is_asked_for_and_float32_by_default(make: Make, dtype: str | None) -> None:
    # Labels that float32 cannot hold.
    first = 2**24 + 1 if dtype in {"int32", "int64", "float64"} else 0
    image = np.arange(first, first + 16, dtype="int32").reshape(4, 4)
    [(value, _)] = make(image, "YX", **{} if dtype is None else {"dtype": dtype})
    assert value.dtype == getattr(torch, dtype or "float32")
    np.testing.assert_array_equal(value[0].numpy(), image.astype(dtype or "float32"))


@DATASETS
@pytest.mark.parametrize("kind", KINDS)
def test_any_source_gives_the_same_in_copies_that_a_model_may_change(make: Make, kind: str, tmp_path: Path) -> None:
    image = image_of("SYX").astype("float32")
    dataset = make(KINDS[kind](image.copy(), tmp_path), "SYX")
    for value, _ in dataset:
        value.zero_()
    assert content(dataset) == content(make(image, "SYX"))


@DATASETS
def test_it_can_be_iterated_again_and_twice_at_once(make: Make, tmp_path: Path) -> None:
    dataset = make([KINDS[kind](image_of("SYX"), tmp_path) for kind in ("tiff", "zarr", "numpy")], "SYX")
    assert content(dataset) == content(dataset)
    for (first, key), (second, key_again) in zip(dataset, dataset, strict=True):
        assert key == key_again
        assert torch.equal(first, second)


# --- Data-loader workers.


@MANY_WORKERS
@DATASETS
@pytest.mark.parametrize(
    ("num_workers", "batch_size"),
    [(0, 4), pytest.param(1, 4, marks=pytest.mark.slow), (2, 1), pytest.param(3, 4, marks=pytest.mark.slow)],
)
def test_workers_yield_everything_exactly_once(make: Make, num_workers: int, batch_size: int, tmp_path: Path) -> None:
    sources = [KINDS[kind](image_of("STYX"), tmp_path) for kind in ("tiff", "numpy", "zarr", "dask")]
    dataset = make([*sources, image_of("STYX")[:1, :1]], "STYX")
    loader = DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=list)
    assert content(itertools.chain.from_iterable(loader)) == content(dataset)
    assert set(map(sample_number, content(dataset))) == set(range(25))


@MANY_WORKERS
@DATASETS
def test_more_workers_than_samples_or_tiles_do_no_harm(make: Make) -> None:
    dataset = make(image_of("TYX")[:, :4, :4], "TYX")
    assert len(content(dataset)) == 2
    assert content(DataLoader(dataset, batch_size=None, num_workers=3)) == content(dataset)


def load(path: Path, axes: str) -> np.ndarray:
    """Read a file as users do."""
    assert axes == "SYX"
    return np.load(path)


def saved(path: Path, image: np.ndarray) -> Path:
    np.save(path, image)
    return path


@DATASETS
def test_it_survives_pickling_also_where_it_is_half_read(make: Make, tmp_path: Path) -> None:
    images = [image_of("SYX"), image_of("SYX")]
    for sources, function in (
        ([saved(tmp_path / f"{at}.npy", image) for at, image in enumerate(images)], load),
        ([tiff(tmp_path / "a.tif", images[0]), stored(tmp_path / "b.zarr", images[1])], None),
        (images, None),
    ):
        dataset = make(sources, "SYX", read_source_func=function)
        half_read = iter(dataset)
        next(half_read)
        assert content(pickle.loads(pickle.dumps(dataset))) == content(dataset)


@pytest.mark.parametrize(
    "make", [tw.IterablePredDataset, partial(tw.IterableTiledPredDataset, tile_size=(64, 64), overlaps=(0, 0))]
)
def test_what_was_read_of_a_file_does_not_travel(make: Make, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", np.zeros((2, 500, 500)))
    dataset = make(path, "SYX", read_source_func=load)
    half_read = iter(dataset)
    next(half_read)
    assert len(pickle.dumps(dataset)) < 10_000


@pytest.mark.slow
def test_it_travels_to_workers_that_are_spawned(tmp_path: Path) -> None:
    images = [image_of("SYX"), image_of("SYX")]
    sources = [saved(tmp_path / f"{at}.npy", image) for at, image in enumerate(images)]
    dataset = tw.IterablePredDataset(sources, "SYX", read_source_func=load)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert content(loader) == content(dataset)


# --- What is read.


@DATASETS
@pytest.mark.parametrize("by_function", [False, True], ids=["an array", "an array of a function"])
def test_only_the_window_that_is_yielded_is_read_and_nothing_ahead(
    make: Make, by_function: bool, tmp_path: Path
) -> None:
    image = image_of("STYX")
    opened: list[Recording] = []

    def read(path: Path, axes: str) -> Any:
        opened.append(Recording(np.load(path)))
        return opened[-1]

    if by_function:
        dataset = make(saved(tmp_path / "a.npy", image), "STYX", read_source_func=read)
    else:
        opened.append(Recording(image))
        dataset = make(opened[0], "STYX")
    assert all(source.windows == [] for source in opened)
    for value, key in dataset:
        s, t = divmod(sample_number(key), EXTENTS["T"])
        [window] = opened[-1].windows
        opened[-1].windows.clear()
        assert window[:2] == ((s, s + 1), (t, t + 1))
        assert tuple(stop - start for start, stop in window[2:]) == tuple(value.shape[1:])


@pytest.mark.parametrize("by_function", [False, True])
def test_of_a_chunked_store_a_tile_reads_the_chunks_that_it_meets(by_function: bool, tmp_path: Path) -> None:
    # The chunks are files, of which those far away are broken.
    image = RNG.integers(1, 99, (32, 32)).astype("uint8")
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=image.shape, dtype=image.dtype, chunks=(4, 4), compressors=None)[...] = image
    function = (lambda path, axes: zarr.open_array(path, mode="r")) if by_function else None
    dataset = tw.IterableTiledPredDataset(path, "YX", (8, 8), (2, 2), read_source_func=function, dtype="uint8")
    for chunk in (path / "c").glob("*/*"):
        if int(chunk.parent.name) > 1 or int(chunk.name) > 1:
            chunk.write_bytes(b"short")
    tile, _ = next(iter(dataset))
    np.testing.assert_array_equal(tile[0].numpy(), image[:8, :8])


# --- A function that reads a source.


@DATASETS
@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr array"])
def test_a_function_reads_files_of_any_kind_into_any_array(make: Make, kind: str, tmp_path: Path) -> None:
    images = [image_of("SYX"), image_of("SYX")]
    paths = [saved(tmp_path / f"{at}.npy", image) for at, image in enumerate(images)]
    calls: list[tuple[Any, Any]] = []

    def read(path: Path, axes: str) -> Any:
        calls.append((path, axes))
        return KINDS[kind](np.load(path), tmp_path)

    dataset = make([paths[0], str(paths[1])], "SYX", read_source_func=read)
    assert content(dataset) == content(make(images, "SYX"))
    assert {path for path, _ in calls} == set(paths)
    assert all(isinstance(path, Path) and axes == "SYX" for path, axes in calls)


@DATASETS
def test_a_function_is_asked_for_tiff_and_zarr_files_too(make: Make, tmp_path: Path) -> None:
    image = image_of("YX")
    sources = [tiff(tmp_path / "a.tif", image), stored(tmp_path / "b.zarr", image)]
    dataset = make(sources, "YX", read_source_func=lambda path, axes: image + 1)
    assert content(dataset) == content(make([image + 1] * 2, "YX"))


@DATASETS
def test_arrays_need_no_function(make: Make) -> None:
    def read(path: Path, axes: str) -> Any:
        raise AssertionError("there is nothing to read")

    image = image_of("YX")
    assert content(make(image, "YX", read_source_func=read)) == content(make(image, "YX"))


@DATASETS
def test_a_relative_path_is_found_after_the_working_directory_changed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of("SYX")
    saved(tmp_path / "a.npy", image)
    monkeypatch.chdir(tmp_path)
    dataset = make("a.npy", "SYX", read_source_func=load)
    monkeypatch.chdir("/")
    assert content(dataset) == content(make(image, "SYX"))


class Held:
    """A function that reads files whole, and knows how many of its arrays are held."""

    def __init__(self) -> None:
        self.arrays: list[weakref.ref[Any]] = []
        self.calls: list[str] = []

    def __call__(self, path: Path, axes: str) -> np.ndarray:
        self.calls.append(path.name)
        array = np.load(path)
        self.arrays.append(weakref.ref(array))
        return array

    @property
    def count(self) -> int:
        return sum(array() is not None for array in self.arrays)


@DATASETS
def test_no_more_than_one_file_is_held_at_a_time(make: Make, tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{at}.npy", image_of("SYX")) for at in range(4)]
    held = Held()
    dataset = make(paths, "SYX", read_source_func=held)
    assert held.count == 0
    for _ in dataset:
        assert held.count <= 1
    assert held.count == 0
    # Once for its extents, and once for its elements.
    assert len(held.calls) == 2 * len(paths)


@DATASETS
def test_no_more_than_one_file_is_held_where_the_last_look_ended_early(make: Make, tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{at}.npy", image_of("SYX")) for at in range(3)]
    held = Held()
    dataset = make(paths, "SYX", read_source_func=held)
    number_in_first = sum(sample_number(key) < 3 for _, key in dataset)
    # As a trainer does that is limited to some batches.
    list(itertools.islice(iter(dataset), number_in_first + 1))
    for _ in dataset:
        assert held.count <= 1


@DATASETS
def test_a_function_that_fails_at_once_or_later_is_an_error_with_the_name_of_the_file(
    make: Make, tmp_path: Path
) -> None:
    paths = [saved(tmp_path / name, image_of("SYX")) for name in ("good.npy", "broken.npy")]
    dataset = make(paths, "SYX", read_source_func=load)
    paths[1].write_bytes(b"")
    with pytest.raises(SourceError, match=r"could not read .*broken\.npy"):
        list(dataset)
    with pytest.raises(SourceError, match=r"broken\.npy.*No data left"):
        make(paths, "SYX", read_source_func=load)


class Shaped:
    """Something that knows its shape only."""

    shape = (3, 4)


NO_IMAGES: dict[str, Any] = {
    "nothing": None,
    "a list": [[1, 2], [3, 4]],
    "a text": "an image",
    "a pair": (np.zeros((3, 4)), "YX"),
    "a shape": Shaped(),
    "texts": np.array([["a", "b"]]),
    "objects": np.array([[None, 1]], dtype=object),
    "complex numbers": np.zeros((3, 4), "complex64"),
    "a tensor": torch.zeros(3, 4),
}


@DATASETS
@pytest.mark.parametrize("what", [*NO_IMAGES, "other axes"])
def test_a_function_that_returns_no_such_image_is_an_error_with_the_name_of_the_file(
    make: Make, what: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "odd.npy", image_of("YX"))
    error, message, returned = SourceError, r"odd\.npy", NO_IMAGES.get(what)
    if what == "other axes":
        error, message, returned = GeometryError, r"odd\.npy: .*names 2 axes, but the source has 3", np.zeros((1, 3, 4))
    with pytest.raises(error, match=message):
        make(path, "YX", read_source_func=lambda path, axes: returned)


@DATASETS
@pytest.mark.parametrize("function", ["tifffile.imread", 3, [load]])
def test_what_reads_a_source_must_be_a_function(make: Make, function: Any) -> None:
    with pytest.raises(TypeError, match="read_source_func"):
        make(image_of("YX"), "YX", read_source_func=function)


# --- What does not fit.


@DATASETS
@pytest.mark.parametrize("broken", ["missing.tif", "empty.tif", "text.tif", "missing.zarr", "picture.png"])
def test_a_source_that_cannot_be_opened_is_named(make: Make, broken: str, tmp_path: Path) -> None:
    path = tmp_path / broken
    if not broken.startswith("missing"):
        path.write_text("" if broken.startswith("empty") else "this is no image")
    good = tiff(tmp_path / "good.tif", image_of("YX"))
    with pytest.raises(SourceError, match=broken.replace(".", r"\.")):
        make([good, path, good], "YX")


@DATASETS
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_source_that_breaks_later_is_named_and_never_skipped(make: Make, num_workers: int, tmp_path: Path) -> None:
    good, broken = stored(tmp_path / "good.zarr", image_of("YX")), stored(tmp_path / "broken.zarr", image_of("YX"))
    dataset = make([good, broken, good], "YX")
    (broken / "c" / "1" / "1").write_bytes(b"short")
    with pytest.raises(SourceError, match=r"could not read Y \d+:\d+, X \d+:\d+ of .*broken\.zarr"):
        list(DataLoader(dataset, num_workers=num_workers, collate_fn=list))


@DATASETS
def test_a_source_of_other_axes_is_named(make: Make, tmp_path: Path) -> None:
    sources = [tiff(tmp_path / "plane.tif", image_of("YX")), tiff(tmp_path / "volume.tif", image_of("ZYX"))]
    with pytest.raises(GeometryError, match=r"volume\.tif: .*names 2 axes, but the source has 3"):
        make(sources, "YX")


@DATASETS
@pytest.mark.parametrize("axes", ["", "Y", "YXX", "yx", "QYX", "CXZ"])
def test_axes_that_make_no_image_are_refused(make: Make, axes: str) -> None:
    with pytest.raises(GeometryError, match="axes"):
        make(np.zeros((4,) * len(axes)), axes)


@DATASETS
def test_sources_of_different_channels_are_refused_by_their_names(make: Make, tmp_path: Path) -> None:
    image = image_of("CYX")
    sources = [tiff(tmp_path / "two.tif", image), tiff(tmp_path / "one.tif", image[:1], metadata={"axes": "CYX"})]
    with pytest.raises(GeometryError, match=r"one\.tif has 1 channels, but .*two\.tif has 2"):
        make(sources, "CYX")


@DATASETS
@pytest.mark.parametrize("nothing", [[], ()])
def test_no_sources_are_no_dataset(make: Make, nothing: Any) -> None:
    with pytest.raises(ValueError, match="no sources"):
        make(nothing, "YX")


# --- Many files.


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no limit to lower")
def test_there_may_be_more_files_than_a_process_can_have_open(tmp_path: Path) -> None:
    for number in range(100):
        image = np.full((6, 5), number, "uint16")
        tiff(tmp_path / f"{number:03}.tif", image, compression="zlib" if number % 2 else None)
        np.save(tmp_path / f"{number:03}.npy", image)
    script = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        import tilewright as tw

        def mapped(path, axes):
            return np.load(path, mmap_mode="r")

        files, arrays = (sorted(Path(sys.argv[1]).glob(ending)) for ending in ("*.tif", "*.npy"))
        assert len(files) == len(arrays) == 100
        # Imports open files too, and are not what is looked at.
        assert len(list(tw.IterablePredDataset(files[:2], "YX"))) == 2
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
        for sources, function in ((files, None), (arrays, mapped)):
            samples = tw.IterablePredDataset(sources, "YX", read_source_func=function)
            assert [(int(sample[0, 0, 0]), number) for sample, number in samples] == [(n, n) for n in range(100)]
            tiles = tw.IterableTiledPredDataset(sources, "YX", (8, 8), (2, 2), read_source_func=function)
            assert [(int(tile[0, 0, 0]), info.sample_id) for tile, info in tiles] == [(n, n) for n in range(100)]
        print("all of them")
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ran.stdout.strip(), ran.returncode) == ("all of them", 0), ran.stderr


# --- What counts as a dataset.


@pytest.mark.parametrize("kind", [tw.IterablePredDataset, tw.IterableTiledPredDataset])
def test_a_foreign_dataset_can_register_as_one(kind: Any) -> None:
    class Foreign:
        """A dataset of another library."""

    assert not isinstance(Foreign(), kind)
    assert kind.register(Foreign) is Foreign
    assert isinstance(Foreign(), kind)
    other = {tw.IterablePredDataset, tw.IterableTiledPredDataset} - {kind}
    assert not isinstance(Foreign(), other.pop())


def test_whole_samples_and_tiles_are_told_apart() -> None:
    untiled, cut = tw.IterablePredDataset(image_of("YX"), "YX"), tiled(image_of("YX"), "YX")
    assert not isinstance(untiled, tw.IterableTiledPredDataset)
    assert not isinstance(cut, tw.IterablePredDataset)
    assert isinstance(untiled, torch.utils.data.IterableDataset)
