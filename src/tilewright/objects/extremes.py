"""The extremes of a channel are its least and its greatest finite value; those of an image follow from its units'.

Each sample has its own. In the arrays here, the first axis holds the least and the greatest values, and samples and
channels come next.
"""

from math import inf, isfinite, prod
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray, slices_of
from tilewright.geometry import Region, extents_of, relative_to
from tilewright.plan import WritePlan


class UnitExtremes:
    """Extremes of the channels of a unit of the full resolution, taken part by part.

    Parameters
    ----------
    plan : WritePlan
        The plan.
    unit : int
        Number of the unit.

    Examples
    --------
    >>> from tilewright.plan import plan_write
    >>> extremes = UnitExtremes(plan_write((1, 4), "YX", (1, 4), (0, 0), dtype="float32"), 0)
    >>> extremes.add(((0, 1), (0, 3)), np.array([[2, np.nan, 5]], "float32"))
    >>> np.frombuffer(extremes.to_bytes(), "<f4").tolist()
    [2.0, 5.0]
    """

    def __init__(self, plan: WritePlan, unit: int) -> None:
        self._axes = plan.axes
        self._dtype = plan.dtype
        self._channels = _channels_in(plan.unit_region(unit), plan.axes)
        # Those of each part, by its channels: to compare them one by one costs more than to keep them.
        self._of_parts: dict[Region, list[AnyArray]] = {}

    def add(self, region: Region, inside: AnyArray) -> None:
        """Take in a part, as far as the image reaches; it may come again."""
        values = inside if self._axes[0] == "S" else inside[np.newaxis]
        if "C" in self._axes:
            values = values.swapaxes(1, self._axes.index("C") + values.ndim - inside.ndim)
        else:
            values = values[:, np.newaxis]
        self._of_parts.setdefault(_channels_in(region, self._axes), []).append(_extremes_of(values))

    def to_bytes(self) -> bytes:
        """Return the extremes of each channel, one after the other, in the data type of the image, little-endian.

        The least value of a channel without a finite value is above the greatest one.
        """
        extremes = _of_nothing(self._dtype, self._channels)
        for channels, parts in self._of_parts.items():
            least, greatest = np.array(parts).swapaxes(0, 1)
            at = slices_of(relative_to(channels, [start for start, _ in self._channels]))
            _widen(extremes[:, *at], least.min(axis=0), greatest.max(axis=0))
        pairs = np.moveaxis(extremes, 0, -1)
        return pairs.astype(pairs.dtype.newbyteorder("<"), copy=False).tobytes()


class ImageExtremes:
    """Extremes of the channels of an image, or of each sample, from those of its units.

    Parameters
    ----------
    plan : WritePlan
        The plan.
    """

    def __init__(self, plan: WritePlan) -> None:
        self._plan = plan
        self._dtype = np.dtype(plan.dtype).newbyteorder("<")
        whole = tuple((0, extent) for extent in plan.shape)
        self._extremes = _of_nothing(plan.dtype, _channels_in(whole, plan.axes) if plan.extremes_nbytes else ())

    def add(self, unit: int, extremes: bytes) -> None:
        """Take in the extremes of a unit; those of units of coarser levels do not count, and any may come again."""
        if not self._plan.extremes_nbytes or unit >= self._plan.finest_unit_count:
            return
        channels = _channels_in(self._plan.unit_region(unit), self._plan.axes)
        shape = (*extents_of(channels), 2)
        pairs = np.frombuffer(extremes, self._dtype, prod(shape)).reshape(shape)
        _widen(self._extremes[:, *slices_of(channels)], pairs[..., 0], pairs[..., 1])

    def windows(self) -> list[list[tuple[float, float]]]:
        """Return the window of each channel, by sample, once each unit was added; none where no extremes are taken.

        A window has a width: that of a constant channel reaches to zero, or from 0 to 1 where the constant is zero. So
        does that of a channel without finite values, since each channel must have one.
        """
        if not self._plan.extremes_nbytes:
            return []
        # There are two zeros, and which of them is the least depends on the order.
        pairs = np.moveaxis(self._extremes + 0, 0, -1)
        return [[_window(*pair) for pair in channels] for channels in pairs.tolist()]


def _channels_in(region: Region, axes: str) -> Region:
    """Return the samples and the channels in a region."""
    return tuple([region[axes.index(axis)] if axis in axes else (0, 1) for axis in "SC"])


def _window(least: float, greatest: float) -> tuple[float, float]:
    if least > greatest:
        return 0.0, 1.0
    if least < greatest:
        return least, greatest
    other = type(least)(not least)
    return min(least, other), max(least, other)


def _of_nothing(dtype_name: str, channels: Region) -> AnyArray:
    """Return the least and the greatest value of each channel, where none has a value."""
    dtype = np.dtype(dtype_name)
    limits: Any = (inf, -inf)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype).max, np.iinfo(dtype).min
    return np.stack([np.full(extents_of(channels), limit, dtype) for limit in limits])


def _widen(extremes: AnyArray, least: AnyArray, greatest: AnyArray) -> None:
    np.minimum(extremes[0], least, out=extremes[0])
    np.maximum(extremes[1], greatest, out=extremes[1])


def _extremes_of(values: AnyArray) -> AnyArray:
    """Return the least and the greatest finite value of each channel of each sample."""
    others = tuple(range(2, values.ndim))
    is_half = values.dtype == np.float16
    reduced = _reduced_halves if is_half else _reduced
    found = reduced(values, others)
    if values.dtype.kind != "f" or _are_finite(found):
        return found
    if not is_half:
        # Numbers that are none are frequent, around what was measured; infinite ones are not.
        found = np.array([np.fmin.reduce(values, others), np.fmax.reduce(values, others)])
        if _are_finite(found):
            return found
    is_finite = np.isfinite(values)
    found[0] = reduced(np.where(is_finite, values, inf), others)[0]
    found[1] = reduced(np.where(is_finite, values, -inf), others)[1]
    return found


def _are_finite(few: AnyArray) -> bool:
    # NumPy takes many times as long for a few numbers.
    return all(map(isfinite, few.ravel().tolist()))


def _reduced(values: AnyArray, axes: tuple[int, ...]) -> AnyArray:
    """Return minima and maxima over some axes; not finite where a value is not."""
    return np.array([np.minimum.reduce(values, axes), np.maximum.reduce(values, axes)])


def _reduced_halves(values: AnyArray, axes: tuple[int, ...]) -> AnyArray:
    """Return the same of numbers of 16 bits, which NumPy compares one by one, but whole numbers many at once.

    The sign is a bit of its own: as signed numbers, the positive ones are in order, and as unsigned numbers, the
    negative ones in reverse order, above the others.
    """
    signed = values.view(np.int16)
    lowest, highest = np.minimum.reduce(signed, axes), np.maximum.reduce(signed, axes)
    farthest: AnyArray = np.maximum.reduce(values.view(np.uint16), axes)
    least: Any = np.where(lowest < 0, farthest.view(np.int16), lowest)
    greatest: Any = np.where(highest < 0, lowest, highest)
    return np.array([least, greatest]).view(np.float16)
