"""Each source of a run has one output, inside the output folder, and no two have the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import tilewright as tw
from tilewright.errors import DestinationError, TileMismatchError
from tilewright.sources.naming import output_names, source_stem, zarr_output_names


def paths(*names: str | None) -> list[Path | None]:
    return [None if name is None else Path(name) for name in names]


def outputs(extension: str, *names: str | None) -> list[str]:
    return [name.as_posix() for name in output_names(paths(*names), extension)]


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


NAMES = {
    "no sources": ([], []),
    "one source has no tree": (["/data/deep/down/raw.tif"], ["raw"]),
    "of one folder, side by side": (["/data/a.tif", "/data/a.b.tif", "/data/c.zarr"], ["a", "a.b", "c"]),
    "the tree below the common folder": (
        ["/data/mouse/1/a.b.tif", "/data/mouse/2/a.b.tif", "/data/fly/raw.tif", "/data/fly.zarr/left"],
        ["mouse/1/a.b", "mouse/2/a.b", "fly/raw", "fly_left"],
    ),
    "in the common folder itself": (["/data/raw.tif", "/data/more/raw.tif"], ["raw", "more/raw"]),
    "folders that begin alike": (["/data/mouse/raw.tif", "/data/mouse2/raw.tif"], ["mouse/raw", "mouse2/raw"]),
    "arrays of one store": (
        ["/data/raw.zarr/left", "/data/raw.zarr/right", "/data/raw.zarr/0"],
        ["raw_left", "raw_right", "raw"],
    ),
    # What `open_source` makes of "../other/raw.tif" and "raw.tif" in /data/here.
    "beside the working folder": (["/data/here/../other/raw.tif", "/data/here/raw.tif"], ["other/raw", "here/raw"]),
}


@pytest.mark.parametrize("extension", [".tiff", ".zarr", ".ome.tiff", ".npy"])
@pytest.mark.parametrize("what", NAMES)
def test_outputs_of_any_ending_keep_the_tree_below_the_common_folder(what: str, extension: str) -> None:
    sources, expected = NAMES[what]
    assert outputs(extension, *sources) == [f"{name}{extension}" for name in expected]


def test_arrays_are_groups_by_their_index_among_all_images() -> None:
    assert zarr_output_names(paths(None, "/data/deep/raw.tif", None)) == [
        (Path("prediction.zarr"), "0"),
        (Path("raw.zarr"), ""),
        (Path("prediction.zarr"), "2"),
    ]


BOTH = [".tiff", ".zarr"]
BETWEEN = "/data/between.tif"
REFUSED: list[tuple[list[str], list[str | None], list[str]]] = [
    # For these outputs, of these sources, in these words.
    (BOTH, ["/data/raw.tif", BETWEEN, "/data/raw.tiff"], ["/data/raw.tif and /data/raw.tiff would both be written to"]),
    (BOTH, ["/data/raw.tif", BETWEEN, "/data/raw.zarr"], ["/data/raw.tif and /data/raw.zarr would both be written to"]),
    (BOTH, ["/data/raw.zarr", BETWEEN, "/data/raw.zarr/0"], ["/data/raw.zarr and /data/raw.zarr/0 would both be"]),
    (
        BOTH,
        ["/data/a/raw.zarr/left", BETWEEN, "/data/a/raw_left.tif"],
        ["raw.zarr/left and /data/a/raw_left.tif would"],
    ),
    (
        BOTH,
        ["/data/a/raw.tif", "/data/b/raw.tif", "/data/a/raw.zarr"],
        ["/data/a/raw.tif and /data/a/raw.zarr", "to a/raw."],
    ),
    (BOTH, ["/data/raw.tif", "/data/a.tif", "/data/raw.tif"], ["/data/raw.tif is given twice, as number 0 and 2"]),
    (BOTH, ["/data/here/../raw.tif", "/data/raw.tif"], ["is given twice"]),
    ([".tiff"], ["/data/prediction_1.tif", None], ["/data/prediction_1.tif", "array 1", "would both be written to"]),
    ([".tiff"], [None, "/data/prediction_0.tif"], ["array 0", "/data/prediction_0.tif", "would both be written to"]),
    ([".zarr"], ["/data/prediction.tif", None], ["/data/prediction.tif and an array would share prediction.zarr"]),
    ([".zarr"], [None, "/data/prediction.tif"], ["/data/prediction.tif and an array would share prediction.zarr"]),
]


@pytest.mark.parametrize("extension", BOTH)
@pytest.mark.parametrize(("refused", "sources", "words"), REFUSED)
def test_sources_of_one_output_are_refused_by_their_names(
    refused: list[str], sources: list[str | None], words: list[str], extension: str
) -> None:
    if extension not in refused:
        assert len(set(outputs(extension, *sources))) == len(sources)
        return
    with pytest.raises(DestinationError) as caught:
        outputs(extension, *sources)
    assert all(word in str(caught.value) for word in words)


def test_relative_and_absolute_paths_can_be_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A Zarr array that was opened by a relative path knows no other.
    monkeypatch.chdir(tmp_path)
    names = outputs(".zarr", "left/raw.zarr", str(tmp_path / "right" / "raw.tif"))
    assert names == ["left/raw.zarr", "right/raw.zarr"]


def test_arrays_share_a_zarr_store_and_have_a_file_each_of_any_other_kind() -> None:
    sources = (None, "/data/raw.tif", None)
    assert outputs(".zarr", *sources) == ["prediction.zarr/0", "raw.zarr", "prediction.zarr/2"]
    assert outputs(".tiff", *sources) == ["prediction_0.tiff", "raw.tiff", "prediction_2.tiff"]
    assert outputs(".ome.zarr", *sources) == ["prediction_0.ome.zarr", "raw.ome.zarr", "prediction_2.ome.zarr"]


@pytest.mark.parametrize("extension", BOTH)
def test_no_output_lies_in_another_or_outside_the_folder(extension: str) -> None:
    names = output_names(
        paths("/data/raw.tif", "/data/raw/raw.tif", "/data/raw.zarr/x", None, "/data/here/../../other.tif"), extension
    )
    assert len(set(names)) == 5
    for name in names:
        assert not name.is_absolute()
        assert ".." not in name.parts
        assert not any(parent in names for parent in name.parents)


# --- Of one file.


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("file", "extension", "name"),
    [
        ("/data/raw.tif", ".tiff", "raw.tiff"),
        ("a.b.tif", ".tiff", "a.b.tiff"),
        ("cells_v1.2.ome.tif", ".zarr", "cells_v1.2.ome.zarr"),
        ("raw/with space.npy", ".ome.tiff", "with space.ome.tiff"),
        ("raw.zarr/left", ".tiff", "raw_left.tiff"),
        ("raw.zarr", ".zarr", "raw.zarr"),
        ("no_ending", ".tiff", "no_ending.tiff"),
        ("prediction_3", ".tiff", "prediction_3.tiff"),
    ],
)
def test_a_file_is_written_under_its_name_in_the_folder(as_text: bool, file: str, extension: str, name: str) -> None:
    kind: Any = str if as_text else Path
    path = tw.create_write_file_path(kind("out/here"), kind(file), extension)
    assert isinstance(path, Path)
    assert path == Path("out/here") / name
    assert path == tw.create_write_file_path(dirpath="out/here", file_path=file, write_extension=extension)


@pytest.mark.parametrize("extension", ["tiff", "", ".", "tiff.", None, 3])
def test_an_ending_without_its_dot_is_refused(extension: Any) -> None:
    with pytest.raises(ValueError, match=r"write_extension must be .* with its dot") as caught:
        tw.create_write_file_path("out", "raw.tif", extension)
    assert repr(extension) in str(caught.value)


# --- Of one sample.


def tiff(path: Path, shape: tuple[int, ...]) -> Path:
    tifffile.imwrite(path, np.zeros(shape, "uint8"), photometric="minisblack")
    return path


def both(sources: Any, axes: str) -> list[Any]:
    """The two datasets of these sources."""
    return [tw.IterablePredDataset(sources, axes), tw.IterableTiledPredDataset(sources, axes, (4, 4), (2, 2))]


def test_each_of_several_files_of_one_sample_has_its_own_path(tmp_path: Path) -> None:
    files = [tiff(tmp_path / f"{name}.tif", (5, 6)) for name in "abcd"]
    for dataset in both(files, "YX"):
        assert [tw.get_sample_file_path(dataset, sample) for sample in range(4)] == files


def test_samples_and_frames_of_a_file_have_its_path(tmp_path: Path) -> None:
    files = [tiff(tmp_path / f"{s}x{t}.tif", (s, 5, t, 6)) for s, t in ((2, 3), (1, 1), (1, 4), (5, 1))]
    expected = [file for file, count in zip(files, (6, 1, 4, 5), strict=True) for _ in range(count)]
    for dataset in both(files, "SYTX"):
        assert [tw.get_sample_file_path(dataset, sample) for sample in range(16)] == expected


def test_the_path_of_a_sample_is_that_of_the_file_it_was_read_from(tmp_path: Path) -> None:
    files = [tmp_path / f"{value}.tif" for value in (3, 1, 2)]
    for file in files:
        tifffile.imwrite(file, np.full((2, 5, 6), int(file.stem), "uint8"), photometric="minisblack")
    dataset, cut = both(files, "TYX")
    for sample, number in dataset:
        assert tw.get_sample_file_path(dataset, number).stem == str(int(sample[0, 0, 0]))
    for tile, information in cut:
        assert tw.get_sample_file_path(cut, information.sample_id).stem == str(int(tile[0, 0, 0]))


def test_samples_of_arrays_have_the_name_of_their_image(tmp_path: Path) -> None:
    file = tiff(tmp_path / "raw.tif", (2, 5, 6))
    expected = ["prediction_0", "prediction_0", str(file), str(file), "prediction_2", "prediction_2"]
    for dataset in both([np.zeros((2, 5, 6)), file, np.zeros((2, 5, 6))], "SYX"):
        found = [tw.get_sample_file_path(dataset, sample) for sample in range(6)]
        assert found == [Path(path) for path in expected]
        names = [tw.create_write_file_path("", path, ".tiff").as_posix() for path in found[::2]]
        # Both ways to a name lead to the same.
        assert names == outputs(".tiff", None, str(file), None)


def test_a_foreign_dataset_names_its_files_one_sample_each() -> None:
    class Foreign:
        data_files = ("raw/a.b.tif", Path("raw/c.tif"))

    found = [tw.get_sample_file_path(Foreign(), sample) for sample in range(2)]
    assert found == [Path("raw/a.b.tif"), Path("raw/c.tif")]
    assert all(isinstance(path, Path) for path in found)


def test_a_dataset_without_names_is_refused() -> None:
    class Nameless:
        pass

    with pytest.raises(TypeError, match="Nameless has neither `images` nor `data_files`"):
        tw.get_sample_file_path(Nameless(), 0)


@pytest.mark.parametrize("sample", [-1, 4, 100])
def test_a_sample_that_no_image_has_is_refused(sample: int) -> None:
    class Foreign:
        data_files = ("a.tif", "b.tif", "c.tif", "d.tif")

    for dataset in [*both([np.zeros((3, 5, 6)), np.zeros((1, 5, 6))], "SYX"), Foreign()]:
        with pytest.raises(TileMismatchError, match=f"no sample {sample} in the dataset"):
            tw.get_sample_file_path(dataset, sample)
