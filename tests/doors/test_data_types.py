"""Elements come out as they were predicted, whatever their type, order and place in memory, or the run is refused."""

import math
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doors.conftest import IMAGE, Predict

import tilewright as tw
from tilewright.conversion import ValueRange, converted, holds
from tilewright.errors import ModelOutputError, PredictionTypeError, ResumeError

NUMBERS = ["bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))]
TYPES = [*NUMBERS, "float16", "float32", "float64"]


def extremes_of(dtype: np.dtype[Any]) -> np.ndarray:
    """The values of a type that are hardest to hold."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return np.array([limits.min, -1.5, 0, limits.tiny, 1 + limits.eps, limits.max], dtype)
    limits = np.iinfo(dtype)
    return np.array([limits.min, limits.min // 2 + 1, 0, 1, limits.max // 2, limits.max - 1, limits.max], dtype)


@pytest.mark.parametrize("output", TYPES)
@pytest.mark.parametrize("values", TYPES)
def test_a_type_that_holds_another_one_gives_each_value_back(output: str, values: str) -> None:
    given = extremes_of(np.dtype(values))
    made, lost_count = converted(given, np.dtype(output), is_asked_for=True)
    comes_back = [before == after for before, after in zip(given.tolist(), made.tolist(), strict=True)]
    if holds(np.dtype(output), np.dtype(values)):
        assert all(comes_back)
        assert lost_count == 0
        converted(given, np.dtype(output), is_asked_for=False)
    else:
        with pytest.raises(ModelOutputError, match=f"is {values}, but that of the first tile was {output}.*dtype="):
            converted(given, np.dtype(output), is_asked_for=False)


@pytest.mark.parametrize("output", [name for name in TYPES if name != "bool"])
@pytest.mark.parametrize("values", TYPES)
def test_what_a_conversion_loses_is_counted_one_by_one(output: str, values: str) -> None:
    given = extremes_of(np.dtype(values))
    if given.dtype.kind == "f":
        given = np.concatenate([given, np.array([np.nan, np.inf, -np.inf, 0.4, -0.4], given.dtype)])
    _, lost_count = converted(given, np.dtype(output), is_asked_for=True)
    expected = 0
    for value in given.tolist():
        if np.dtype(output).kind == "f":
            limit = float(np.finfo(output).max)
            expected += abs(value) != np.inf and abs(value) > limit * (1 + 2**-13)
        elif value != value or abs(value) == np.inf:
            expected += 1
        else:
            expected += not np.iinfo(output).min <= round(value) <= np.iinfo(output).max
    assert lost_count == expected


INTEGERS = NUMBERS[1:]
REACH = st.one_of(st.integers(-(2**63), 2**64 - 1), st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -1]))


@given(st.lists(REACH, min_size=1), st.sampled_from(INTEGERS), st.sampled_from(INTEGERS))
def test_labels_become_other_labels_without_a_float(labels: list[int], values: str, output: str) -> None:
    held, within = np.iinfo(values), np.iinfo(output)
    given_labels = [label for label in labels if held.min <= label <= held.max]
    made, lost_count = converted(np.array(given_labels, values), np.dtype(output), is_asked_for=True)
    assert made.dtype == output
    assert made.tolist() == [min(max(label, int(within.min)), int(within.max)) for label in given_labels]
    assert lost_count == sum(before != after for before, after in zip(given_labels, made.tolist(), strict=True))


def test_labels_above_all_floats_are_stored_as_they_are(predict: Predict) -> None:
    labels = 2**53 + 1 + 2 * np.arange(40 * 56, dtype="int64").reshape(40, 56)
    report = predict(lambda tiles: tiles, labels, dtype="uint64")
    assert report.array[...].tolist() == labels.tolist()
    assert report.lost_count == 0


# --- A range of values.

ENDS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(
    st.tuples(ENDS, ENDS).filter(lambda ends: ends[0] + 1e-3 < ends[1]),
    st.sampled_from(INTEGERS),
    st.lists(st.one_of(st.floats(), st.floats(-1e6, 1e6)), min_size=1),
)
def test_a_range_fills_a_type_and_each_value_becomes_the_nearest_number(
    ends: tuple[float, float], output: str, values: list[float]
) -> None:
    mapped = ValueRange.of(ends, output)
    assert mapped is not None
    lower, upper = map(Fraction, ends)
    lowest, largest = int(np.iinfo(output).min), int(np.iinfo(output).max)
    made, lost_count = mapped.stored(np.array([*values, *ends, math.nan]))
    assert made.tolist()[-3:] == [lowest, largest, lowest]
    assert lost_count == 1 + sum(not ends[0] <= value <= ends[1] for value in values)
    for value, stored in zip(values, made.tolist(), strict=False):
        inside = min(max(value, ends[0]), ends[1]) if value == value else ends[0]
        exact = lowest + (Fraction(inside) - lower) / (upper - lower) * (largest - lowest)
        assert abs(stored - exact) <= Fraction(1, 2) + (largest - lowest) * Fraction(1, 2**50)


def test_halves_go_to_the_even_number() -> None:
    mapped = ValueRange.of((0, 255), "uint8")
    assert mapped is not None
    assert mapped.stored(np.array([0.5, 1.5, 2.5, 253.5, 254.5], "float32"))[0].tolist() == [0, 2, 2, 254, 254]


def test_a_range_is_read_back_from_the_attributes_alone(predict: Predict) -> None:
    image = np.linspace(-1.2, 1.1, 40 * 56, dtype="float32").reshape(40, 56)
    for number, options in enumerate([{"dtype": "uint16"}, {"dtype": "int8", "zarr_format": 2}]):
        report = predict(lambda tiles: tiles, image, f"{number}.zarr", value_range=(-1, 1), **options)
        group = zarr.open_group(f"{number}.zarr", mode="r")
        said = group.attrs["tilewright"]
        assert said["value_range"] == [-1, 1]
        read_back = group["0"][...] * np.float64(said["scale"]) + said["offset"]
        np.testing.assert_allclose(read_back, np.clip(image, -1, 1), atol=0.5001 * said["scale"])
        assert report.lost_count == np.count_nonzero(np.abs(image) > 1) > 0
        assert "lie outside of -1.0 to 1.0" in str(report)


def test_an_output_goes_on_with_its_own_range_only(predict: Predict, folder: Path) -> None:
    image = np.linspace(0, 1, 40 * 56).reshape(40, 56)
    arguments: dict[str, Any] = {"model": np.positive, "source": image, "dtype": "uint8"}
    stored = predict(**arguments, value_range=(0, 1)).array[...]
    for other in ((0, 2), None):
        with pytest.raises(ResumeError, match=r"value range: \[0.0, 1.0\] then"):
            tw.predict_to_zarr(
                **arguments, destination="out.zarr", axes="YX", tile_size=(24, 24), overlap=(8, 8),
                value_range=other, if_exists="resume", progress=False,
            )  # fmt: skip
    Path("out.zarr/0/c/0/0").unlink()
    report = tw.repair("out.zarr", np.positive, image, progress=False)
    np.testing.assert_array_equal(report.array[...], stored)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_labels_are_never_scaled(dtype: str, predict: Predict) -> None:
    with pytest.raises(PredictionTypeError, match=f"value_range scales floats, .* is {dtype}, whole numbers such as"):
        predict(lambda tiles: tiles.astype(dtype), dtype="uint8", value_range=(0, 1))


def test_a_range_of_a_plan_is_mapped_onto_its_data_type(predict: Predict) -> None:
    plan = tw.plan_write((40, 56), "YX", (24, 24), (8, 8), dtype="uint8")
    nothing: dict[str, Any] = dict.fromkeys(["axes", "tile_size", "overlap"])
    report = predict(np.positive, plan=plan, value_range=(0, 510), **nothing)
    np.testing.assert_array_equal(report.array[...], np.rint(IMAGE / 2))
    with pytest.raises(ValueError, match="value_range is mapped onto an integer data type, got dtype='float32'"):
        predict(plan=tw.plan_write((40, 56), "YX", (24, 24), (8, 8), dtype="float32"), value_range=(0, 1), **nothing)


LATER = [
    ("uint16", "uint32", False),
    ("bool", "float32", False),
    ("uint8", "float32", False),
    ("float32", "float64", False),
    ("int64", "float64", False),
    ("float32", "uint16", True),
    ("uint16", "uint8", True),
    ("float64", "float32", True),
    ("uint8", "bool", True),
]


def after_the_first(image: np.ndarray, first: str, later: str) -> Any:
    """A model that returns another data type for all tiles but the first."""
    corner = image[0, 0]

    def model(tiles: np.ndarray) -> np.ndarray:
        return tiles.astype(first if tiles[0, 0, 0, 0] == corner else later)

    return model


@pytest.mark.slow
@pytest.mark.parametrize(("first", "later", "is_held"), LATER)
@pytest.mark.parametrize("layout", ["compact", "aligned"])
def test_a_later_type_is_held_exactly_or_refused(
    first: str, later: str, is_held: bool, layout: str, predict: Predict
) -> None:
    image = np.zeros((40, 56), "float32")
    image[24:, 30:] = 1
    image[0, 0] = 2
    model = after_the_first(image, first, later)
    if is_held:
        report = predict(model, image, layout=layout)
        assert report.array.dtype == first
        np.testing.assert_array_equal(report.array[1:], image[1:])
        return
    with pytest.raises(
        ModelOutputError, match=f"of tile .* is {later}, but that of the first tile was {first}.*dtype="
    ):
        # What is written before the first tile of that type stays, as that of any other run that fails.
        tw.predict_to_zarr(
            model, image, "out.zarr", axes="YX", tile_size=(24, 24), overlap=(8, 8), layout=layout, progress=False
        )


def test_a_type_that_was_chosen_is_a_conversion_and_losses_are_reported(predict: Predict) -> None:
    image = np.linspace(-50, 400, 40 * 56, dtype="float32").reshape(40, 56)
    report = predict(lambda tiles: tiles, image, dtype="uint8")
    np.testing.assert_array_equal(report.array[...], np.clip(np.rint(image), 0, 255))
    assert report.lost_count >= np.count_nonzero((np.rint(image) < 0) | (np.rint(image) > 255)) > 0
    assert "do not fit uint8" in str(report)


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, str, tuple[int, ...], tuple[int, ...]]:
    """An image of any type, byte order and strides, its axes in any order, and tiles about as large as it is."""
    spatial = draw(st.sampled_from(["YX", "ZYX"]))
    axes = "".join(draw(st.permutations([*spatial, *draw(st.sampled_from(["", "C", "T", "SC"]))])))
    tile = tuple(draw(st.integers(4, 12)) for _ in spatial)
    overlap = tuple(draw(st.integers(0, size // 2)) for size in tile)
    extents = {
        name: draw(st.integers(max(2, size - 2), 2 * size + 1)) for name, size in zip(spatial, tile, strict=True)
    }
    shape = tuple(extents.get(name, 2) for name in axes)
    dtype = np.dtype(draw(st.sampled_from(TYPES))).newbyteorder(draw(st.sampled_from("<>")))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2 if dtype.kind == "b" else 100, shape)
    image = values.astype(dtype)
    if draw(st.booleans()):
        image = np.asfortranarray(image)
    if draw(st.booleans()):
        image = np.repeat(image, 2, axis=-1)[..., ::2]
    return image[tuple(slice(None, None, draw(st.sampled_from([1, -1]))) for _ in axes)], axes, tile, overlap


@pytest.mark.slow
@settings(max_examples=60)
@given(images(), st.sampled_from(["compact", "aligned"]))
def test_any_image_comes_out_as_it_went_in(
    embedded: Client, drawn: tuple[np.ndarray, str, tuple[int, ...], tuple[int, ...]], layout: str
) -> None:
    image, axes, tile, overlap = drawn
    with tempfile.TemporaryDirectory() as folder:
        report = tw.predict_to_zarr(
            lambda tiles: tiles,
            image,
            Path(folder, "out.zarr"),
            axes=axes,
            tile_size=tile,
            overlap=overlap,
            layout=layout,
            client=embedded,
            progress=False,
        )
        expected = image.transpose([axes.index(name) for name in "STCZYX" if name in axes])
        np.testing.assert_array_equal(report.array[...], expected)
        assert report.array.dtype == image.dtype.newbyteorder("=")
