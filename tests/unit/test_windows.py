"""Windows are written once, at the end, into what others have written meanwhile; what is not complete has none."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from distributed import Client
from tests.conformance.strategy_cases import write
from tests.support import CountingStore, is_metadata
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore, WrapperStore, ZipStore

import tilewright as tw
from tilewright.errors import DestinationError
from tilewright.ome.windows import with_windows

IMAGE = np.random.default_rng(5).integers(10, 60_000, (2, 40, 56)).astype("uint16")
RANGES = [(int(channel.min()), int(channel.max())) for channel in IMAGE]
TILES: dict[str, Any] = {"axes": "CYX", "tile_size": (24, 24), "overlap": (8, 8), "chunks": (16, 16)}
FULL = [(0, 65535), (0, 65535)]
"""The range of the data type, for as long as nothing else is known."""

pytestmark = pytest.mark.usefixtures("_current")


@pytest.fixture
def _current(embedded: Client) -> Any:
    with embedded.as_current():
        yield


@dataclass
class Meanwhile:
    """A model that returns its tiles, and does something else, which is not compared with what it did before."""

    do: Callable[[], object] = list

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.do()
        return tiles


def predict(destination: Any, do: Callable[[], object] = list, image: np.ndarray = IMAGE, **options: Any) -> tw.Report:
    return tw.predict_to_zarr(Meanwhile(do), image, destination, **{**TILES, "progress": False} | options)


def omero_of(group: Any) -> dict[str, Any] | None:
    attributes = zarr.open_group(group, mode="r").attrs.asdict()
    found: dict[str, Any] | None = attributes.get("ome", attributes).get("omero")
    return found


def ranges_of(group: Any) -> list[tuple[float, float]] | None:
    omero = omero_of(group)
    return omero and [(channel["window"]["min"], channel["window"]["max"]) for channel in omero["channels"]]


@pytest.mark.parametrize("names", [None, ["a", "b"]])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_channels_have_the_range_of_their_type_until_the_image_is_complete(
    names: list[str] | None, zarr_format: int, tmp_path: Path
) -> None:
    seen = []

    def look() -> None:
        if (tmp_path / "out.zarr" / "0").exists():
            seen.append(ranges_of(tmp_path / "out.zarr"))

    predict(tmp_path / "out.zarr", look, channel_names=names, zarr_format=zarr_format)
    assert seen
    assert all(ranges == (FULL if names else None) for ranges in seen)
    assert ranges_of(tmp_path / "out.zarr") == RANGES
    omero = omero_of(tmp_path / "out.zarr")
    assert omero is not None
    assert [channel.get("label") for channel in omero["channels"]] == (names or [None, None])
    yaozarrs.validate_zarr_store(tmp_path / "out.zarr")


WITHOUT: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "samples in one array": (IMAGE, {"axes": "SYX", "chunks": (2, 16, 16)}),
    "labels": (IMAGE, {"labels": True}),
    "bools": (IMAGE > 100, {}),
}


@pytest.mark.parametrize("what", WITHOUT)
def test_labels_bools_and_samples_in_one_array_have_no_windows(what: str, tmp_path: Path) -> None:
    image, options = WITHOUT[what]
    predict(tmp_path / "out.zarr", image=image, **options)
    assert omero_of(tmp_path / "out.zarr") is None
    if what == "bools":
        predict(tmp_path / "out.zarr", image=image, channel_names=["a", "b"], if_exists="overwrite")
        assert ranges_of(tmp_path / "out.zarr") == [(0, 1), (0, 1)]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_attributes_are_put_once_at_the_end_and_never_again(zarr_format: int, tmp_path: Path) -> None:
    store, ledger = CountingStore(), tmp_path / "ledger"
    name = "zarr.json" if zarr_format == 3 else ".zattrs"
    before: list[int] = []
    predict(store, lambda: before.append(store.sets[name]), ledger=ledger, zarr_format=zarr_format)
    assert store.sets[name] == before[-1] + 1
    assert {count for key, count in store.sets.items() if not is_metadata(key) and "lock" not in key} == {1}
    sets = store.sets.copy()
    assert predict(store, ledger=ledger, zarr_format=zarr_format, if_exists="resume").unit_count == 0
    assert store.sets[name] == sets[name]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_others_write_into_the_attributes_stays(zarr_format: int, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"

    def take_notes() -> None:
        if (output / "0").exists():
            zarr.open_group(output).attrs["mine"] = {"stain": ["DAPI", 1.5]}

    predict(output, take_notes, zarr_format=zarr_format, levels=1, channel_names=["a", "b"])
    group = zarr.open_group(output)
    assert group.attrs["mine"] == {"stain": ["DAPI", 1.5]}
    attributes = group.attrs.asdict()
    said: Any = attributes.get("ome", attributes)
    said["omero"]["channels"][1] |= {"color": "ABCDEF", "family": "linear"}
    said["omero"]["channels"][1]["window"]["end"] = 77
    said["omero"]["name"] = "the best one"
    group.attrs.put(attributes)
    # An earlier version had another range.
    said["omero"]["channels"][0]["window"] |= {"min": 3, "start": 3}
    group.attrs.put(attributes)
    predict(output, zarr_format=zarr_format, levels=1, if_exists="resume")
    said["omero"]["channels"][0]["window"] |= {"min": RANGES[0][0], "start": RANGES[0][0]}
    assert zarr.open_group(output).attrs.asdict() == attributes


def test_channels_that_are_none_are_written_anew() -> None:
    for channels in (None, 3, [], [1], [{}, {}]):
        said = {"multiscales": [], "omero": {"channels": channels, "id": 7}}
        made = with_windows(said, "YX", (8, 8), [(2, 7)])["omero"]
        assert (made["id"], made["channels"][0]["color"]) == (7, "FFFFFF")
    for other in ({}, {"mine": 1}, {"ome": 3}, {"ome": {"multiscales": [], "image-label": {}}}):
        assert with_windows(other, "YX", (8, 8), [(2, 7)]) == other


class FullAtTheEnd(WrapperStore[MemoryStore]):
    """A store that is full when the windows come."""

    is_full = True

    async def set(self, key: str, value: Any) -> None:
        if self.is_full and key == "zarr.json" and b"omero" in value.to_bytes():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await self._store.set(key, value)


SPOILT = {
    "a full store": None,
    "no metadata": b"",
    "metadata that are no JSON": b"[1",
    "metadata of another kind": b"[]",
}


@pytest.mark.parametrize("what", SPOILT)
def test_windows_that_cannot_be_written_are_an_error_and_come_later(what: str, tmp_path: Path) -> None:
    store, spoilt = FullAtTheEnd(MemoryStore()), SPOILT[what]
    held = store._store._store_dict

    def spoil() -> None:
        if spoilt is not None and any(key.startswith("0/") for key in held):
            held["zarr.json"] = cpu.Buffer.from_bytes(spoilt)
            if not spoilt:
                del held["zarr.json"]

    with pytest.raises(DestinationError, match=r"all objects are stored, but .*zarr.json.*if_exists='resume'"):
        predict(store, spoil, ledger=tmp_path / "ledger")
    store.is_full = False
    if spoilt is None:
        # The values are proven, whatever is said of their range.
        assert tw.verify(store, ledger=tmp_path / "ledger", progress=False).is_complete
    else:
        held.pop("zarr.json", None)
    assert predict(store, ledger=tmp_path / "ledger", if_exists="resume").unit_count == 0
    assert ranges_of(store) == RANGES


def test_a_zip_file_keeps_what_it_was_begun_with(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "out.zip", mode="w") as store:
        predict(store, channel_names=["a", "b"])
    with ZipStore(tmp_path / "out.zip") as store:
        assert ranges_of(store) == FULL


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_images_of_write_zarr_have_windows_where_their_axes_are_named(zarr_format: int, tmp_path: Path) -> None:
    tw.write_zarr(tmp_path / "named.zarr", IMAGE, axes="CYX", zarr_format=zarr_format, channel_names=["a", "b"])
    tw.write_zarr(tmp_path / "other.zarr", IMAGE, zarr_format=zarr_format)
    assert ranges_of(tmp_path / "named.zarr") == RANGES
    assert omero_of(tmp_path / "other.zarr") is None
    yaozarrs.validate_zarr_store(tmp_path / "named.zarr")


def test_images_of_a_trainer_have_windows_which_a_later_run_writes_again(tmp_path: Path) -> None:
    tiled = tw.IterableTiledPredDataset(list(IMAGE), "YX", (24, 24), (8, 8))
    write(tw.WriteTilesZarr(), tiled, tmp_path)
    groups = [tmp_path / "prediction.zarr" / str(number) for number in range(2)]
    documents = [(group / "zarr.json").read_text() for group in groups]
    assert [ranges_of(group) for group in groups] == [[pair] for pair in RANGES]
    without = json.loads(documents[1])
    del without["attributes"]["ome"]["omero"]
    (groups[1] / "zarr.json").write_text(json.dumps(without))
    tiled = tw.IterableTiledPredDataset(list(IMAGE), "YX", (24, 24), (8, 8))
    write(tw.WriteTilesZarr(if_exists="resume"), tiled, tmp_path)
    assert [(group / "zarr.json").read_text() for group in groups] == documents
