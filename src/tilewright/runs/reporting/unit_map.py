"""Map of the write units over space: one pixel per cell, coloured by state, and by time where it was written."""

from math import prod

import numpy as np

from tilewright.plan import ArrayPlan, WritePlan
from tilewright.runs.reporting.history import UnitMap
from tilewright.runs.reporting.markup import image, panels
from tilewright.runs.reporting.png import Pixels, data_url

MOST_PANELS = 12
"""Planes that are drawn; where there are more, neighbours are drawn as one."""
EARLY, LATE = (190, 224, 219), (13, 110, 101)
"""Colours of the first and of the last unit that was written."""
KEPT, GIVEN_UP = (146, 155, 166), (209, 52, 56)


def unit_map(plan: WritePlan, units: UnitMap, latest_seconds: float) -> str:
    """Return the map of the units at full resolution as HTML: one picture per plane of units, or per group of planes.

    Cells with a unit that was given up are shown as such, whatever else is in them. Missing cells are transparent. The
    darkest colour is that of the latest second.
    """
    rows, columns = units.shape[-2:]
    planes, group = plane_count(units), planes_per_panel(units)
    pixels = _coloured(units, latest_seconds).reshape(planes, rows, columns, 4)
    is_given_up = units.given_up.reshape(planes, rows, columns) > 0
    height, width = plan.shape[-2:]
    figures = []
    for first in range(0, planes, group):
        picture = _merged(pixels[first : first + group], is_given_up[first : first + group])
        name = _name_of_planes(plan, units, first, min(first + group, planes))
        figures.append(image(data_url(picture), name, height, width))
    return panels(2 if len(figures) == 1 else min(max(len(figures), 3), 4), figures)


def level_map(axes: str, array: ArrayPlan, units: UnitMap, latest_seconds: float) -> str:
    """Return the map of the units of a coarser level as one picture, in which all planes are drawn as one."""
    rows, columns = units.shape[-2:]
    pixels = _coloured(units, latest_seconds).reshape(-1, rows, columns, 4)
    is_given_up = units.given_up.reshape(-1, rows, columns) > 0
    name = f"Level {array.name}: {axes} {' × '.join(map(str, array.shape))}"
    height, width = array.shape[-2:]
    return image(data_url(_merged(pixels, is_given_up)), name, height, width)


def plane_count(units: UnitMap) -> int:
    """Return the number of planes of cells."""
    return prod(units.shape[:-2])


def planes_per_panel(units: UnitMap) -> int:
    """Return how many planes of cells are drawn as one."""
    return -(-plane_count(units) // MOST_PANELS)


def _coloured(units: UnitMap, latest_seconds: float) -> Pixels:
    """Return the colour of each cell, RGB and alpha."""
    colours = np.zeros((*units.shape, 4), np.uint8)
    colours[units.kept > 0] = (*KEPT, 255)
    is_written = units.written > 0
    age = (units.last_seconds[is_written] / max(latest_seconds, 1e-9))[:, np.newaxis]
    colours[is_written, :3] = np.rint((1 - age) * EARLY + age * np.array(LATE))
    colours[is_written, 3] = 255
    colours[units.given_up > 0] = (*GIVEN_UP, 255)
    return colours


def _merged(planes: Pixels, is_given_up: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> Pixels:
    """Return several planes as one: what is given up before what is missing, and that before what was written last."""
    merged: Pixels = planes[-1].copy()
    for plane in planes[:-1]:
        merged[plane[..., 3] == 0] = 0
    merged[is_given_up.any(axis=0)] = (*GIVEN_UP, 255)
    return merged


def _name_of_planes(plan: WritePlan, units: UnitMap, first: int, stop: int) -> str:
    """Return the place of planes of cells on the axes before the last two."""
    leading, before = units.shape[:-2], []
    if not leading or prod(leading) == 1:
        return f"{plan.axes[-2:]}, all of the image"
    begins, ends = np.unravel_index(first, leading), np.unravel_index(stop - 1, leading)
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if leading[axis] == 1:
            continue
        of_axis = plan.arrays[0].units[axis]
        low, high = sorted((int(begin), int(end)))
        last = min((high + 1) * units.factors[axis], of_axis.count) - 1
        before.append(f"{plan.axes[axis]} {of_axis.span(low * units.factors[axis])[0]}:{of_axis.span(last)[1]}")
    return ", ".join(before)
