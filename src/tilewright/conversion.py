"""A prediction is stored exactly, or by a conversion that the user asked for and that counts lost values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.errors import ModelOutputError, PredictionTypeError

_MANTISSA_BITS = {"float16": 11, "float32": 24, "float64": 53}
"""Largest whole numbers that a float holds exactly, in bits."""


def is_array(values: Any) -> bool:
    """Tell whether an object is an array: it has a shape and a dtype, and can be sliced."""
    return all(hasattr(values, name) for name in ("shape", "dtype", "__getitem__"))


def as_array(values: Any) -> AnyArray:
    """Return a tensor or an array as a NumPy array; bfloat16 becomes float32, since NumPy lacks it.

    Raises
    ------
    ModelOutputError
        If elements are masked.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
        values = values.numpy()
    if np.ma.is_masked(values):
        raise ModelOutputError(
            "the prediction is a masked array, and its mask would be dropped; let the model return masked.filled(0)"
        )
    return np.asarray(values)


def is_number(dtype: np.dtype[Any]) -> bool:
    """Tell whether a data type can be stored: bool, whole numbers and floats of at most 64 bits."""
    return dtype.kind in "buif" and dtype.itemsize <= 8


def holds(output: np.dtype[Any], values: np.dtype[Any]) -> bool:
    """Tell whether an output data type holds every value of another data type exactly.

    Examples
    --------
    >>> holds(np.dtype("float32"), np.dtype("uint16")), holds(np.dtype("float32"), np.dtype("int32"))
    (True, False)
    >>> holds(np.dtype("uint16"), np.dtype("uint32")), holds(np.dtype("int64"), np.dtype("bool"))
    (False, True)
    """
    if output.name == values.name or values.kind == "b":
        return True
    if output.kind == "b":
        return False
    if values.kind == "f":
        return output.kind == "f" and output.itemsize >= values.itemsize
    limits: Any = np.iinfo(values.name)
    if output.kind == "f":
        return int(limits.max).bit_length() <= _MANTISSA_BITS[output.name]
    within: Any = np.iinfo(output.name)
    return bool(within.min <= limits.min and limits.max <= within.max)


@dataclass(frozen=True)
class ValueRange:
    """Values of a model that are mapped linearly onto all numbers of an integer data type.

    Parameters
    ----------
    lower, upper : float
        Values that become the smallest and the largest number of the data type.
    dtype : str
        Data type of the output.

    Examples
    --------
    >>> to_bytes = ValueRange(0.0, 1.0, "uint8")
    >>> stored, lost_count = to_bytes.stored(np.array([0.0, 0.5, 1.0, 1.5, np.nan]))
    >>> stored, lost_count
    (array([  0, 128, 255, 255,   0], dtype=uint8), 2)
    >>> stored[:3] * to_bytes.scale + to_bytes.offset
    array([0.        , 0.50196078, 1.        ])
    """

    lower: float
    upper: float
    dtype: str

    @classmethod
    def of(cls, given: Any, dtype: str | None) -> "ValueRange | None":
        """Return the range that a user passes, None for None; or raise TypeError or ValueError."""
        if given is None:
            return None
        if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray) or len(given) != 2:
            raise TypeError(f"value_range must be two numbers such as (0.0, 1.0), got {given!r:.80}")
        if any(isinstance(end, bool) or not isinstance(end, Real) or not math.isfinite(end) for end in given):
            raise ValueError(f"value_range must be two finite numbers, got {given!r:.80}")
        lower, upper = map(float, given)
        if lower >= upper:
            raise ValueError(f"value_range must rise, got {lower} to {upper}")
        if dtype is None or np.dtype(dtype).kind not in "iu":
            raise ValueError(
                f"value_range is mapped onto an integer data type, got dtype={dtype!r}; give one, such as dtype='uint8'"
            )
        made = cls(lower, upper, dtype)
        if not (made.scale > 0 and math.isfinite(made.scale) and math.isfinite(1 / made.scale)):
            raise ValueError(
                f"value_range {lower} to {upper} is too narrow or too wide for {dtype} in double precision"
            )
        return made

    @property
    def scale(self) -> float:
        """Difference of the values of two neighbouring stored numbers: value = stored * scale + offset."""
        return (self.upper - self.lower) / int(self._limits.max - self._limits.min)

    @property
    def offset(self) -> float:
        """Value of the stored number 0, also where the data type does not hold it."""
        return self.lower - int(self._limits.min) * self.scale

    def check(self, dtype: np.dtype[Any] | str, what: str = "the first tile") -> None:
        """Raise PredictionTypeError for predictions that are whole numbers: labels are never scaled."""
        if np.dtype(dtype).kind != "f":
            raise PredictionTypeError(
                f"value_range scales floats, but the prediction of {what} is {dtype}, whole numbers such as labels: "
                "leave value_range out, or let the model return floats"
            )

    def stored(self, values: AnyArray) -> tuple[AnyArray, int]:
        """Return values as they are stored, and how many lie outside of the range or are no numbers.

        Rounded to the nearest number, half to even, in double precision. What lies outside becomes the nearer end, NaN
        the lower end.
        """
        limits, wide = self._limits, values.astype(np.float64)
        lost_count = wide.size - int(np.count_nonzero((wide >= self.lower) & (wide <= self.upper)))
        np.clip(wide, self.lower, self.upper, out=wide)
        np.nan_to_num(wide, copy=False, nan=self.lower)
        is_upper = wide == self.upper
        # In place, since a tile may be large; by one factor, since a range such as (0, 255) is then exact.
        wide -= self.lower
        wide *= int(limits.max - limits.min) / (self.upper - self.lower)
        wide += float(limits.min)
        result = (
            to_dtype(wide, np.dtype(self.dtype)) if limits.bits == 64 else np.rint(wide, out=wide).astype(self.dtype)
        )
        result[is_upper] = limits.max
        return result, lost_count

    @property
    def _limits(self) -> Any:
        return np.iinfo(self.dtype)


def converted(
    values: AnyArray,
    dtype: np.dtype[Any],
    *,
    is_asked_for: bool,
    what: str = "a tile",
    value_range: ValueRange | None = None,
) -> tuple[AnyArray, int]:
    """Return values in the data type of an output, and the number of values that it cannot hold.

    Values become whole numbers by rounding and by clipping to the limits of the data type. `is_asked_for` tells whether
    the user chose the data type; otherwise it is that of the first prediction. Floats of a `value_range` are mapped.

    Raises
    ------
    PredictionTypeError
        If the user did not choose the data type, and it does not hold the values exactly; if whole numbers have a
        `value_range`.

    Examples
    --------
    >>> converted(np.array([0.6, 300.0, -1.0]), np.dtype("uint8"), is_asked_for=True)
    (array([  1, 255,   0], dtype=uint8), 2)
    """
    if value_range is not None:
        value_range.check(values.dtype, what)
        return value_range.stored(values)
    if values.dtype == dtype:
        return values, 0
    if not is_asked_for and not holds(dtype, values.dtype):
        raise PredictionTypeError(
            f"the prediction of {what} is {values.dtype}, but that of the first tile was {dtype}, which cannot hold it "
            f"exactly; say which data type the output has, such as dtype={np.promote_types(values.dtype, dtype).name!r}"
        )
    result = to_dtype(values, dtype)
    return result, _lost_count(values, result)


def to_dtype(values: AnyArray, dtype: np.dtype[np.generic]) -> AnyArray:
    """Return values in another data type, as `converted` does."""
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu" and values.dtype.kind in "iuf":
        limits: Any = np.iinfo(dtype.name)
        if values.dtype.kind == "f":
            # No float is equal to the upper limit of a wide integer.
            rounded = np.nan_to_num(np.rint(values.astype(np.float64)), posinf=np.inf, neginf=-np.inf)
            within = np.clip(rounded, limits.min, limits.max)
            too_large = within >= float(limits.max)
            result = np.where(too_large, 0, within).astype(dtype)
            result[too_large] = limits.max
            return result
        held: Any = np.iinfo(values.dtype.name)
        return np.clip(values, max(limits.min, held.min), min(limits.max, held.max)).astype(dtype)
    with np.errstate(over="ignore"):
        # Values beyond the limits of a float become infinite.
        return values.astype(dtype)


def _lost_count(values: AnyArray, result: AnyArray) -> int:
    """Return the number of values that were clipped, became infinite, or were NaN for whole numbers."""
    if not values.size or values.dtype.kind == "b" or result.dtype.kind == "b":
        return 0
    given: Any = values
    if result.dtype.kind == "f":
        if values.dtype.kind == "f" and result.dtype.itemsize >= values.dtype.itemsize:
            return 0
        made: Any = result
        return int(np.count_nonzero(np.isinf(made) & ~np.isinf(given)))
    limits: Any = np.iinfo(result.dtype.name)
    # Python numbers: their comparisons are exact.
    if given.min().item() >= limits.min and given.max().item() <= limits.max:
        # Never true with a NaN.
        return 0
    if values.dtype.kind == "f":
        given = np.rint(given.astype(np.float64))
        # No float is equal to the upper limit of a wide integer, but the number after it is one.
        is_below = given < float(int(limits.max) + 1)
        return int(np.count_nonzero(~((given >= float(limits.min)) & is_below)))
    return int(np.count_nonzero(given < limits.min)) + int(np.count_nonzero(given > limits.max))
