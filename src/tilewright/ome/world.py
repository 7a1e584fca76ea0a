"""The place of an image in the world: what is unknown is left out, never invented."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from numbers import Real
from typing import Any

from tilewright.errors import GeometryError
from tilewright.ome.axis_letters import PHYSICAL
from tilewright.ome.units import unit_name

_SPATIAL = "ZYX"


@dataclass(frozen=True)
class World:
    """Physical metadata of an image, by the letters of its axes.

    Parameters
    ----------
    scale : dict of str to float
        Distance of neighbouring elements along T, Z, Y and X, in the unit of the axis; above 0.
    units : dict of str to str
        Unit of an axis, by its name in UDUNITS or an abbreviation such as ``"um"``.
    translation : dict of str to float
        Position of the centre of the first element, in the unit of the axis.
    channel_names : tuple of str
        Name of each channel; empty if they are unknown.

    Raises
    ------
    GeometryError
        If a value is none of these.

    Examples
    --------
    >>> World({"Y": 0.5, "X": 0.5}, {"Y": "um"}).updated(World({"X": 0.25})).scale
    {'Y': 0.5, 'X': 0.25}
    """

    scale: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    translation: Mapping[str, float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        scale = {axis: _number("scale", axis, value) for axis, value in self.scale.items()}
        for axis, value in scale.items():
            if value <= 0:
                raise GeometryError(f"scale of axis {axis} must be above 0, got {value}")
        object.__setattr__(self, "scale", scale)
        translation = {axis: _number("translation", axis, value) for axis, value in self.translation.items()}
        object.__setattr__(self, "translation", translation)
        object.__setattr__(self, "units", {axis: _unit(axis, text) for axis, text in self.units.items()})
        if not all(isinstance(name, str) and name for name in self.channel_names):
            raise GeometryError(f"channel_names must be names, got {self.channel_names!r:.80}")

    def updated(self, other: "World") -> "World":
        """Return this world with the values of another one, where that has any."""
        return World(
            {**self.scale, **other.scale},
            {**self.units, **other.units},
            {**self.translation, **other.translation},
            other.channel_names or self.channel_names,
        )

    def scale_of(self, axes: str) -> tuple[float, ...] | None:
        """Return the scale of some axes; None where that of one of them is unknown.

        Examples
        --------
        >>> World({"Y": 0.5, "X": 0.25}).scale_of("YX")
        (0.5, 0.25)
        """
        return tuple(self.scale[axis] for axis in axes) if all(axis in self.scale for axis in axes) else None


UNKNOWN_WORLD = World()
"""World of an image of which no physical metadata are known."""


@dataclass(frozen=True)
class GivenWorld:
    """Physical metadata as a user gives them, before the axes of the image are known.

    Parameters
    ----------
    scale : sequence of float, or mapping of str to float, optional
        One number per spatial axis in the order (Z)YX, or by axis letter.
    units : str, or mapping of str to str, optional
        The unit of all spatial axes, or by axis letter.
    channel_names : sequence of str, optional
        One name per channel of the output.
    """

    scale: Any = None
    units: Any = None
    channel_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.channel_names, str):
            raise GeometryError(f"channel_names must be a sequence of names, got {self.channel_names!r:.80}")

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.scale, self.units, self.channel_names))

    def on(self, axes: str) -> World:
        """Return the world on the axes of an image.

        Raises
        ------
        GeometryError
            If a value is wrong, or is of an axis that the image has not.

        Examples
        --------
        >>> GivenWorld((2, 0.5, 0.5), "um").on("CZYX").scale
        {'Z': 2.0, 'Y': 0.5, 'X': 0.5}
        >>> GivenWorld({"t": 3}, {"T": "s"}).on("TYX").units
        {'T': 'second'}
        """
        spatial = [axis for axis in _SPATIAL if axis in axes]
        scale, units = self.scale, self.units
        if scale is not None and not isinstance(scale, Mapping):
            if isinstance(scale, str) or not hasattr(scale, "__len__") or len(scale) != len(spatial):
                raise GeometryError(
                    f"scale must have one number for each spatial axis {''.join(spatial)}, or be a mapping of axis "
                    f"letters to numbers, got {scale!r:.80}"
                )
            scale = dict(zip(spatial, scale, strict=True))
        if isinstance(units, str):
            units = dict.fromkeys(spatial, units)
        names = () if self.channel_names is None else tuple(self.channel_names)
        return World(_on_axes("scale", scale, axes), _on_axes("units", units, axes), channel_names=names)


GIVES_NOTHING = GivenWorld()
"""Physical metadata of a user who gives none."""


def _on_axes(name: str, values: Any, axes: str) -> dict[str, Any]:
    if values is not None and not isinstance(values, Mapping):
        raise GeometryError(
            f"{name} must be a mapping of axis letters, or values in the order (Z)YX, got {values!r:.80}"
        )
    by_letter = {str(axis).upper(): value for axis, value in (values or {}).items()}
    for axis in by_letter:
        if axis not in PHYSICAL or axis not in axes:
            raise GeometryError(
                f"{name} is given for axis {axis!r}, and the image has the axes {axes}; name those of T, Z, Y and X "
                "that it has"
            )
    return by_letter


def _number(name: str, axis: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise GeometryError(f"{name} of axis {axis} must be a finite number, got {value!r:.80}")
    return float(value)


def _unit(axis: str, text: Any) -> str:
    name = unit_name(axis, text)
    if name is None:
        example = "'second' or 'ms'" if axis == "T" else "'micrometer' or 'nm'"
        raise GeometryError(
            f"units of axis {axis} must be a unit that OME-Zarr lists, such as {example}, got {text!r:.80}"
        )
    return name
