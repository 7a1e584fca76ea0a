"""Each sample of an output is an image of OME-Zarr of its own, and all of them are one output."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from distributed import Client
from tests.conformance.strategy_cases import write as write_tiles
from tests.support import CountingStore, is_metadata, lengthen, read_level, tree
from zarr.storage import MemoryStore

import tilewright as tw
from tilewright.errors import DestinationExistsError, GeometryError
from tilewright.sources.opening import open_source

STACK = np.random.default_rng(2).integers(1, 99, (3, 4, 20, 18)).astype("int16")
TILES: dict[str, Any] = {"axes": "SZYX", "tile_size": (4, 8, 8), "overlap": (0, 2, 2), "progress": False, "levels": 2}
PLACED: dict[str, Any] = {"scale": (2, 1, 1), "units": "um"}


@pytest.fixture(autouse=True)
def current(embedded: Client) -> Iterator[None]:
    with embedded.as_current():
        yield


def predict(destination: Any, source: Any = STACK, **options: Any) -> tw.Report:
    return tw.predict_to_zarr(np.negative, source, destination, **TILES | options)


def write(destination: Path, **options: Any) -> None:
    tw.write_zarr(destination, -STACK, axes="SZYX", **options)


STORED: dict[str, dict[str, Any]] = {
    "0.4": {"zarr_format": 2},
    "0.5": {"chunks": (1, 2, 8, 8)},
    "0.5 in shards": {"chunks": (1, 2, 8, 8), "shards": (1, 4, 16, 16)},
    "0.5 in shards that are chosen": {"shards": "auto"},
    "0.6": {"ome_version": "0.6"},
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("door", [predict, write])
def test_each_sample_is_an_image(stored: str, door: Any, tmp_path: Path) -> None:
    output, options = tmp_path / "out.zarr", STORED[stored]
    report = door(output, **options, **PLACED)
    np.testing.assert_array_equal(read_level(output, 0, options.get("zarr_format", 3)), -STACK)
    if stored != "0.6":
        yaozarrs.validate_zarr_store(output)
    for sample, image in enumerate(STACK):
        source = open_source(output, None, series=sample)
        assert (source.axes.names, source.world.scale) == ("ZYX", {"Z": 2, "Y": 1, "X": 1})
        np.testing.assert_array_equal(source.opened()[...], -image)
    if report is not None:
        assert tw.verify(output, progress=False).is_complete
        assert "3, each an image of its own: a group with 2 arrays, 9 nodes with metadata" in str(report.plan)


@pytest.mark.parametrize("count", [1, 3])
def test_samples_of_a_trainer_are_images(count: int, tmp_path: Path) -> None:
    dataset = tw.IterableTiledPredDataset(STACK[:count], "SZYX", (4, 8, 8), (0, 2, 2))
    (report,) = write_tiles(tw.WriteTilesZarr(levels=2), dataset, tmp_path / "out")
    output = tmp_path / "out" / "prediction.zarr" / report.array.path
    yaozarrs.validate_zarr_store(output)
    np.testing.assert_array_equal(read_level(output, 0), STACK[:count])


SELECTIONS: list[Any] = [
    (...,),
    (1,),
    (-1, ..., 0),
    (slice(None), 2),
    (..., slice(2, 9, 3)),
    (slice(2, 0, -1), 0, slice(4), 5),
    (slice(1, 1),),
    (0, 1, 2, 3),
    (..., 0, 1, 2, 3),
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_the_arrays_of_all_samples_are_read_as_one(selection: Any) -> None:
    array = predict(MemoryStore()).array
    assert (array.shape, array.ndim, array.dtype) == (STACK.shape, 4, STACK.dtype)
    np.testing.assert_array_equal(array[selection], (-STACK)[selection])


def test_each_object_and_document_is_stored_once_and_no_object_is_read() -> None:
    store = CountingStore()
    plan = predict(store, chunks=(1, 2, 8, 8)).plan
    del store.sets["tilewright.lock"]
    objects = [key for key in store.sets if not is_metadata(key)]
    assert len(objects) == plan.object_count
    # The attributes of an image come again, with its windows.
    images = {f"{sample}/zarr.json" for sample in range(3)}
    assert store.sets == {key: 1 + (key in images) for key in store.sets}
    assert not [key for key in objects if store.gets[key]]
    # Of the output, of the list of images, and of each image and its arrays.
    assert len(store.sets) - len(objects) == 2 + 3 * (1 + 2)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_is_lost_or_damaged_of_one_sample_is_found_and_mended(zarr_format: int, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    options: dict[str, Any] = {"zarr_format": zarr_format, "chunks": (1, 2, 8, 8)}
    predict(output, **options)
    whole = tree(output)
    lengthen(output / ("1/1/c/0/0/0" if zarr_format == 3 else "1/1/0/0/0"))
    (output / ("2/0/c/0/1/1" if zarr_format == 3 else "2/0/0/1/1")).unlink()
    (output / "2/0" / ("c.9.0.0")).write_bytes(b"")
    found = tw.verify(output, progress=False)
    assert sorted(found.conditions.values()) == ["damaged", "missing"]
    assert found.surplus == ["2/0/c.9.0.0"]
    (output / "2/0/c.9.0.0").unlink()
    assert tw.repair(output, np.negative, STACK, progress=False).unit_count == 2
    assert tree(output) == whole


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("lost", ["1/0", "1", "0/1", "OME", "0"])
def test_lost_metadata_of_a_sample_are_found_and_written_again(lost: str, zarr_format: int, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    predict(output, zarr_format=zarr_format)
    whole = tree(output)
    for name in ("zarr.json", ".zarray", ".zgroup", ".zattrs"):
        (output / lost / name).unlink(missing_ok=True)
    assert tw.verify(output, progress=False).metadata == (
        [f"those of the array {lost} are missing"] if "/" in lost else []
    )
    assert predict(output, zarr_format=zarr_format, if_exists="resume").unit_count == 0
    assert tree(output) == whole


@pytest.mark.parametrize(
    "before", [{}, {"source": STACK[:2]}, {"source": STACK[0], "axes": "ZYX"}, {"chunks": (3, 4, 8, 8)}]
)
@pytest.mark.parametrize("is_folder", [True, False])
def test_outputs_of_either_kind_replace_each_other(before: dict[str, Any], is_folder: bool, tmp_path: Path) -> None:
    def all_of(place: Any) -> dict[str, bytes]:
        return tree(place) if is_folder else {key: value.to_bytes() for key, value in place._store_dict.items()}

    place, alone = (tmp_path / "out.zarr", tmp_path / "alone.zarr") if is_folder else (MemoryStore(), MemoryStore())
    predict(alone)
    predict(place, **before)
    predict(place, if_exists="overwrite")
    assert all_of(place) == all_of(alone)
    predict(place, **before, if_exists="overwrite")


def test_what_others_have_put_into_a_sample_is_in_the_way(tmp_path: Path) -> None:
    predict(tmp_path / "out.zarr")
    zarr.create_array(tmp_path / "out.zarr" / "1" / "mine", shape=(3,), dtype="u1")
    with pytest.raises(DestinationExistsError, match="in the way: 1/mine"):
        predict(tmp_path / "out.zarr", if_exists="overwrite")


def test_objects_of_several_samples_leave_them_in_one_array(tmp_path: Path) -> None:
    report = predict(tmp_path / "out.zarr", chunks=(2, 4, 8, 8))
    assert "3 in one array, which is no image of OME-Zarr" in str(report.plan)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr" / "0")[...], -STACK)
    with pytest.raises(GeometryError, match="choose chunks and shards of one sample"):
        predict(tmp_path / "other.zarr", chunks=(2, 4, 8, 8), **PLACED)
