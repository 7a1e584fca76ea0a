"""A coarser level is made of blocks of the finer one, in whatever pieces it is made."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.support import coarser

from tilewright.objects.reduction import reduced

DTYPES = ("bool", "uint8", "int8", "uint16", "int32", "uint64", "int64", "float16", "float32", "float64")
FACTORS = st.sampled_from([(1, 2, 2), (2, 2, 2), (2, 1, 1), (1, 1, 2)])
SHAPES = st.tuples(*[st.integers(1, 7)] * 3)


def images(dtype: str) -> st.SearchStrategy[np.ndarray]:
    elements = None
    if dtype.startswith("float"):
        elements = st.floats(-1000, 1000, width=8 * np.dtype(dtype).itemsize)
    return arrays.arrays(dtype, SHAPES, elements=elements)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), factors=FACTORS)
def test_labels_are_the_most_frequent_of_their_block(dtype: str, data: st.DataObject, factors: tuple[int, ...]) -> None:
    image = data.draw(images(dtype))
    np.testing.assert_array_equal(reduced(image, factors, "mode"), coarser(image, factors, "mode"))


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "bool" and "64" not in dtype])
@given(data=st.data(), factors=FACTORS)
def test_intensities_are_the_mean_of_their_block(dtype: str, data: st.DataObject, factors: tuple[int, ...]) -> None:
    image = data.draw(images(dtype))
    found = reduced(image, factors, "mean")
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, coarser(image, factors, "mean"))


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_the_largest_numbers_do_not_overflow(dtype: str) -> None:
    limits = np.iinfo(dtype)
    image = np.array([[limits.max, limits.max, limits.min, limits.min]], dtype)
    assert reduced(image, (1, 2), "mean").tolist() == [[limits.max, limits.min]]


def test_labels_of_64_bits_never_pass_through_floats() -> None:
    image = np.array([[2**53 + 1, 2**53 + 1, 2**63 - 1, 2**63 - 2]], "int64")
    assert reduced(image, (1, 2), "mode").tolist() == [[2**53 + 1, 2**63 - 2]]


@given(image=images("float32"), cut=st.integers(0, 3), axis=st.integers(0, 2))
def test_pieces_that_are_cut_at_even_elements_are_the_whole(image: np.ndarray, cut: int, axis: int) -> None:
    pieces = [piece for piece in np.split(image, [2 * cut], axis) if piece.size]
    reduced_pieces = [reduced(piece, (2, 2, 2), "mean") for piece in pieces]
    np.testing.assert_array_equal(np.concatenate(reduced_pieces, axis), reduced(image, (2, 2, 2), "mean"))
