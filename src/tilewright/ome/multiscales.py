"""The metadata of a multiscale image are read in any version of OME-Zarr; what they do not say is left out."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, prod
from numbers import Real
from typing import Any

from tilewright.ome.axis_letters import KINDS, PHYSICAL, UNKNOWN, known_axes_of_names
from tilewright.ome.units import unit_name
from tilewright.ome.world import World

_OLDEST = ("0.1", "0.2")
"""Versions that do not name axes: all arrays have the same ones."""
Affine = tuple[list[float], list[float]]
"""Scale and translation, per axis."""


@dataclass(frozen=True)
class Level:
    """Array of one resolution: its path in the group of its image, and its physical metadata."""

    path: str
    world: World


@dataclass(frozen=True)
class Multiscale:
    """Image at several resolutions: its axes, one letter each, "?" for an unknown one; and its levels as listed."""

    axes: str
    levels: tuple[Level, ...]

    @property
    def finest(self) -> Level | None:
        """The level with the smallest elements, the first of these; None without levels."""
        return min(self.levels, key=lambda level: prod(level.world.scale.values()), default=None)


def multiscales_of(attributes: Mapping[str, Any]) -> tuple[Multiscale, ...]:
    """Return the multiscale images in the attributes of a group.

    Examples
    --------
    >>> steps = [{"type": "scale", "scale": [2, 0.5]}]
    >>> axes = [{"name": "y", "type": "space", "unit": "micrometer"}, {"name": "x", "type": "space"}]
    >>> said = {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": steps}]}
    >>> found = multiscales_of({"ome": {"version": "0.5", "multiscales": [said]}})[0]
    >>> found.axes, found.finest.path, found.finest.world.scale
    ('YX', 's0', {'Y': 2.0, 'X': 0.5})
    """
    said = ome_attributes(attributes)
    names = _channel_names(said.get("omero"))
    return tuple(_multiscale(_mapping(entry), said, names) for entry in _sequence(said.get("multiscales")))


def ome_attributes(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return attributes with those that OME-Zarr puts under "ome" since version 0.5."""
    return {**attributes, **_mapping(attributes.get("ome"))}


def _multiscale(entry: Mapping[str, Any], said: Mapping[str, Any], channel_names: tuple[str, ...]) -> Multiscale:
    axes = _sequence(entry.get("axes")) or _intrinsic_axes(entry)
    letters = _letters(axes)
    if not axes and entry.get("version") in _OLDEST:
        letters = "TCZYX"
    units = {
        letter: unit
        for letter, axis in zip(letters, axes, strict=False)
        if letter in PHYSICAL and (unit := unit_name(letter, _mapping(axis).get("unit")))
    }
    # In version 0.6 those lead on to other coordinate systems.
    of_all = [] if "coordinateSystems" in entry else _sequence(entry.get("coordinateTransformations"))
    levels = []
    for dataset in map(_mapping, _sequence(entry.get("datasets"))):
        path = dataset.get("path")
        if not isinstance(path, str) or not path:
            continue
        steps = [*_sequence(dataset.get("coordinateTransformations")), *of_all]
        scale, translation = _by_letter(letters, _composed(steps, len(letters)) if steps else None)
        levels.append(Level(posixpath.normpath(path), World(scale, units, translation, channel_names)))
    return Multiscale(letters, tuple(levels))


def _intrinsic_axes(entry: Mapping[str, Any]) -> Sequence[Any]:
    """Return the axes of the coordinate system of the levels: that which their transformations lead to."""
    systems = [_mapping(system) for system in _sequence(entry.get("coordinateSystems"))]
    dataset = _mapping(next(iter(_sequence(entry.get("datasets"))), None))
    step = _mapping(next(iter(_sequence(dataset.get("coordinateTransformations"))), None))
    output = step.get("output")
    name = output.get("name") if isinstance(output, Mapping) else output
    chosen = [system for system in systems if system.get("name") == name] or systems
    return _sequence(chosen[0].get("axes")) if chosen else []


def _letters(axes: Sequence[Any]) -> str:
    letters = known_axes_of_names([axis.get("name") if isinstance(axis, Mapping) else axis for axis in axes])
    # Any name may be that of the axis of time, or of channels.
    by_kind = {kind: letter for letter, kind in KINDS.items() if kind in ("time", "channel")}
    kinds = [_mapping(axis).get("type") for axis in axes]
    return "".join(
        by_kind.get(kind if isinstance(kind, str) else "", UNKNOWN) if letter == UNKNOWN else letter
        for letter, kind in zip(letters, kinds, strict=True)
    )


def _composed(steps: Sequence[Any], ndim: int) -> Affine | None:
    """Return transformations, one after the other, as one; None where they are not scales and translations."""
    scale, translation = [1.0] * ndim, [0.0] * ndim
    for step in map(_mapping, steps):
        kind = step.get("type")
        if kind == "identity":
            continue
        if kind == "sequence":
            found = _composed(_sequence(step.get("transformations")), ndim)
        elif kind == "scale":
            found = _numbers(step.get("scale"), ndim), [0.0] * ndim
        elif kind == "translation":
            found = [1.0] * ndim, _numbers(step.get("translation"), ndim)
        else:
            return None
        if found is None or not found[0] or not found[1]:
            return None
        scale = [factor * own for factor, own in zip(found[0], scale, strict=True)]
        moved = zip(found[0], found[1], translation, strict=True)
        translation = [factor * own + offset for factor, offset, own in moved]
    return scale, translation


def _by_letter(letters: str, affine: Affine | None) -> tuple[dict[str, float], dict[str, float]]:
    if affine is None:
        return {}, {}
    scale, translation = (dict(zip(letters, values, strict=True)) for values in affine)
    found = [letter for letter in PHYSICAL if letter in letters]
    known = [letter for letter in found if 0 < scale[letter] < inf and isfinite(translation[letter])]
    return {letter: scale[letter] for letter in known}, {letter: translation[letter] for letter in known}


def _channel_names(omero: Any) -> tuple[str, ...]:
    labels = [_mapping(channel).get("label") for channel in _sequence(_mapping(omero).get("channels"))]
    names = tuple(label for label in labels if isinstance(label, str) and label)
    return names if len(names) == len(labels) else ()


def _numbers(values: Any, count: int) -> list[float]:
    """Return so many finite numbers, or none."""
    found = [float(v) for v in _sequence(values) if isinstance(v, Real) and not isinstance(v, bool) and isfinite(v)]
    return found if len(found) == count == len(_sequence(values)) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else []
