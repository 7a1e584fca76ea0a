"""Intervals ``(start, stop)`` of array coordinates, half-open, and regions with one interval per axis."""

from collections.abc import Sequence
from math import prod

Interval = tuple[int, int]
Region = tuple[Interval, ...]


def intersection(first: Region, second: Region) -> Region:
    """Return the overlap of two regions; on an axis without overlap the interval is empty.

    Examples
    --------
    >>> intersection(((0, 4), (2, 8)), ((3, 9), (0, 5)))
    ((3, 4), (2, 5))
    """
    pairs = zip(first, second, strict=True)
    return tuple((max(a, c), max(a, c, min(b, d))) for (a, b), (c, d) in pairs)


def extents_of(region: Region) -> tuple[int, ...]:
    """Return the extent of a region on each axis.

    Examples
    --------
    >>> extents_of(((3, 4), (2, 5)))
    (1, 3)
    """
    return tuple(stop - start for start, stop in region)


def relative_to(region: Region, origin: Sequence[int]) -> Region:
    """Return a region in coordinates relative to an element.

    Examples
    --------
    >>> relative_to(((3, 5), (2, 5)), origin=(1, 2))
    ((2, 4), (0, 3))
    """
    return tuple((start - first, stop - first) for (start, stop), first in zip(region, origin, strict=True))


def element_count(region: Region) -> int:
    """Return the number of elements in a region.

    Examples
    --------
    >>> element_count(((3, 5), (2, 5)))
    6
    """
    return prod(stop - start for start, stop in region)
