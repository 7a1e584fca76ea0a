"""Requests: what a user asks for, checked where it is given, and the same on the axes of the output.

A request is frozen, and is what a plan is made of; what a request leaves open, the plan chooses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tilewright.arguments import whole_number, whole_numbers
from tilewright.errors import GeometryError
from tilewright.geometry import AxisTiling
from tilewright.plan.axes import ORDER, SPATIAL, ImageAxes, per_spatial_axis
from tilewright.plan.dtypes import dtype_name, itemsize

if TYPE_CHECKING:
    from tilewright.plan.write_plan import WritePlan

LAYOUTS = ("auto", "compact", "aligned")
OUTPUT_AXES = (ORDER, "source")
"""Orders of the axes of an output."""
PADDINGS = ("reflect", "zeros")
"""Ways to fill a tile that is longer than an axis."""
Levels = int | str | tuple[tuple[int, ...], ...]
"""Number of levels, ``"auto"``, or the factors from each level to the next."""
DEFAULT_DTYPE = "float32"
"""Data type of a plan where none is asked for."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Tiles, storage and memory that a user asks for.

    Parameters
    ----------
    shape, axes, tile_size, overlap, layout, chunks, shards, dtype, channels, memory_nbytes, window_nbytes, levels
        As in `plan_write`; what is None or ``"auto"`` is left open.
    scale : tuple of float, optional
        Size of an element on each spatial axis, in the order (Z)YX, for the choice of levels.
    labels : bool
        Whether elements are labels: of the elements that become one of a coarser level, the most frequent one is taken.
    output_axes, padding
        As in `plan_write`.

    Raises
    ------
    GeometryError
        If one of them makes no sense by itself, or does not fit the axes.

    Examples
    --------
    >>> PlanRequest((512, 512), "YX", (64, 64), (16, 16), channels=2).on_output().shape
    (2, 512, 512)
    """

    shape: tuple[int, ...]
    axes: str
    tile_size: tuple[int, ...]
    overlap: tuple[int, ...]
    layout: str = "auto"
    chunks: tuple[int, ...] | str = "auto"
    shards: tuple[int, ...] | str | None = None
    dtype: str | None = None
    channels: int | None = None
    memory_nbytes: int | None = None
    window_nbytes: int | None = None
    levels: Levels = 1
    scale: tuple[float, ...] | None = None
    labels: bool = False
    output_axes: str = ORDER
    padding: str = PADDINGS[0]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", whole_numbers("shape", self.shape))
        spatial = self.image.spatial
        for name in ("tile_size", "overlap"):
            object.__setattr__(self, name, per_spatial_axis(name, getattr(self, name), spatial))
        for name, tile, shared in zip(spatial, self.tile_size, self.overlap, strict=True):
            if tile < 1 or not 0 <= shared < tile:
                raise GeometryError(
                    f"on axis {name} the tile of {tile} must be larger than the overlap of {shared}, and the overlap "
                    f"at least 0; tile_size is {self.tile_size}, overlap {self.overlap}"
                )
        if not isinstance(self.layout, str) or self.layout not in LAYOUTS:
            raise GeometryError(f"layout must be 'auto', 'compact' or 'aligned', got {self.layout!r:.80}")
        check_output_axes("output_axes", self.output_axes)
        if self.padding not in PADDINGS:
            raise GeometryError(f"padding must be one of {PADDINGS}, got {self.padding!r:.80}")
        for name in ("channels", "memory_nbytes", "window_nbytes"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if self.levels != "auto" and not isinstance(self.levels, tuple):
            object.__setattr__(self, "levels", whole_number("levels", self.levels))
        object.__setattr__(self, "labels", bool(self.labels))
        if self.dtype is not None:
            object.__setattr__(self, "dtype", dtype_name(self.dtype))
            if str(self.dtype).startswith("complex"):
                raise GeometryError(f"dtype must be that of bools, whole numbers or floats, got {self.dtype!r}")
            if self.labels:
                check_labels(str(self.dtype))

    @property
    def image(self) -> ImageAxes:
        """The axes of the source."""
        return ImageAxes(self.axes, self.shape)

    def with_choices_of(self, begun: "WritePlan") -> "PlanRequest":
        """Return the request with what another plan has chosen in the place of ``"auto"``."""
        choices: dict[str, Any] = {"layout": begun.layout}
        if begun.stored_axes == self.on_output().stored_axes:
            choices |= {"chunks": begun.asked_chunks, "shards": begun.asked_shards}
        chosen: dict[str, Any] = {name: value for name, value in choices.items() if getattr(self, name) == "auto"}
        if self.levels == "auto":
            chosen["levels"] = begun.factors
        if chosen.get("shards", ()) is None:
            # There were none, and now there would be.
            del chosen["shards"]
        return replace(self, **chosen)

    def on_output(self) -> "Request":
        """Return the request on the axes of the output."""
        image = self.image
        channels = image.channels if self.channels is None else self.channels
        return Request(
            axes=image.output_names(channels),
            shape=image.output_shape(channels),
            tile_size=dict(zip(image.spatial, self.tile_size, strict=True)),
            overlap=dict(zip(image.spatial, self.overlap, strict=True)),
            dtype=self.dtype or DEFAULT_DTYPE,
            memory_nbytes=self.memory_nbytes,
            levels=self.levels,
            scale=self.scale,
            labels=self.labels,
            stored_axes=None if self.output_axes == ORDER else image.own_order(channels),
            pads_behind=self.padding == "zeros",
        )


def check_output_axes(name: str, value: object) -> None:
    """Raise GeometryError where a value is no order of the axes of an output."""
    if value not in OUTPUT_AXES:
        raise GeometryError(
            f"{name} must be {ORDER!r}, or 'source' for the order of the axes of the source, got {value!r:.80}"
        )


def check_labels(dtype: str) -> None:
    """Raise GeometryError where labels would be floats."""
    if dtype.startswith("float"):
        raise GeometryError(f"labels must be whole numbers, and the data type is {dtype}; give dtype='uint32', say")


@dataclass(frozen=True, slots=True)
class Request:
    """The output, the tiles and the memory that a plan must respect.

    Parameters
    ----------
    axes, shape : str, tuple of int
        The axes of the output, in the order ``STCZYX``, and their extents.
    tile_size, overlap : dict of str to int
        By the names of the spatial axes.
    dtype, memory_nbytes, levels, scale, labels
        As in `PlanRequest`; full resolution alone where the axes are stored in the order of the source.
    stored_axes : str, optional
        As in `WritePlan`.
    pads_behind : bool
        As in `AxisTiling`.
    """

    axes: str
    shape: tuple[int, ...]
    tile_size: dict[str, int]
    overlap: dict[str, int]
    dtype: str
    memory_nbytes: int | None = None
    levels: Levels = 1
    scale: tuple[float, ...] | None = None
    labels: bool = False
    stored_axes: str | None = None
    pads_behind: bool = False

    def __post_init__(self) -> None:
        if self.stored_axes is None:
            return
        if self.levels not in ("auto", 1, ()):
            raise GeometryError(
                f"levels must be 1 for an output with the axes {self.stored_axes} of its source, since viewers find "
                f"coarser levels by the metadata of OME-Zarr, which has no such axes; got {self.levels}"
            )
        object.__setattr__(self, "levels", 1)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return itemsize(self.dtype)

    def tiling(self, axis: int, border: int = 1) -> AxisTiling:
        """Return the tiles of one axis: single samples and frames, all channels, the given tile along Z, Y, X."""
        name, extent = self.axes[axis], self.shape[axis]
        tile = extent if name == "C" else self.tile_size.get(name, 1)
        return AxisTiling(extent, tile, self.overlap.get(name, 0), border, self.pads_behind)

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
        elif len(numbers) == len(self.axes) and self.stored_axes is not None:
            by_name = dict(zip(self.stored_axes, numbers, strict=True))
            numbers = tuple(by_name[name] for name in self.axes)
        if len(numbers) != len(self.axes):
            raise GeometryError(
                f"{name} must have one number for each output axis {self.stored_axes or self.axes}, or one for each "
                f"spatial axis {spatial}, got {len(numbers)}: {numbers}"
            )
        if min(numbers) < 1:
            raise GeometryError(f"{name} must be at least 1 on each axis, got {numbers}")
        return numbers
