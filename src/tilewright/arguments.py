"""Checks of arguments: an error names the argument, its value, and the values that are allowed."""

from math import isfinite
from numbers import Real
from operator import index
from typing import Any

from tilewright.errors import GeometryError

LARGEST = 2**62
"""Largest extent, and largest size in bytes."""


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number, or raise GeometryError where it is none or out of its limits.

    Examples
    --------
    >>> whole_number("channels", 3)
    3
    >>> whole_number("channels", True)
    Traceback (most recent call last):
    tilewright.errors.GeometryError: channels must be a whole number, got True
    """
    number = _index_of(value)
    if number is None:
        raise GeometryError(f"{name} must be a whole number, got {value!r:.80}")
    if not least <= number <= LARGEST:
        limit = f"at least {least}" if number < least else f"at most {LARGEST}"
        raise GeometryError(f"{name} must be {limit}, got {number}")
    return number


def whole_numbers(name: str, values: Any, least: int | None = None) -> tuple[int, ...]:
    """Return a tuple of whole numbers, or raise GeometryError where it is none or out of its limits.

    Examples
    --------
    >>> whole_numbers("tile_size", [64, 64])
    (64, 64)
    >>> whole_numbers("tile_size", {16, 17})
    Traceback (most recent call last):
    tilewright.errors.GeometryError: tile_size must be a sequence of whole numbers, got {16, 17}
    """
    is_sequence = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    numbers: list[int | None] = [None]
    if is_sequence and not isinstance(values, str | bytes | bytearray | dict):
        numbers = [_index_of(value) for value in values]
    known = tuple(number for number in numbers if number is not None)
    if len(known) < len(numbers):
        raise GeometryError(f"{name} must be a sequence of whole numbers, got {values!r:.80}")
    for number in known:
        if abs(number) > LARGEST or (least is not None and number < least):
            limit = f"at most {LARGEST}" if number > LARGEST else f"at least {-LARGEST if least is None else least}"
            raise GeometryError(f"{name} must be made of numbers of {limit}, got {known}")
    return known


def seconds(name: str, value: Any) -> float:
    """Return a time in seconds, or raise GeometryError where it is none.

    Examples
    --------
    >>> seconds("grace_seconds", 20)
    20.0
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value) or value < 0:
        raise GeometryError(f"{name} must be a number of seconds, at least 0, got {value!r:.80}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return True or False, or raise TypeError for anything else."""
    if value is True or value is False:
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r:.80}")


def _index_of(value: Any) -> int | None:
    """Return a whole number; None for anything else, True and False included."""
    # By name: NumPy, which is not imported here, has bools of its own.
    if type(value).__name__ in ("bool", "bool_"):
        return None
    try:
        return index(value)
    except TypeError:
        return None
