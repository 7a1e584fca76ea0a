"""The axes of a source come in any order; those of an output always in the order S, T, C, Z, Y, X."""

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.arguments import whole_numbers
from tilewright.errors import GeometryError

ORDER = "STCZYX"
SPATIAL = "ZYX"


def is_in_order(names: str) -> bool:
    """Tell whether axes are those of an output: letters of ``STCZYX`` in that order, each once.

    Examples
    --------
    >>> is_in_order("CYX"), is_in_order("YXC"), is_in_order("YY"), is_in_order("QYX")
    (True, False, False, False)
    """
    return "".join(name for name in ORDER if name in names) == names


@dataclass(frozen=True, slots=True)
class ImageAxes:
    """The named axes of one source and their extents.

    Parameters
    ----------
    names : str
        One letter of ``STCZYX`` per axis, in the order of the source.
    shape : tuple of int
        The extents, in the same order.

    Raises
    ------
    GeometryError
        If a letter is unknown or comes twice, Y or X is missing, or the number of axes is another than that of
        extents.

    Examples
    --------
    >>> axes = ImageAxes("YXC", (512, 256, 3))
    >>> axes.output_names(channels=1), axes.output_shape(channels=1)
    ('CYX', (1, 512, 256))
    """

    names: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.names, str):
            raise GeometryError(f"axes must be a string such as 'ZYX', got {self.names!r}")
        unknown = sorted(set(self.names) - set(ORDER))
        if unknown:
            raise GeometryError(f"axes {self.names!r} has unknown letters {unknown}; use letters of {ORDER!r}")
        twice = sorted(name for name in set(self.names) if self.names.count(name) > 1)
        if twice:
            raise GeometryError(f"axes {self.names!r} names {twice} more than once")
        if not {"Y", "X"} <= set(self.names):
            raise GeometryError(f"axes {self.names!r} must name both Y and X")
        if len(self.names) != len(self.shape):
            raise GeometryError(
                f"axes {self.names!r} names {len(self.names)} axes, but the source has {len(self.shape)}: "
                f"its shape is {self.shape}"
            )
        empty = [name for name, extent in zip(self.names, self.shape, strict=True) if extent < 1]
        if empty:
            raise GeometryError(f"the source has no elements along {empty}: its shape is {self.shape}")

    @property
    def spatial(self) -> str:
        """The spatial axes in the order of the output, ``"YX"`` or ``"ZYX"``."""
        return "".join(name for name in SPATIAL if name in self.names)

    @property
    def channels(self) -> int:
        """The number of channels of the source; one where it has no axis C."""
        return self.extent("C")

    @property
    def sample_count(self) -> int:
        """The number of samples; frames are samples too."""
        return self.extent("S") * self.extent("T")

    def extent(self, name: str) -> int:
        """Return the extent of an axis; one where the source does not have it."""
        return self.shape[self.names.index(name)] if name in self.names else 1

    def output_names(self, channels: int) -> str:
        """Return the axes of an output of that many channels."""
        return "".join(name for name in ORDER if name in self.names or (name == "C" and channels > 1))

    def own_order(self, channels: int) -> str | None:
        """Return the axes of an output of that many channels in the order of the source.

        Channels that the source does not have come before its first spatial axis. None where this is no other order,
        and OME-Zarr has no samples to keep apart.

        Examples
        --------
        >>> ImageAxes("YXC", (512, 256, 3)).own_order(2), ImageAxes("CYX", (3, 512, 256)).own_order(2)
        ('YXC', None)
        >>> ImageAxes("YXS", (512, 256, 3)).own_order(2), ImageAxes("SYX", (3, 512, 256)).own_order(1)
        ('CYXS', 'SYX')
        """
        names = self.names
        if channels > 1 and "C" not in names:
            first = min(map(names.index, self.spatial))
            names = f"{names[:first]}C{names[first:]}"
        return names if names != self.output_names(channels) or "S" in names else None

    def output_shape(self, channels: int) -> tuple[int, ...]:
        """Return the extents of an output of that many channels."""
        return tuple(channels if name == "C" else self.extent(name) for name in self.output_names(channels))


def per_spatial_axis(name: str, values: Sequence[int], spatial: str) -> tuple[int, ...]:
    """Return one whole number for each spatial axis, or say what is wrong with them.

    Examples
    --------
    >>> per_spatial_axis("tile_size", [64, 64], "YX")
    (64, 64)
    """
    numbers = whole_numbers(name, values)
    if len(numbers) != len(spatial):
        raise GeometryError(
            f"{name} must have one number for each spatial axis {spatial}, got {len(numbers)}: {numbers}"
        )
    return numbers
