"""The window of a channel is the range of its finite values in the finished image, whatever befell the run."""

import json
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.strategies import in_small_units
from tests.support import tree
from zarr.storage import MemoryStore

import tilewright as tw
from tilewright.ledger.ledger import LedgerFolder
from tilewright.ledger.records import record_nbytes
from tilewright.objects.extremes import ImageExtremes, UnitExtremes
from tilewright.plan import WritePlan, plan_write

DTYPES = ["float16", "float32", "float64", "int8", "uint16", "int64", "uint64"]


def same(tiles: np.ndarray) -> np.ndarray:
    return tiles


def expected(image: np.ndarray, axes: str) -> list[tuple[Any, Any]]:
    """Least and greatest finite value of each channel of each sample, in numbers of Python."""
    if axes.startswith("S"):
        return [pair for sample in image for pair in expected(sample, axes[1:])]
    found = []
    for channel in np.moveaxis(image, axes.index("C"), 0) if "C" in axes else [image]:
        values = [value for value in channel.ravel().tolist() if np.isfinite(value)]
        found.append((min(values), max(values)) if values else (0, 1))
    return found


def assert_window(window: dict[str, Any], least: Any, greatest: Any) -> None:
    """A window is the range; that of a constant contains it and zero, since a window without a width shows nothing."""
    assert (window["min"], window["max"]) == (window["start"], window["end"])
    # Of two equal zeros, the one that comes last must not decide what is written.
    assert "-0.0" not in map(repr, window.values())
    if least < greatest:
        assert (window["min"], window["max"]) == (least, greatest)
    else:
        assert window["min"] < window["max"]
        assert least in (window["min"], window["max"])
        assert 0 in (window["min"], window["max"])


def documents_of(output: Path, plan: WritePlan, zarr_format: int = 3) -> list[Path]:
    """The files with the attributes of each image."""
    name = "zarr.json" if zarr_format == 3 else ".zattrs"
    return [(output / path).parent / name for path in plan.stored_paths(0)]


def windows_in(documents: list[Path]) -> list[dict[str, Any]]:
    """The windows in the attributes of groups, of either format."""
    found = []
    for document in map(json.loads, map(Path.read_text, documents)):
        said = document.get("attributes", document)
        found += [channel["window"] for channel in said.get("ome", said)["omero"]["channels"]]
    return found


@st.composite
def images(draw: st.DrawFn, axes: str) -> np.ndarray:
    """Images of all values that a data type has, often constant, or without a finite value in a channel."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = [draw(st.integers(1, 3 if axis in "STC" else 14)) for axis in axes]
    image = draw(arrays.arrays(dtype, tuple(shape), elements=arrays.from_dtype(dtype), fill=arrays.from_dtype(dtype)))
    if dtype.kind == "f" and "C" in axes and draw(st.booleans()):
        np.moveaxis(image, axes.index("C"), 0)[0] = draw(st.sampled_from([np.nan, np.inf]))
    return image


@st.composite
def requests(draw: st.DrawFn) -> tuple[np.ndarray, str, WritePlan, int]:
    """An image, its axes, a plan of small units, and a Zarr format; padding would change most windows."""
    axes = draw(st.sampled_from(["YX", "ZYX", "CYX", "TCYX", "CZYX", "SYX", "STCYX"]))
    image = draw(images(axes))
    spatial = sum(axis in "ZYX" for axis in axes)
    tile = [draw(st.integers(3, 9)) for _ in range(spatial)]
    zarr_format = draw(st.sampled_from([2, 3]))
    shards = draw(st.sampled_from([None, "auto"])) if zarr_format == 3 else None
    chunks = [1 if axis == "S" else draw(st.integers(1, 6)) for axis in axes]
    channels = image.shape[axes.index("C")] if "C" in axes else None
    options = {"layout": draw(st.sampled_from(["compact", "aligned"])), "chunks": chunks, "shards": shards}
    plan = plan_write(
        image.shape, axes, tile, [0] * spatial, dtype=image.dtype.name, channels=channels, levels=1, **options
    )
    return image, axes, in_small_units(plan), zarr_format


@given(requests(), st.randoms(use_true_random=False))
def test_the_extremes_of_all_units_are_those_of_the_image(drawn: Any, chance: Any) -> None:
    image, axes, plan, _ = drawn
    whole = ImageExtremes(plan)
    parts = plan.arrays[0].chunks
    for unit in chance.sample(range(plan.unit_count), plan.unit_count):
        of_unit = UnitExtremes(plan, unit)
        starts = [range(start, stop, part) for (start, stop), part in zip(plan.unit_region(unit), parts, strict=True)]
        for corner in product(*starts):
            ends = zip(corner, parts, image.shape, strict=True)
            region = tuple((start, min(start + part, extent)) for start, part, extent in ends)
            of_unit.add(region, image[tuple(slice(*interval) for interval in region)])
        whole.add(unit, of_unit.to_bytes())
        whole.add(unit, of_unit.to_bytes())
    for window, range_of_values in zip(windows_of(whole), expected(image, axes), strict=True):
        assert_window(window, *range_of_values)


def windows_of(extremes: ImageExtremes) -> list[dict[str, Any]]:
    """The windows, as they come out of a JSON document."""
    names = ("start", "end", "min", "max")
    pairs = [pair for of_sample in extremes.windows() for pair in of_sample]
    return [json.loads(json.dumps(dict(zip(names, 2 * pair, strict=True)))) for pair in pairs]


@given(arrays.arrays("uint16", st.integers(1, 3), elements=st.integers(0, 2**16 - 1)), st.sampled_from([0, 2**15]))
def test_few_numbers_of_16_bits_are_compared_as_what_they_are(bits: np.ndarray, sign: int) -> None:
    # All of them positive, or negative; or of both kinds.
    for image in ((bits % 2**15 + sign).astype("uint16").view("float16"), bits.view("float16")):
        plan = plan_write((1, len(image)), "YX", (1, len(image)), (0, 0), dtype="float16")
        of_unit, whole = UnitExtremes(plan, 0), ImageExtremes(plan)
        of_unit.add(((0, 1), (0, len(image))), image[np.newaxis])
        whole.add(0, of_unit.to_bytes())
        assert_window(*windows_of(whole), *expected(image, "YX")[0])


@pytest.mark.slow
@settings(max_examples=25)
@given(requests(), st.data())
def test_windows_are_those_of_the_finished_image_also_of_a_resumed_run(
    embedded: Client, drawn: Any, data: st.DataObject
) -> None:
    image, axes, plan, zarr_format = drawn
    # Parts are padded with it beyond the end of the image, where it may not count.
    largest = (np.finfo if image.dtype.kind == "f" else np.iinfo)(image.dtype).max
    options: dict[str, Any] = {"plan": plan, "zarr_format": zarr_format, "client": embedded, "progress": False}
    options["fill_value"] = largest
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.zarr")
        report = tw.predict_to_zarr(same, image, output, **options)
        whole = tree(output)
        documents = documents_of(output, plan, zarr_format)
        for window, extremes in zip(windows_in(documents), expected(report.array[...], axes), strict=True):
            assert_window(window, *extremes)
        yaozarrs.validate_zarr_store(output)
        # Some units are lost, and some are not recorded.
        (file,) = Path(f"{output}.ledger").glob("*.ledger")
        record_count = data.draw(st.integers(0, plan.unit_count))
        nbytes = record_nbytes(plan) * (plan.unit_count - record_count)
        file.write_bytes(file.read_bytes()[: file.stat().st_size - nbytes])
        objects = sorted(path for path in output.rglob("*") if path.is_file() and path.name.isdigit())
        for lost in data.draw(st.sets(st.sampled_from(objects), max_size=3)):
            lost.unlink()
        if data.draw(st.booleans()):
            # As a run leaves it that is killed before it writes the windows.
            documents[-1].unlink()
        tw.predict_to_zarr(same, image, output, if_exists="resume", **options)
        assert tree(output) == whole
        store = MemoryStore()
        tw.predict_to_zarr(same, image, store, **options)
        assert {key: store._store_dict[key].to_bytes() for key in whole} == whole


@dataclass
class Times:
    """A model whose attributes are not compared with those of the run before."""

    factor: float

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return (self.factor * tiles).astype(tiles.dtype)


@given(st.sets(st.integers(0, 8), min_size=1), st.sampled_from([-3.0, 0.5, 3.0]))
@settings(max_examples=15)
def test_a_repair_that_changes_values_changes_the_window(embedded: Client, lost: set[int], factor: float) -> None:
    image = np.arange(1, 26 * 26 + 1, dtype="float32").reshape(26, 26)
    plan = in_small_units(plan_write(image.shape, "YX", (10, 10), (0, 0), layout="aligned", chunks=(10, 10)))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.zarr")
        tw.predict_to_zarr(Times(1), image, output, plan=plan, client=embedded, progress=False)
        for number in lost:
            Path(output, "0", "c", *map(str, divmod(number, 3))).unlink()
        report = tw.repair(output, Times(factor), image, client=embedded, progress=False)
        assert report.unit_count == len(lost)
        (window,) = windows_in(documents_of(output, plan))
        assert_window(window, *expected(report.array[...], "YX")[0])
        assert len(LedgerFolder(Path(f"{output}.ledger")).records()) == plan.unit_count
