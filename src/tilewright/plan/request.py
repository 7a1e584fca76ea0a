"""What was asked for, on the axes of the output, before anything is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.arguments import whole_numbers
from tilewright.errors import GeometryError
from tilewright.geometry import AxisTiling
from tilewright.plan.axes import SPATIAL
from tilewright.plan.dtypes import itemsize


@dataclass(frozen=True, slots=True)
class Request:
    """The output, the tiles and the memory that a plan must respect.

    Parameters
    ----------
    axes : str
        The axes of the output, in the order ``STCZYX``.
    shape : tuple of int
        Their extents.
    tile_size, overlap : dict of str to int
        By the names of the spatial axes.
    dtype : str
        The data type of the output.
    memory_nbytes : int or None
        What the predicted tiles may take.
    """

    axes: str
    shape: tuple[int, ...]
    tile_size: dict[str, int]
    overlap: dict[str, int]
    dtype: str
    memory_nbytes: int | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return itemsize(self.dtype)

    def tiling(self, axis: int, border: int = 1) -> AxisTiling:
        """Return the tiles of one axis: single samples and frames, all channels, the given tile along Z, Y, X."""
        name, extent = self.axes[axis], self.shape[axis]
        tile = extent if name == "C" else self.tile_size.get(name, 1)
        return AxisTiling(extent=extent, tile=tile, overlap=self.overlap.get(name, 0), border=border)

    def compact_tilings(self) -> tuple[AxisTiling, ...]:
        """Return the tiles of all axes in the compact layout."""
        return tuple(self.tiling(axis) for axis in range(len(self.axes)))

    def per_output_axis(self, name: str, values: Sequence[int]) -> tuple[int, ...]:
        """Return one number per output axis from one per output axis, or from one per spatial axis."""
        numbers = whole_numbers(name, values)
        spatial = "".join(axis for axis in self.axes if axis in SPATIAL)
        if len(numbers) == len(spatial) != len(self.axes):
            by_name = dict(zip(spatial, numbers, strict=True))
            numbers = tuple(
                by_name.get(axis, extent if axis == "C" else 1)
                for axis, extent in zip(self.axes, self.shape, strict=True)
            )
        if len(numbers) != len(self.axes):
            raise GeometryError(
                f"{name} must have one number for each output axis {self.axes}, or one for each spatial axis "
                f"{spatial}, got {len(numbers)}: {numbers}"
            )
        if min(numbers) < 1:
            raise GeometryError(f"{name} must be at least 1 on each axis of {self.axes}, got {numbers}")
        return numbers
