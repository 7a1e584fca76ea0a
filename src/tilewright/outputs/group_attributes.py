"""The group of an output is marked as one of tilewright, and is an image of OME-Zarr wherever its axes allow that."""

from dataclasses import replace
from operator import mul
from typing import Any

import numpy as np

from tilewright.errors import GeometryError
from tilewright.ome.attributes import image_attributes
from tilewright.ome.world import World
from tilewright.outputs.inventory import OWN_ATTRIBUTE
from tilewright.outputs.options import OutputOptions
from tilewright.plan import WritePlan

_WINDOW_OF_FLOATS = 0.0, 1.0
"""Window of a channel of floats, whose values are not known when the output is created."""


def group_attributes(plan: WritePlan, options: OutputOptions) -> dict[str, Any]:
    """Return the attributes of the group of an output.

    Without names of its axes, or with an axis of samples, it is no image of OME-Zarr.

    Raises
    ------
    GeometryError
        If other channels are named than the output has.
    """
    own = {OWN_ATTRIBUTE: {"arrays": [array.name for array in plan.arrays]}}
    if not options.names_dimensions or "S" in plan.axes:
        return own
    world = _world(plan, options)
    return own | image_attributes(
        str(options.ome_version),
        plan.axes,
        plan.arrays[0].shape,
        level_factors(plan),
        world,
        paths=[array.name for array in plan.arrays],
        # Viewers choose a window that fits what is stored, unless the metadata have one.
        windows=[_window(plan.dtype)] * len(world.channel_names) or None,
    )


def level_factors(plan: WritePlan) -> list[tuple[int, ...]]:
    """Return how many elements of the full resolution one element of each array stands for, per axis."""
    factors = [(1,) * len(plan.axes)]
    for array in plan.arrays[1:]:
        factors.append(tuple(map(mul, factors[-1], array.factors)))
    return factors


def _world(plan: WritePlan, options: OutputOptions) -> World:
    """Return the physical metadata of an output: those of its source, and over them those that the user gives."""
    given = options.given.on(plan.axes)
    if given.channel_names and len(given.channel_names) != plan.channels:
        raise GeometryError(
            f"channel_names must be one name for each of the {plan.channels} channels of the output, got "
            f"{given.channel_names}"
        )
    world = options.world.updated(given)
    if len(world.channel_names) != plan.channels:
        # The channels of the source: the model returns others.
        world = replace(world, channel_names=())
    return world


def _window(dtype: str) -> tuple[float, float]:
    known = np.dtype(dtype)
    if known.kind not in "iu":
        return _WINDOW_OF_FLOATS
    limits = np.iinfo(known)
    return int(limits.min), int(limits.max)
