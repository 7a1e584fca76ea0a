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

SLAB_NBYTES = 2**21
"""Bytes that are reduced at a time, about: few calls, and sums that stay in the cache of a processor."""
_SUM_DTYPES = {1: np.int16, 2: np.int32, 4: np.int64}
"""Whole numbers that hold the sum of a block, by the bytes of an element."""


class Reducer:
    """Reduction of images to the next coarser level; sums are made in memory that is kept for the next image.

    Parameters
    ----------
    factors : sequence of {1, 2}
        Elements per block on each axis.
    reduction : {"mean", "mode"}
        ``"mean"`` is computed exactly, or in double precision, and rounded to the data type, halves to the even number;
        ``"mode"`` is the most frequent value, the smallest of several, and is never converted.
    """

    def __init__(self, factors: Sequence[int], reduction: str) -> None:
        self._factors = tuple(factors)
        self._reduction = reduction
        self._halved = [axis for axis, factor in enumerate(factors) if factor == 2]
        self._memory: list[AnyArray] = [np.empty(0, np.uint8)] * len(self._factors)

    def __reduce__(self) -> tuple[type["Reducer"], tuple[tuple[int, ...], str]]:
        return Reducer, (self._factors, self._reduction)

    def reduce(self, image: AnyArray, out: AnyArray) -> None:
        """Fill `out` with an image, of any data type, on the next coarser level; the image begins at an even element.

        An odd end is a block of one element on its axis.
        """
        axis = self._halved[0] if self._halved else 0
        pair_nbytes = 2 * prod(image.shape) // image.shape[axis] * image.itemsize
        step = max(1, SLAB_NBYTES // max(1, pair_nbytes))
        reduce_slab = self._means if self._reduction == "mean" else self._modes
        before = (slice(None),) * axis
        for start in range(0, out.shape[axis], step):
            slab = image[(*before, slice(self._factors[axis] * start, self._factors[axis] * (start + step)))]
            reduce_slab(slab, out[(*before, slice(start, start + step))])

    def reduced(self, image: AnyArray) -> AnyArray:
        """Return an image on the next coarser level, in its data type."""
        shape = [-(-extent // factor) for extent, factor in zip(image.shape, self._factors, strict=True)]
        out: AnyArray = np.empty(shape, image.dtype)
        self.reduce(image, out)
        return out

    def _means(self, slab: AnyArray, out: AnyArray) -> None:
        is_exact = slab.dtype.kind in "iu" and slab.itemsize in _SUM_DTYPES
        sum_dtype: Any = np.dtype(_SUM_DTYPES[slab.itemsize] if is_exact else np.float64)
        sums: Any = slab.astype(sum_dtype) if not self._halved else slab
        with np.errstate(over="ignore"):
            for number, axis in enumerate(self._halved):
                sums = self._sums_of_pairs(number, sums, axis, sum_dtype)
            if is_exact:
                _divide(sums, len(self._halved), out)
                return
            # Rounded once, from a sum that is exact but for doubles and whole numbers of 64 bits.
            sums *= 1 / 2 ** len(self._halved)
            out[...] = _whole(sums, slab.dtype) if slab.dtype.kind in "iu" else sums

    def _sums_of_pairs(self, number: int, image: AnyArray, axis: int, dtype: "np.dtype[Any]") -> Any:
        """Return the sums of pairs along an axis; what has no pair at the end counts twice, as a mean of one."""
        before = (slice(None),) * axis
        first, second = image[(*before, slice(0, None, 2))], image[(*before, slice(1, None, 2))]
        paired, rest = (*before, slice(second.shape[axis])), (*before, slice(second.shape[axis], None))
        nbytes = first.size * dtype.itemsize
        if self._memory[number].nbytes < nbytes:
            self._memory[number] = np.empty(nbytes, np.uint8)
        sums: Any = self._memory[number][:nbytes].view(dtype).reshape(first.shape)
        if image.dtype == dtype:
            np.add(first[paired], second, out=sums[paired])
            np.add(first[rest], first[rest], out=sums[rest])
        else:
            # Two conversions of whole arrays are faster than sums of converted pieces.
            sums[...] = first
            sums[paired] += second
            sums[rest] += first[rest]
        return sums

    def _modes(self, slab: AnyArray, out: AnyArray) -> None:
        out[...] = _modes(slab, self._factors)


def reduced(image: AnyArray, factors: Sequence[int], reduction: str) -> AnyArray:
    """Return an image on the next coarser level, in its data type; see `Reducer`.

    Examples
    --------
    >>> reduced(np.array([[1, 2, 9], [2, 2, 9]], "uint8"), (2, 2), "mean").tolist()
    [[2, 9]]
    >>> reduced(np.array([[1, 7, 9], [7, 3, 4]], "uint8"), (2, 2), "mode").tolist()
    [[7, 4]]
    """
    return Reducer(factors, reduction).reduced(image)


def _divide(sums: Any, halvings: int, out: AnyArray) -> None:
    """Halve whole numbers some times, and round once, halves to the even number; the sums are overwritten."""
    quotients = sums >> halvings
    quotients &= 1
    sums += quotients
    sums += 2**halvings // 2 - 1 if halvings else 0
    sums >>= halvings
    out[...] = sums


def _whole(means: Any, dtype: "np.dtype[Any]") -> Any:
    """Return means as whole numbers of 64 bits; the largest one is no double, and would overflow."""
    rounded = np.rint(means)
    limits = np.iinfo(dtype)
    is_above = rounded >= float(limits.max)
    return np.where(is_above, np.array(limits.max, dtype), np.where(is_above, 0, rounded).astype(dtype))


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
