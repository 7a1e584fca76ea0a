"""A region of the output is filled from the tiles that own it, each element from exactly one, in one copy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.geometry import Region, extents_of, intersection, relative_to
from tilewright.plan import WritePlan

AnyArray = npt.NDArray[np.generic]


def slices_of(region: Region) -> tuple[slice, ...]:
    """Return a region as slices.

    Examples
    --------
    >>> slices_of(((0, 2), (3, 5)))
    (slice(0, 2, None), slice(3, 5, None))
    """
    return tuple(slice(start, stop) for start, stop in region)


def crop(tile: AnyArray, plan: WritePlan, index: int) -> AnyArray:
    """Return the valid region of a predicted tile, contiguous, on the axes and in the data type of the output.

    Parameters
    ----------
    tile : array
        The prediction of one whole tile, C(Z)YX.
    plan : WritePlan
        The plan of the image.
    index : int
        Which tile it is.
    """
    spatial = plan.crop_region(index)[-(tile.ndim - 1) :]
    valid = tile[(slice(None), *slices_of(spatial))]
    valid = to_dtype(valid, np.dtype(plan.dtype))
    return np.ascontiguousarray(valid).reshape(extents_of(plan.valid_region(index)))


def to_dtype(values: AnyArray, dtype: np.dtype[np.generic]) -> AnyArray:
    """Return values in another data type; what becomes whole numbers is rounded and kept within their limits.

    Examples
    --------
    >>> to_dtype(np.array([0.6, 300.0, -1.0]), np.dtype("uint8"))
    array([  1, 255,   0], dtype=uint8)
    """
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu" and values.dtype.kind in "iuf":
        limits: Any = np.iinfo(dtype.name)
        if values.dtype.kind == "f":
            # The limits of wide integers are no floats: the largest float below them is.
            rounded = np.nan_to_num(np.rint(values.astype(np.float64)), posinf=np.inf, neginf=-np.inf)
            within = np.clip(rounded, limits.min, limits.max)
            too_large = within >= float(limits.max)
            result = np.where(too_large, 0, within).astype(dtype)
            result[too_large] = limits.max
            return result
        held: Any = np.iinfo(values.dtype.name)
        return np.clip(values, max(limits.min, held.min), min(limits.max, held.max)).astype(dtype)
    return values.astype(dtype)


def fill(region: Region, plan: WritePlan, tiles: Mapping[int, AnyArray], fill_value: object) -> AnyArray:
    """Return a region of the output, which may reach beyond the image, from the tiles that own it.

    Parameters
    ----------
    region : Region
        A chunk, in coordinates of the output.
    plan : WritePlan
        The plan of the image.
    tiles : mapping of int to array
        The valid regions of at least the tiles that own the region.
    fill_value : scalar
        What stands behind the end of the image.

    Returns
    -------
    array
        Contiguous, in C order. Not a copy where the region is one whole contiguous part of a tile.
    """
    inside = intersection(region, tuple((0, extent) for extent in plan.shape))
    owners = plan.tiles_in(inside)
    if len(owners) == 1 and inside == region:
        part = tiles[owners[0]][slices_of(relative_to(region, plan.valid_region(owners[0])))]
        return np.ascontiguousarray(part)
    extents = extents_of(region)
    if inside == region:
        filled: AnyArray = np.empty(extents, plan.dtype)
    else:
        filled = np.full(extents, fill_value, plan.dtype)
    for tile in owners:
        valid = plan.valid_region(tile)
        piece = intersection(valid, inside)
        filled[slices_of(relative_to(piece, region))] = tiles[tile][slices_of(relative_to(piece, valid))]
    return filled
