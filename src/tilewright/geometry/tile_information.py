"""Tile information: the sample, place and crop that put a tile back into its image."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from tilewright.arguments import whole_number, whole_numbers
from tilewright.errors import GeometryError
from tilewright.geometry.intervals import Interval


class _Fields(NamedTuple):
    array_shape: tuple[int, ...]
    last_tile: bool
    overlap_crop_coords: tuple[Interval, ...]
    stitch_coords: tuple[Interval, ...]
    sample_id: int


class TileInformation(_Fields):
    """Origin of a tile, and the part of it that is kept.

    Parameters
    ----------
    array_shape : tuple of int
        C(Z)YX of the input sample.
    last_tile : bool, default=False
        True for the last tile of its sample.
    overlap_crop_coords : tuple of (int, int)
        Per spatial axis, the ``(start, stop)`` of the kept part inside the tile.
    stitch_coords : tuple of (int, int)
        Per spatial axis, the ``(start, stop)`` of the kept part inside the image.
    sample_id : int
        Index of the sample in the whole dataset.

    Raises
    ------
    GeometryError
        If a field does not fit the others; the message names the field.

    Examples
    --------
    >>> TileInformation((1, 35, 64), True, ((16, 32), (0, 64)), ((19, 35), (0, 64)), 0).stitch_coords
    ((19, 35), (0, 64))
    """

    __slots__ = ()

    # A named tuple: Lightning does not move batches with frozen dataclasses.
    def __new__(
        cls,
        array_shape: Sequence[int],
        last_tile: bool = False,
        overlap_crop_coords: Sequence[Sequence[int]] = (),
        stitch_coords: Sequence[Sequence[int]] = (),
        sample_id: int = 0,
    ) -> Self:
        """Check the fields against each other."""
        shape = whole_numbers("array_shape", array_shape)
        if len(shape) not in (3, 4) or min(shape) < 1:
            raise GeometryError(f"array_shape must be C(Z)YX, 3 or 4 extents of at least 1, got {shape}")
        crop = _intervals("overlap_crop_coords", overlap_crop_coords, len(shape) - 1)
        stitch = _intervals("stitch_coords", stitch_coords, len(shape) - 1)
        sample = whole_number("sample_id", sample_id, 0)
        for axis, extent in enumerate(shape[1:]):
            if stitch[axis][1] > extent:
                raise GeometryError(
                    f"stitch_coords end outside the image on spatial axis {axis}: {stitch[axis]}, but the image has "
                    f"{extent} elements there"
                )
            if crop[axis][1] - crop[axis][0] != stitch[axis][1] - stitch[axis][0]:
                raise GeometryError(
                    f"overlap_crop_coords {crop[axis]} and stitch_coords {stitch[axis]} differ in extent on spatial "
                    f"axis {axis}"
                )
        return super().__new__(cls, shape, bool(last_tile), crop, stitch, sample)


def _intervals(name: str, values: Sequence[Sequence[int]], count: int) -> tuple[Interval, ...]:
    # Collating and pickling may turn tuples into lists.
    try:
        pairs = [whole_numbers(name, pair) for pair in values]
    except TypeError:
        raise GeometryError(f"{name} must be (start, stop) pairs, got {values!r}") from None
    intervals = tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2)
    if len(intervals) != count or len(pairs) != count:
        raise GeometryError(f"{name} must have one (start, stop) for each of {count} spatial axes, got {values!r}")
    if any(not 0 <= start < stop for start, stop in intervals):
        raise GeometryError(f"{name} must have 0 <= start < stop on every axis, got {intervals}")
    return intervals
