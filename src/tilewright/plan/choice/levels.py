"""Coarser levels: which axes are halved how often, and the arrays of these levels."""

from collections.abc import Sequence
from math import lcm

from tilewright.errors import GeometryError
from tilewright.geometry.halving import HalvedUnits, coarser_units
from tilewright.plan.array_plan import ArrayPlan
from tilewright.plan.request import Levels

LARGEST_EXTENT = 256
"""With ``levels="auto"``, the coarsest level has no more elements on each axis of the plane."""

Factors = tuple[tuple[int, ...], ...]
"""Factors per axis, from each level to the next."""


def level_factors(axes: str, shape: Sequence[int], levels: Levels, scale: Sequence[float] | None = None) -> Factors:
    """Return the factors from each level to the next.

    Parameters
    ----------
    axes, shape : str, sequence of int
        The axes of the output, and their extents.
    levels : int, "auto" or tuple
        Number of levels with the full resolution, or the factors themselves. With ``"auto"`` the plane is halved while
        it has more than `LARGEST_EXTENT` elements on an axis.
    scale : sequence of float, optional
        Size of an element on each spatial axis, in the order (Z)YX; the same on each where not given.

    Raises
    ------
    GeometryError
        If there are more levels than the image can be halved.

    Notes
    -----
    Z is not halved while its elements are larger than those of the plane. An axis of one element stays.

    Examples
    --------
    >>> level_factors("ZYX", (100, 1000, 1000), "auto", scale=(2.0, 0.5, 0.5))
    ((1, 2, 2), (1, 2, 2))
    """
    if isinstance(levels, tuple):
        return levels
    spatial = [axis for axis, name in enumerate(axes) if name in "ZYX"]
    sizes = dict(zip(spatial, scale or [1.0] * len(spatial), strict=True))
    extents = list(shape)
    plane = spatial[-2:]
    factors: list[tuple[int, ...]] = []
    while len(factors) + 1 < levels if isinstance(levels, int) else max(extents[a] for a in plane) > LARGEST_EXTENT:
        largest = max(sizes[axis] for axis in plane)
        halved = [axis for axis in spatial if extents[axis] > 1 and (axis in plane or sizes[axis] <= largest)]
        if not halved:
            raise GeometryError(
                f"levels must be at most {len(factors) + 1} for the shape {tuple(shape)} of axes {axes}: then there is "
                f"nothing left to be halved; got {levels}"
            )
        for axis in halved:
            extents[axis] = -(-extents[axis] // 2)
            sizes[axis] *= 2
        factors.append(tuple(2 if axis in halved else 1 for axis in range(len(axes))))
    return tuple(factors)


def unit_borders(stored: Sequence[int], factors: Factors) -> tuple[int, ...]:
    """Return what units of the finest level end on multiples of: stored objects, and pairs of elements.

    Examples
    --------
    >>> unit_borders((8, 33, 64), ((1, 2, 2),))
    (8, 66, 64)
    """
    return tuple(map(lcm, stored, factors[0])) if factors else tuple(stored)


def with_coarser_levels(finest: ArrayPlan, factors: Factors) -> tuple[ArrayPlan, ...]:
    """Return the arrays of all levels, the finest first; chunks and shards are those of the finest, or shorter.

    Examples
    --------
    >>> from tilewright.geometry import AxisUnits
    >>> finest = ArrayPlan("uint8", (AxisUnits(100, 32), AxisUnits(100, 32)), (16, 32))
    >>> levels = with_coarser_levels(finest, ((2, 2), (2, 2)))
    >>> [(level.name, level.shape, level.chunks, level.factors) for level in levels[1:]]
    [('1', (50, 50), (16, 32), (2, 2)), ('2', (25, 25), (16, 25), (2, 2))]
    """
    arrays = [finest]
    for number, on_axes in enumerate(factors):
        finer = arrays[-1]
        following = factors[number + 1] if number + 1 < len(factors) else (1,) * len(on_axes)
        tiles = list(map(HalvedUnits, finer.units, on_axes))
        shape = [on_axis.extent for on_axis in tiles]
        chunks = tuple(map(min, finest.chunks, shape))
        shards = None
        if finest.shards is not None:
            whole = [-(-extent // chunk) * chunk for extent, chunk in zip(shape, chunks, strict=True)]
            cut = [chunk != given for chunk, given in zip(chunks, finest.chunks, strict=True)]
            parts = zip(chunks, finest.shards, whole, cut, strict=True)
            shards = tuple(chunk if is_cut else min(shard, most) for chunk, shard, most, is_cut in parts)
        units = tuple(map(coarser_units, tiles, shards or chunks, following))
        arrays.append(ArrayPlan(finest.dtype, units, chunks, shards, f"{number + 1}", on_axes))
    return tuple(arrays)
