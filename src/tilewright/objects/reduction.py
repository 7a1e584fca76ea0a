"""Reduction of elements to those of a coarser level, block by block: two elements on each halved axis.

The result does not depend on how an image is cut: blocks begin on even elements. At an odd end they are shorter.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray

SLAB_NBYTES = 2**19
"""Bytes that are reduced at a time, about: sums of them stay in the cache of a core."""
_SUM_DTYPES = {1: np.int16, 2: np.int32, 4: np.int64}
"""Whole numbers that hold the sum of a block, by the bytes of an element."""


def reduced(image: AnyArray, factors: Sequence[int], reduction: str) -> AnyArray:
    """Return an image on the next coarser level.

    Parameters
    ----------
    image : array
        Elements of any data type, from an even element on.
    factors : sequence of {1, 2}
        Elements per block on each axis.
    reduction : {"mean", "mode"}
        ``"mean"`` is computed in double precision and rounded to the data type, halves to the even number; ``"mode"``
        is the most frequent value, the smallest of several, and is never converted.

    Returns
    -------
    array
        In the data type of the image. An odd end is a block of one element on its axis.

    Examples
    --------
    >>> reduced(np.array([[1, 2, 9], [2, 2, 9]], "uint8"), (2, 2), "mean").tolist()
    [[2, 9]]
    >>> reduced(np.array([[1, 7, 9], [7, 3, 4]], "uint8"), (2, 2), "mode").tolist()
    [[7, 4]]
    """
    out = np.empty([-(-extent // factor) for extent, factor in zip(image.shape, factors, strict=True)], image.dtype)
    axis = next((axis for axis, factor in enumerate(factors) if factor == 2), 0)
    pair_nbytes = 2 * prod(image.shape) // image.shape[axis] * image.itemsize
    step = max(1, SLAB_NBYTES // max(1, pair_nbytes))
    reduce_slab = _means if reduction == "mean" else _modes
    before = (slice(None),) * axis
    for start in range(0, out.shape[axis], step):
        slab = image[(*before, slice(factors[axis] * start, factors[axis] * (start + step)))]
        out[(*before, slice(start, start + step))] = reduce_slab(slab, factors)
    return out


def _means(slab: AnyArray, factors: Sequence[int]) -> AnyArray:
    is_whole = slab.dtype.kind in "iu"
    sum_dtype = np.dtype(_SUM_DTYPES.get(slab.itemsize, np.float64) if is_whole else np.float64)
    sums: AnyArray = slab
    for axis, factor in enumerate(factors):
        if factor == 2:
            sums = _sum_of_pairs(sums, axis, sum_dtype)
    with np.errstate(over="ignore"):
        # Rounded once, from a sum that is exact but for doubles and whole numbers of 64 bits.
        means = np.multiply(sums, 1 / prod(factors), dtype=np.float64)
        return _whole(means, slab.dtype) if is_whole else means.astype(slab.dtype)


def _whole(means: Any, dtype: "np.dtype[Any]") -> Any:
    """Return means as whole numbers; of 64 bits the largest one is no double, and would overflow."""
    rounded = np.rint(means)
    if dtype.itemsize < 8:
        return rounded.astype(dtype)
    limits = np.iinfo(dtype)
    is_above = rounded >= float(limits.max)
    return np.where(is_above, np.array(limits.max, dtype), np.where(is_above, 0, rounded).astype(dtype))


def _sum_of_pairs(image: AnyArray, axis: int, dtype: "np.dtype[np.generic]") -> AnyArray:
    """Return the sums of pairs along an axis; what has no pair at the end counts twice, as the mean of one element."""
    before = (slice(None),) * axis
    first, second = image[(*before, slice(0, None, 2))], image[(*before, slice(1, None, 2))]
    pairs = second.shape[axis]
    sums = first.astype(dtype)
    sums[(*before, slice(pairs))] += second
    if first.shape[axis] > pairs:
        sums[(*before, slice(pairs, None))] *= 2
    return sums


def _modes(slab: AnyArray, factors: Sequence[int]) -> AnyArray:
    for axis, (extent, factor) in enumerate(zip(slab.shape, factors, strict=True)):
        if extent % factor:
            # What has no pair counts twice, so that each block has equally many.
            slab = np.concatenate([slab, slab[(slice(None),) * axis + (slice(extent - 1, None),)]], axis)
    corners = [
        slab[tuple(slice(start, None, factor) for start, factor in zip(starts, factors, strict=True))]
        for starts in product(*map(range, factors))
    ]
    best, best_count = corners[0], np.zeros(corners[0].shape, np.int8)
    for corner in corners:
        count = reduce(np.add, ((corner == other).view(np.int8) for other in corners))
        is_smaller: Any = np.less(corner, best)
        is_better = (count > best_count) | ((count == best_count) & is_smaller)
        best, best_count = np.where(is_better, corner, best), np.maximum(count, best_count)
    return best
