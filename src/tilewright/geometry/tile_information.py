"""A tile that travels carries all that is needed to put it back: where it lies, in which sample, and what to crop."""

from dataclasses import dataclass

from tilewright.errors import GeometryError
from tilewright.geometry.intervals import Interval


@dataclass(frozen=True, slots=True)
class TileInformation:
    """Where a tile comes from, and what of it is kept.

    Parameters
    ----------
    array_shape : tuple of int
        C(Z)YX of the input sample.
    last_tile : bool, default=False
        Whether this is the last tile of its sample.
    overlap_crop_coords : tuple of (int, int)
        Per spatial axis, the ``(start, stop)`` inside the tile of what is kept.
    stitch_coords : tuple of (int, int)
        Per spatial axis, the ``(start, stop)`` inside the image where it belongs.
    sample_id : int
        Counts the samples of the whole dataset in order.

    Raises
    ------
    GeometryError
        If a field does not fit the others; the message names the field.

    Examples
    --------
    >>> TileInformation((1, 35, 64), True, ((16, 32), (0, 64)), ((19, 35), (0, 64)), 0).stitch_coords
    ((19, 35), (0, 64))
    """

    array_shape: tuple[int, ...]
    last_tile: bool = False
    overlap_crop_coords: tuple[Interval, ...] = ()
    stitch_coords: tuple[Interval, ...] = ()
    sample_id: int = 0

    def __post_init__(self) -> None:
        # Collating and copying through worker processes may turn tuples into lists.
        object.__setattr__(self, "array_shape", tuple(int(extent) for extent in self.array_shape))
        if len(self.array_shape) not in (3, 4) or min(self.array_shape) < 1:
            raise GeometryError(f"array_shape must be C(Z)YX, 3 or 4 extents of at least 1, got {self.array_shape}")
        spatial = self.array_shape[1:]
        for name in ("overlap_crop_coords", "stitch_coords"):
            region = tuple((int(start), int(stop)) for start, stop in getattr(self, name))
            object.__setattr__(self, name, region)
            if len(region) != len(spatial):
                raise GeometryError(
                    f"{name} must have one (start, stop) for each of the {len(spatial)} spatial axes, got {region}"
                )
            if any(not 0 <= start < stop for start, stop in region):
                raise GeometryError(f"{name} must have 0 <= start < stop on every axis, got {region}")
        for axis, ((start, stop), extent) in enumerate(zip(self.stitch_coords, spatial, strict=True)):
            if stop > extent:
                raise GeometryError(
                    f"stitch_coords end outside the image on spatial axis {axis}: ({start}, {stop}), "
                    f"but the image has {extent} elements there"
                )
        for axis, (crop, stitch) in enumerate(zip(self.overlap_crop_coords, self.stitch_coords, strict=True)):
            if crop[1] - crop[0] != stitch[1] - stitch[0]:
                raise GeometryError(
                    f"overlap_crop_coords {crop} and stitch_coords {stitch} differ in extent on spatial axis {axis}"
                )
        if self.sample_id < 0:
            raise GeometryError(f"sample_id must be at least 0, got {self.sample_id}")
