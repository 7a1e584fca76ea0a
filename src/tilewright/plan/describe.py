"""A plan, a region and a size as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from tilewright.geometry import AxisTiling, Region

if TYPE_CHECKING:
    from tilewright.plan.write_plan import WritePlan

_SKETCH, _MOST_LINES = 240, 64
"""Pixels of the sketch, and lines that it has at most on an axis."""


def describe(plan: WritePlan) -> str:
    """Return a plan as a short table."""
    return "\n".join(["Write plan", *(f"  {name:<12} {text}" for name, text in plan_rows(plan))])


def plan_rows(plan: WritePlan) -> tuple[tuple[str, str], ...]:
    """Return what a plan costs, as names and texts."""
    sharing = (
        "each written by itself"
        if plan.units_are_independent
        else f"neighbours share tiles, up to {format_nbytes(plan.waiting_nbytes)} wait"
    )
    array = plan.arrays[0]
    stored = f"{plan.object_count:,} {'chunks' if plan.shards is None else 'shards'} of {array.stored_extents}"
    if plan.shards is not None:
        stored += f", in chunks of {plan.chunks}"
    levels = "full resolution alone"
    if len(plan.arrays) > 1:
        coarsest, waiting = plan.arrays[-1].shape, format_nbytes(plan.coarser_nbytes)
        levels = f"{len(plan.arrays)}, the coarsest {coarsest}, for which up to {waiting} wait"
    stored_axes = () if plan.stored_axes is None else (("stored as", _describe_order(plan)),)
    samples = () if "S" not in plan.axes or stored_axes else (("samples", _describe_samples(plan)),)
    return (
        ("output", f"{plan.axes} {plan.shape} {plan.dtype}, {format_nbytes(array.nbytes)}"),
        *stored_axes,
        *samples,
        ("levels", levels),
        ("tiles", f"{plan.tile_count:,} of {plan.tile_size}, overlap {plan.overlap}"),
        ("layout", f"{plan.layout}, {plan.extra_inference:.2f} x the tiles of compact"),
        ("reads", f"{plan.read_ratio:.2f} x the source"),
        ("objects", stored),
        (
            "write units",
            f"{plan.unit_count:,} of {array.unit_extents}, up to {format_nbytes(plan.largest_unit_nbytes)}, {sharing}",
        ),
        ("Dask tasks", f"{'' if plan.units_are_independent else 'at most '}{plan.task_count:,}"),
        ("memory", f"at most {format_nbytes(plan.peak_live_nbytes)} of predicted tiles, more only for a large cluster"),
    )


def _describe_order(plan: WritePlan) -> str:
    """Return how axes in the order of the source are stored."""
    return (
        f"{plan.stored_axes} {plan.as_stored(plan.shape)}, in chunks of {plan.as_stored(plan.chunks)}: the axes of the "
        "source, which is no image of OME-Zarr"
    )


def _describe_samples(plan: WritePlan) -> str:
    """Return how samples are stored."""
    count, levels = plan.shape[0], len(plan.arrays)
    if not plan.is_collection:
        return f"{count:,} in one array, which is no image of OME-Zarr"
    arrays = "array" if levels == 1 else f"{levels} arrays"
    return f"{count:,}, each an image of its own: a group with {arrays}, {count * (1 + levels):,} nodes with metadata"


def describe_html(plan: WritePlan) -> str:
    """Return a plan as HTML for a notebook: the table, and a sketch of its last two axes."""
    cell = "text-align:left;padding:3px 20px 3px 0;vertical-align:top;background:none"
    rows = "".join(
        f'<tr style="background:none"><td style="{cell};opacity:.65">{escape(name)}</td>'
        f'<td style="{cell}">{escape(text)}</td></tr>'
        for name, text in plan_rows(plan)
    )
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:24px 40px;align-items:flex-start;font:14px/1.5 system-ui,'
        f'sans-serif"><div><b>Write plan</b><table style="border-collapse:collapse">{rows}</table></div>'
        f"<div>{_sketch(plan)}</div></div>"
    )


def _sketch(plan: WritePlan) -> str:
    """Return a drawing of the write units of a plane, and of a tile in its middle with what it alone contributes."""
    units, tilings = plan.arrays[0].units[-2:], plan.tilings[-2:]
    height, width = plan.shape[-2:]
    scale = _SKETCH / max(height, width)
    lines = ""
    if max(axis.count for axis in units) <= _MOST_LINES:
        rows, columns = ([axis.span(index)[0] * scale for index in range(1, axis.count)] for axis in units)
        lines = "".join(f"M0 {y:.1f}H{width * scale:.1f}" for y in rows)
        lines += "".join(f"M{x:.1f} 0V{height * scale:.1f}" for x in columns)
    middle = [(tiling.count - 1) // 2 for tiling in tilings]
    drawn = [_box(((0, height), (0, width)), scale, 'fill="none" stroke="currentColor" stroke-opacity=".6"')]
    drawn.append(f'<path d="{lines}" stroke="currentColor" stroke-opacity=".25"/>')
    for region, opacity in ((_both(tilings, middle, "read"), 0.25), (_both(tilings, middle, "valid"), 0.6)):
        drawn.append(_box(region, scale, f'fill="#0d6e65" fill-opacity="{opacity}"'))
    caption = "Lines: write units. Green: a tile with its halo, and what it alone contributes."
    return (
        f'<svg width="{width * scale + 2:.0f}" height="{height * scale + 2:.0f}" role="img">{"".join(drawn)}</svg>'
        f'<div style="font-size:12px;opacity:.65;max-width:{_SKETCH}px">{plan.axes[-2:]}. {caption}</div>'
    )


def _both(tilings: Sequence[AxisTiling], indices: Sequence[int], region: str) -> Region:
    return tuple([getattr(tiling, region)(index) for tiling, index in zip(tilings, indices, strict=True)])


def _box(region: Region, scale: float, looks: str) -> str:
    (top, bottom), (left, right) = region
    size = f'width="{(right - left) * scale:.1f}" height="{(bottom - top) * scale:.1f}"'
    return f'<rect x="{left * scale:.1f}" y="{top * scale:.1f}" {size} {looks}/>'


def format_nbytes(nbytes: float) -> str:
    """Return a size in bytes as a person reads it.

    Examples
    --------
    >>> format_nbytes(7077888)
    '6.75 MiB'
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while nbytes >= 1024 and power < len(units) - 1:
        nbytes /= 1024
        power += 1
    return f"{nbytes:.4g} {units[power]}"


def format_seconds(seconds: float) -> str:
    """Return a duration as a person reads it.

    Examples
    --------
    >>> format_seconds(0.5), format_seconds(75), format_seconds(93784)
    ('0.5 s', '1 min 15 s', '1 d 2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:3])


def describe_region(axes: str, region: Region) -> str:
    """Return a region as a person reads it.

    Examples
    --------
    >>> describe_region("YX", ((0, 64), (64, 128)))
    'Y 0:64, X 64:128'
    """
    return ", ".join(f"{name} {start}:{stop}" for name, (start, stop) in zip(axes, region, strict=True))
