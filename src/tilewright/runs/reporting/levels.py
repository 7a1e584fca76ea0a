"""Coarser levels of an output, each as one small map and as one row of numbers."""

from math import prod

from tilewright.plan import ArrayPlan, WritePlan
from tilewright.plan.describe import format_nbytes
from tilewright.runs.reporting.history import History
from tilewright.runs.reporting.markup import panels, section, table
from tilewright.runs.reporting.unit_map import level_map, plane_count

_COLUMNS = 4
_HEAD = ("Array", "Elements", "Made of", "Write units", "Stored", "Given up", "Missing", "Size")


def levels_section(plan: WritePlan, history: History) -> str:
    """Return the section of the levels; nothing where there is full resolution alone."""
    if len(plan.arrays) == 1:
        return ""
    latest = history.latest_seconds
    coarser = list(zip(plan.arrays, history.levels, strict=True))[1:]
    # A level of one unit has no places to tell apart.
    mapped = [(array, units) for array, units in coarser if units.unit_count > 1]
    maps = [level_map(plan.axes, array, units, latest) for array, units in mapped]
    planes = "all planes of a level as one" if any(plane_count(units) > 1 for _, units in mapped) else "a level"
    rows = [_row(plan, history, number) for number in range(len(plan.arrays))]
    halved = sorted({letter for array in plan.arrays[1:] for letter in _halved(plan, array)}, key=plan.axes.index)
    return section(
        "Levels",
        f"The output holds the image {len(plan.arrays)} times, so that viewers can show all of it at once: array 0 has "
        f"full resolution, each further one half as many elements along {', '.join(halved)}. The units of a level are "
        "made of those below: where one was given up, all coarser levels have a gap."
        + f" Each picture shows {planes}, in the colours of the map above."
        * bool(maps),
        panels(_COLUMNS, maps) if maps else "",
        table(_HEAD, rows),
    )


def _halved(plan: WritePlan, array: ArrayPlan) -> list[str]:
    return [letter for letter, factor in zip(plan.axes, array.factors, strict=True) if factor > 1]


def _row(plan: WritePlan, history: History, number: int) -> tuple[str, ...]:
    array, units = plan.arrays[number], history.levels[number]
    tilings, _ = plan.tiles_of_array(number)
    count = prod(tiling.count for tiling in tilings)
    made_of = f"unit{'s' * (count > 1)} of {number - 1}" if number else f"tile{'s' * (count > 1)}"
    given_up = int(units.given_up.sum())
    stored = int(units.written.sum() + units.kept.sum())
    return (
        array.name,
        " × ".join(f"{extent:,}" for extent in array.shape),
        f"{count:,} {made_of}",
        f"{units.unit_count:,}",
        f"{stored:,}",
        f"{given_up:,}",
        f"{units.unit_count - stored - given_up:,}",
        format_nbytes(prod(array.shape) * array.itemsize),
    )
