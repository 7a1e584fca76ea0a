"""Every argument of a public function, given a wrong type or value, is an error that names it, and makes nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from tests.doors.conftest import IMAGE, REQUEST, is_raised_here, negated

import tilewright as tw

NAN, INFINITE = float("nan"), float("inf")
NO_WHOLE_NUMBERS = [NAN, INFINITE, True, "x", b"ab", 1.5, {16}, [], -1, 0, 10**30]
NO_EXTENTS = [5, {16, 17}, b"ab", (NAN, 8), (True, True), (32.5, 32), (-1, 8), (10**30, 2), {"Y": 1}, ("32", "32")]
NO_SECONDS = [NAN, INFINITE, -1, "x", None, True, {1}]
NO_AXES = ["QQ", "YY", "yx", "ZYX", 5, None, b"YX", ["Y", "X"]]
NO_TYPES = ["complex64", "nothing", "datetime64[s]", "O", "U5", object]
NO_FILL_VALUES = ["x", None, [], {}, b"a", (1, 2), 1 + 2j, NAN, 10**30, -1]
NO_COMPRESSORS = ["zip", {}, {"name": "nope"}, 5, [5], zarr.codecs.BytesCodec(), zarr.codecs.ZstdCodec]
NO_FORMATS = [4, 1, "3", None, True, 2.5, []]
NO_PATHS = ["", "s3://bucket/x", 5, None, []]
NO_RANGES = [5, "01", (0,), (0, 1, 2), (1, 0), (1, 1), (0, NAN), (-INFINITE, 1), (False, 1), ("0", "1"), {0, 1}]
NO_RANGES += [(0, 5e-324), (-1.7e308, 1.7e308)]
NO_WORDS = ["x", None, 5, [], {}, True]


def predicting(**options: Any) -> Any:
    arguments = {"model": negated, "source": IMAGE, "destination": "out.zarr", **REQUEST} | options
    return tw.predict_to_zarr(**arguments)


def predicting_labels(**options: Any) -> Any:
    return predicting(dtype="uint8", **options)


def predicting_with_a_network(**options: Any) -> Any:
    return predicting(model=torch.nn.Conv2d(1, 1, 1), **options)


def planning(**options: Any) -> Any:
    return tw.plan_write(**{"shape": (64, 64), "axes": "YX", "tile_size": (32, 32), "overlap": (8, 8)} | options)


def tiling(**options: Any) -> Any:
    return tw.IterableTiledPredDataset(
        **{"sources": IMAGE, "axes": "YX", "tile_size": (24, 24), "overlaps": (8, 8)} | options
    )


def caching(**options: Any) -> Any:
    return tw.CacheTiles(**{"write_func": tw.write_tiff, "write_extension": ".tif"} | options)


def writing_images(**options: Any) -> Any:
    return tw.WriteImage(**{"write_func": tw.write_tiff, "write_extension": ".tif"} | options)


def calling_back(**options: Any) -> Any:
    return tw.PredictionWriterCallback(**{"write_strategy": tw.WriteTilesZarr(), "dirpath": "/predictions"} | options)


def zarr_of(**options: Any) -> Any:
    return tw.write_zarr(**{"file_path": "out.zarr", "img": IMAGE} | options)


def tiff_of(**options: Any) -> Any:
    return tw.write_tiff(**{"file_path": "out.tif", "img": IMAGE} | options)


def verifying(**options: Any) -> Any:
    return tw.verify(**{"destination": "nowhere.zarr", "progress": False} | options)


def repairing(**options: Any) -> Any:
    return tw.repair(**{"destination": "nowhere.zarr", "model": negated, "progress": False} | options)


def extracting(**options: Any) -> Any:
    return list(tw.extract_tiles(**{"arr": IMAGE[None, None], "tile_size": (24, 24), "overlaps": (8, 8)} | options))


def sampling(**options: Any) -> Any:
    return tw.IterablePredDataset(**{"sources": IMAGE, "axes": "YX"} | options)


def stitching(**options: Any) -> Any:
    return tw.stitch_prediction(**{"tiles": [IMAGE], "tile_infos": [object()]} | options)


WRONG: dict[Callable[..., Any], dict[str, list[Any]]] = {
    predicting: {
        "model": [5, None, "x", []],
        "source": ["", "nowhere.tif", 5, None, [], "http://x", IMAGE.tolist(), object()],
        "destination": [*NO_PATHS, "/", object()],
        "axes": NO_AXES,
        "tile_size": NO_EXTENTS,
        "overlap": NO_EXTENTS,
        "layout": NO_WORDS,
        "chunks": [*NO_EXTENTS, "x", (2**40, 8), (10**12, 8)],
        "shards": [*NO_EXTENTS, "x", (2**40, 8)],
        "compressors": NO_COMPRESSORS,
        "dtype": NO_TYPES,
        "fill_value": NO_FILL_VALUES[:7],
        "zarr_format": NO_FORMATS,
        "batch_size": NO_WHOLE_NUMBERS,
        "client": [5, "tcp://host:1", object()],
        "if_exists": NO_WORDS,
        "memory_nbytes": NO_WHOLE_NUMBERS,
        "progress": ["x", None, 5, []],
        "on_plan": [5, "x"],
        "ledger": ["", "/", "s3://bucket/x", 5, b"a"],
        "grace_seconds": NO_SECONDS,
        "series": [*NO_WHOLE_NUMBERS[:8], -1, 99],
        "value_range": [(0, 1), *NO_RANGES],
        "read_source_func": [5, "x", lambda path, axes: IMAGE],
    },
    predicting_labels: {"fill_value": NO_FILL_VALUES, "value_range": NO_RANGES},
    predicting_with_a_network: {"device": ["x", "tpu", "cuda:99", 5, None]},
    planning: {
        "shape": NO_EXTENTS,
        "axes": NO_AXES,
        "tile_size": NO_EXTENTS,
        "overlap": NO_EXTENTS,
        "layout": NO_WORDS,
        "chunks": NO_EXTENTS,
        "shards": NO_EXTENTS,
        "dtype": NO_TYPES,
        "channels": NO_WHOLE_NUMBERS,
        "memory_nbytes": NO_WHOLE_NUMBERS,
        "window_nbytes": NO_WHOLE_NUMBERS,
        "read_source_func": [lambda path, axes: IMAGE],
    },
    tw.WriteTilesZarr: {
        "value_range": [(0, 1), *NO_RANGES],
        "client": [5, "tcp://host:1", object()],
        "chunks": [*NO_EXTENTS, "x"],
        "shards": [*NO_EXTENTS, "x"],
        "compressors": NO_COMPRESSORS,
        "dtype": NO_TYPES,
        "fill_value": NO_FILL_VALUES[:7],
        "zarr_format": NO_FORMATS,
        "if_exists": NO_WORDS,
        "window_nbytes": NO_WHOLE_NUMBERS,
    },
    tiling: {
        "sources": ["nowhere.tif", 5, None, [], [IMAGE, None]],
        "axes": NO_AXES,
        "tile_size": NO_EXTENTS,
        "overlaps": NO_EXTENTS,
        "borders": NO_EXTENTS,
        "dtype": NO_TYPES,
        "read_source_func": [5, "x"],
    },
    caching: {
        "write_func": [5, None, "x"],
        "write_extension": ["tif", ".", "", 5, "a/.tif"],
        "write_func_kwargs": [{"nope": 1}, 5, "x"],
        "client": [5, "x"],
        "memory_nbytes": NO_WHOLE_NUMBERS,
    },
    writing_images: {
        "write_func": [5, None, "x"],
        "write_extension": ["tif", ".", "", 5],
        "write_func_kwargs": [{"nope": 1}, 5, "x"],
    },
    calling_back: {
        "write_strategy": [None, tw.WriteTilesZarr, 5, "zarr"],
        "dirpath": ["", "s3://bucket/x", 5, None],
    },
    zarr_of: {
        "file_path": NO_PATHS,
        "img": ["x", None, np.zeros((3, 0)), IMAGE.astype(str), np.ma.masked_greater(IMAGE, 9)],
        "axes": ["QQ", "YY", "XY", "ZYX", 5],
        "chunks": NO_EXTENTS,
        "compressors": NO_COMPRESSORS,
        "fill_value": NO_FILL_VALUES[:7],
        "zarr_format": NO_FORMATS,
    },
    tiff_of: {
        "file_path": ["x.invalid", 5, None, ""],
        "img": ["x", None, np.zeros(3), IMAGE.astype(object), np.ma.masked_greater(IMAGE, 9)],
        "nope": [1],
    },
    verifying: {"destination": [*NO_PATHS, "nowhere.zarr"], "ledger": ["", 5, "nowhere"]},
    repairing: {"destination": [*NO_PATHS, "nowhere.zarr"], "ledger": ["", 5, "nowhere"]},
    extracting: {"arr": ["x", None, 5], "tile_size": NO_EXTENTS, "overlaps": NO_EXTENTS},
    sampling: {"sources": ["nowhere.tif", 5, None, []], "axes": NO_AXES, "dtype": NO_TYPES, "read_source_func": [5]},
    stitching: {"tiles": ["x", None, 5, [], [5]], "tile_infos": ["y", None, 5, [], [5]]},
}


def rows() -> Iterator[Any]:
    for function, arguments in WRONG.items():
        for name, values in arguments.items():
            for number, value in enumerate(values):
                yield pytest.param(function, name, value, id=f"{function.__name__}-{name}-{number}")


@pytest.mark.parametrize(("function", "name", "value"), list(rows()))
def test_a_wrong_argument_is_named_and_makes_nothing(
    function: Callable[..., Any], name: str, value: Any, folder: Path
) -> None:
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        function(**{name: value})
    assert is_raised_here(caught.value), caught.value
    assert not list(folder.iterdir())


def test_a_generator_is_no_sequence(folder: Path) -> None:
    with pytest.raises(ValueError, match="tile_size must be a sequence of whole numbers, got <generator"):
        planning(tile_size=(size for size in (32, 32)))


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(2)])
def test_numbers_of_numpy_are_whole_numbers(number: Any, folder: Path) -> None:
    report = predicting(zarr_format=number, batch_size=np.int64(2), chunks=np.array([16, 16]))
    assert report.array.metadata.zarr_format == number
    np.testing.assert_array_equal(report.array[...], -IMAGE)


@pytest.mark.parametrize("place", ["chunks", "fill_value", "compressors"])
def test_what_is_there_outlives_a_wrong_argument(place: str, folder: Path) -> None:
    predicting()
    wrong: dict[str, Any] = {"chunks": (10**12, 8), "fill_value": "x", "compressors": {}}
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=place):
        predicting(if_exists="overwrite", **{place: wrong[place]})
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
