"""Elements come out as they were predicted, whatever their type, order and place in memory, or the run is refused."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doors.conftest import Predict

import tilewright as tw
from tilewright.conversion import converted, holds
from tilewright.errors import ModelOutputError

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
