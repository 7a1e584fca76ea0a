"""Each source of a run has one output, inside the output folder, and no two have the same."""

from pathlib import Path

import pytest

from tilewright.errors import DestinationError
from tilewright.storage.naming import source_stem, zarr_output_names


def paths(*names: str | None) -> list[Path | None]:
    return [None if name is None else Path(name) for name in names]


def folders(*names: str | None) -> list[str]:
    return [folder for folder, _ in zarr_output_names(paths(*names))]


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("raw.tif", "raw"),
        ("a.b.tif", "a.b"),
        ("a.b.ome.tiff", "a.b.ome"),
        ("v1.0/cells", "cells"),
        ("raw.zarr", "raw"),
        ("a.b.zarr", "a.b"),
        ("raw.zarr/0", "raw"),
        ("raw.zarr/1", "raw_1"),
        ("raw.zarr/left/em", "raw_left_em"),
        ("plate.zarr/A.zarr", "A"),
        ("with space.tif", "with space"),
    ],
)
def test_a_stem_keeps_its_dots_and_names_the_array_in_a_store(path: str, stem: str) -> None:
    assert source_stem(Path(path)) == stem


def test_sources_of_one_folder_lie_side_by_side() -> None:
    assert folders("/data/a.tif", "/data/a.b.tif", "/data/c.zarr") == ["a.zarr", "a.b.zarr", "c.zarr"]


def test_one_source_has_no_tree() -> None:
    assert folders("/data/deep/down/raw.tif") == ["raw.zarr"]


def test_the_tree_below_the_common_folder_is_kept() -> None:
    names = folders("/data/mouse/1/raw.tif", "/data/mouse/2/raw.tif", "/data/fly/raw.tif")
    assert names == ["mouse/1/raw.zarr", "mouse/2/raw.zarr", "fly/raw.zarr"]


def test_a_source_in_the_common_folder_itself_stays_there() -> None:
    assert folders("/data/raw.tif", "/data/more/raw.tif") == ["raw.zarr", "more/raw.zarr"]


def test_folders_that_only_begin_alike_are_different() -> None:
    assert folders("/data/mouse/raw.tif", "/data/mouse2/raw.tif") == ["mouse/raw.zarr", "mouse2/raw.zarr"]


def test_arrays_of_one_store_have_their_own_outputs_beside_each_other() -> None:
    assert folders("/data/raw.zarr/left", "/data/raw.zarr/right", "/data/raw.zarr/0") == [
        "raw_left.zarr",
        "raw_right.zarr",
        "raw.zarr",
    ]


def test_arrays_are_groups_by_their_index_among_all_images() -> None:
    assert zarr_output_names(paths(None, "/data/raw.tif", None)) == [
        ("prediction.zarr", "0"),
        ("raw.zarr", ""),
        ("prediction.zarr", "2"),
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/data/raw.tif", "/data/raw.tiff"),
        ("/data/raw.tif", "/data/raw.zarr"),
        ("/data/raw.tif", "/data/raw.tif"),
        ("/data/raw.zarr", "/data/raw.zarr/0"),
        ("/data/a/raw.zarr/left", "/data/a/raw_left.tif"),
    ],
)
def test_two_sources_of_one_name_are_refused_by_their_names(first: str, second: str) -> None:
    with pytest.raises(DestinationError, match="would both be written to") as caught:
        zarr_output_names(paths(first, "/data/between.tif", second))
    assert f"{first} and {second}" in str(caught.value)


@pytest.mark.parametrize("order", [("/data/prediction.tif", None), (None, "/data/prediction.tif")])
def test_a_source_that_would_share_the_place_of_arrays_is_refused(order: tuple[str | None, ...]) -> None:
    with pytest.raises(DestinationError, match=r"/data/prediction\.tif and an array would share prediction\.zarr"):
        zarr_output_names(paths(*order))


def test_a_source_beside_the_working_directory_stays_in_the_output_folder() -> None:
    # What `open_source` makes of "../other/raw.tif" and "raw.tif" in /data/here.
    names = folders("/data/here/../other/raw.tif", "/data/here/raw.tif")
    assert names == ["other/raw.zarr", "here/raw.zarr"]


def test_two_ways_to_one_source_are_refused() -> None:
    with pytest.raises(DestinationError, match="would both be written to"):
        zarr_output_names(paths("/data/here/../raw.tif", "/data/raw.tif"))


def test_relative_and_absolute_paths_can_be_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A Zarr array that was opened by a relative path knows no other.
    monkeypatch.chdir(tmp_path)
    assert folders("left/raw.zarr", str(tmp_path / "right" / "raw.tif")) == ["left/raw.zarr", "right/raw.zarr"]
