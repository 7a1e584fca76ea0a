"""An image in Zarr holds what the image held, appears whole or not at all, and each object of it is written once."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from tests.lazy_images import calling, image_of, in_odd_chunks
from tests.support import is_metadata, read_by_tensorstore, tree
from zarr.storage import LocalStore

from tilewright.errors import DestinationError, DestinationExistsError
from tilewright.images.lazy_image import is_lazy
from tilewright.images.zarr import write_zarr
from tilewright.stores.removal import being_written

SHAPES = [(1100, 1200), (3, 610, 740), (2, 1, 5, 340, 620)]
"""Of more than two MiB of uint16, so that each image has several units."""


def array_at(path: Path) -> zarr.Array:
    """The array of an image that was written."""
    return zarr.open_array(path / "0", mode="r")


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each object was written, or read from any local store."""
    counts: Counter[str] = Counter()
    replace, original_get = os.replace, LocalStore.get

    def counting_replace(partial: Any, path: Any) -> None:
        # Each object gets its name when it is whole.
        counts[f"set {path}"] += not is_metadata(str(path))
        replace(partial, path)

    async def counting_get(self: LocalStore, key: str, *args: Any, **kwargs: Any) -> Any:
        counts[f"get {key}"] += not is_metadata(key)
        return await original_get(self, key, *args, **kwargs)

    monkeypatch.setattr(os, "replace", counting_replace)
    monkeypatch.setattr(LocalStore, "get", counting_get)
    return counts


# --- What is stored.


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "int64", "float16", "float32", "complex64"])
def test_every_data_type_is_read_bit_for_bit_by_zarr_and_by_another_library(
    tmp_path: Path, dtype: str, zarr_format: int
) -> None:
    # Several units of each data type.
    image = image_of((2, 9, 2400 // np.dtype(dtype).itemsize, 61), dtype)
    for name, img in (("array", image), ("dask", in_odd_chunks(image))):
        write_zarr(tmp_path / name, img, zarr_format=zarr_format)
        array = zarr.open_group(tmp_path / name, mode="r")["0"]
        assert array.metadata.zarr_format == zarr_format
        assert array.dtype == image.dtype
        np.testing.assert_array_equal(array[...], image)
        np.testing.assert_array_equal(read_by_tensorstore(tmp_path / name / "0", zarr_format), image)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (320, 400)},
        {"chunks": (200, 240), "shards": (400, 720), "compressors": None},
        {"shards": "auto"},
        {"chunks": (320, 400), "shards": "auto"},
        {"fill_value": 7},
        {"zarr_format": 2, "chunks": (320, 400)},
    ],
)
def test_every_object_is_set_once_and_none_is_read_back(
    tmp_path: Path, stored: Counter[str], shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    options = {
        name: (1,) * (len(shape) - 2) + value if name in {"chunks", "shards"} and isinstance(value, tuple) else value
        for name, value in options.items()
    }
    image = image_of(shape)
    for img in (image, in_odd_chunks(image), np.full(shape, options.get("fill_value") or 0, "uint16")):
        stored.clear()
        write_zarr(tmp_path / "a.zarr", img, **options)
        counts = {key: count for key, count in stored.items() if count}
        array = array_at(tmp_path / "a.zarr")
        extents = array.shards or array.chunks
        object_count = np.prod([-(-extent // step) for extent, step in zip(shape, extents, strict=True)])
        assert {key.split()[0] for key in counts} == {"set"}
        assert set(counts.values()) == {1}
        # Also what only holds the fill value: what exists is complete.
        assert len(counts) == object_count
        assert sum(not is_metadata(key) for key in tree(tmp_path / "a.zarr")) == object_count
        np.testing.assert_array_equal(array[...], np.asarray(img))


def test_options_of_the_array_reach_it_and_dimensions_have_names_only_where_they_are_given(tmp_path: Path) -> None:
    options = {"chunks": (1, 16, 16), "compressors": zarr.codecs.GzipCodec(level=3), "fill_value": 5}
    for axes, names in (("CYX", ("c", "y", "x")), (None, None)):
        write_zarr(tmp_path / "a.zarr", image_of((3, 37, 61)), axes=axes, **options)
        array = array_at(tmp_path / "a.zarr")
        assert (array.chunks, array.fill_value) == ((1, 16, 16), 5)
        assert array.compressors == (zarr.codecs.GzipCodec(level=3),)
        assert array.metadata.dimension_names == names


# --- How a dask array is computed.


def test_an_object_larger_than_a_region_is_written_by_itself(tmp_path: Path, stored: Counter[str]) -> None:
    image = image_of((2, 600, 700), "float32")
    write_zarr(tmp_path / "a.zarr", in_odd_chunks(image), chunks=(1, 600, 700), compressors=None)
    assert sorted(count for count in stored.values() if count) == [1, 1]
    np.testing.assert_array_equal(array_at(tmp_path / "a.zarr")[...], image)


# --- Whole or not at all.


def test_a_group_that_cannot_have_its_name_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zarr(tmp_path / "a.zarr", image_of((5, 6)))
    before = tree(tmp_path)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial") and ".old." not in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match=r"could not write.*a\.zarr'$"):
        write_zarr(tmp_path / "a.zarr", image_of((7, 8)))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("earlier_format", [2, 3])
def test_an_earlier_output_of_either_format_is_replaced(tmp_path: Path, earlier_format: int) -> None:
    image = image_of((5, 6))
    (tmp_path / "empty").mkdir()
    write_zarr(tmp_path / "earlier", image_of((7, 8)), zarr_format=earlier_format)
    for name in ("earlier", "empty"):
        write_zarr(tmp_path / name, image)
        np.testing.assert_array_equal(zarr.open_group(tmp_path / name, mode="r", zarr_format=3)["0"][...], image)
        assert {path.name for path in (tmp_path / name).iterdir()} == {"0", "zarr.json"}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_is_of_others_is_refused_and_left(tmp_path: Path, zarr_format: int) -> None:
    zarr.create_array(tmp_path / "array", shape=3, dtype="uint8", zarr_format=zarr_format)
    zarr.create_group(tmp_path / "group", zarr_format=zarr_format)
    write_zarr(tmp_path / "shared", image_of((5, 6)), zarr_format=zarr_format)
    zarr.open_group(tmp_path / "shared").create_array("labels", shape=3, dtype="uint8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    for destination, error, message in (
        *((tmp_path / name, DestinationExistsError, "in the way") for name in ("array", "group", "shared")),
        (tmp_path / "folder", DestinationExistsError, "folder exists and is no Zarr"),
        (tmp_path / "file", DestinationError, "file is a file, not a folder"),
        (tmp_path / "file" / "a.zarr", DestinationError, "is a file, not a folder"),
        ("memory://a.zarr", DestinationError, "is a URL"),
    ):
        with pytest.raises(error, match=message):
            write_zarr(destination, image_of((5, 6)))
    assert tree(tmp_path) == before


def test_what_a_killed_process_has_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    killed, old = (tmp_path / f"a.zarr.{digit * 32}{kind}.partial" for digit, kind in (("0", ""), ("1", ".old")))
    for folder in (killed, old):
        (folder / "0").mkdir(parents=True)
        (folder / "zarr.json").write_text("{")
    (tmp_path / "b.zarr.partial").mkdir()
    with being_written(tmp_path / f"a.zarr.{'2' * 32}.partial", tmp_path / "a.zarr", is_folder=True):
        write_zarr(tmp_path / "a.zarr", image_of((5, 6)))
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "a.zarr",
            f"a.zarr.{'2' * 32}.partial",
            "b.zarr.partial",
        ]


# --- Groups above.


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_zarr_folder_around_it_becomes_a_group_of_the_same_format(tmp_path: Path, zarr_format: int) -> None:
    image = image_of((5, 6))
    write_zarr(tmp_path / "a" / "prediction.zarr" / "3", image, zarr_format=zarr_format)
    group = zarr.open_group(tmp_path / "a" / "prediction.zarr", mode="r", zarr_format=zarr_format)
    np.testing.assert_array_equal(group["3/0"][...], image)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"prediction.zarr"}
    write_zarr(tmp_path / "a" / "4", image, zarr_format=zarr_format)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"prediction.zarr", "4"}


def test_a_group_above_keeps_what_it_has(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "a.zarr", attributes={"mine": 1}).create_array("other", shape=3, dtype="uint8")
    write_zarr(tmp_path / "a.zarr" / "0", image_of((5, 6)))
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert dict(group.attrs) == {"mine": 1}
    assert sorted(group.keys()) == ["0", "other"]


def test_many_images_of_one_group_may_be_written_at_the_same_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: write_zarr(tmp_path / f"a.zarr/{index}", image_of((5, 6)) + index), range(24)))
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert sorted(map(int, group.keys())) == list(range(24))
    for index in range(24):
        np.testing.assert_array_equal(group[f"{index}/0"][...], image_of((5, 6)) + index)


def test_a_folder_above_that_is_zarr_of_another_kind_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "group.zarr", zarr_format=2)
    zarr.create_array(tmp_path / "array.zarr", shape=3, dtype="uint8")
    before = tree(tmp_path)
    computed: list[tuple[int, ...]] = []
    for name in ("group", "array"):
        with pytest.raises(DestinationExistsError, match=rf"of format 3, because .*{name}\.zarr is none; choose"):
            write_zarr(tmp_path / f"{name}.zarr" / "0", calling(computed.append, (2, 30), (1, 30)))
    assert tree(tmp_path) == before
    assert computed == []


# --- What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zarr_format": 4}, "zarr_format must be 2 or 3, got 4"),
        ({"chunks": (10, 10), "shards": (15, 15)}, "not a whole multiple"),
        ({"chunks": (10, 10, 10)}, "chunk"),
        ({"img": np.zeros((3, 4), "M8[s]")}, "unknown data type"),
        ({"img": np.zeros(3)}, "must be"),
        (
            {"img": (lazy := dask.array.from_array(image_of((30, 30)), chunks=10))[lazy[:, 0] > 0]},
            "compute_chunk_sizes",
        ),
    ],
)
def test_what_is_not_possible_is_an_error_before_anything_is_computed(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    computed: list[tuple[int, ...]] = []
    with pytest.raises(ValueError, match=message):
        write_zarr(tmp_path / "a.zarr", **{"img": calling(computed.append, (30, 30), (30, 30))} | options)
    assert computed == []
    assert list(tmp_path.iterdir()) == []


def test_it_takes_a_lazy_image() -> None:
    assert is_lazy(write_zarr)
