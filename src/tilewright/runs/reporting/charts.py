"""Three plain charts as SVG: levels over time, a histogram, and bars that are stacked.

Written by hand: a chart is a path and five labels of some kilobytes, takes its colours from the page, so that it is
readable in the dark, and needs no library on the node where a job has failed.
"""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from tilewright.plan.describe import format_nbytes, format_seconds

Numbers = npt.NDArray[np.float64]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 190, 74, 24, 14
_FEWEST_POINTS, _MOST_POINTS = 24, 120
STAGES = {
    "read": "reading the source",
    "model": "in the model",
    "assemble": "placing tiles",
    "encode": "compressing",
    "put": "storing",
}
"""Stages of the work, and what is said of them."""


def over_time(
    values: Numbers,
    step_seconds: float,
    seconds: float,
    *,
    per_point: int = 1,
    limit: float | None = None,
    limit_name: str = "",
) -> str:
    """Return a chart of bytes, or bytes per second, over time.

    Parameters
    ----------
    values : array of float
        One value per step of time.
    step_seconds : float
        Length of a step, in seconds.
    seconds : float
        Duration, which may end within the last step.
    per_point : int, default=1
        Steps that should be drawn as one, where enough points are left.
    limit : float, optional
        A value to compare with, drawn as a dashed line with a name.

    Returns
    -------
    str
        SVG.
    """
    group = max(min(per_point, len(values) // _FEWEST_POINTS), -(-len(values) // _MOST_POINTS))
    fits = np.pad(values, (0, -len(values) % group), constant_values=np.nan).reshape(-1, group)
    # A rate is an average; of what is held, the most matters.
    values = np.nanmax(fits, axis=1) if limit is not None else np.nanmean(fits, axis=1)
    # Room for the name of the limit above it.
    highest = max(float(values.max()), 1.15 * (limit or 0.0)) or 1.0
    floor = _HEIGHT - _BOTTOM
    edges = np.minimum(np.arange(len(values) + 1) * group * step_seconds / seconds, 1.0)
    xs = np.repeat(_LEFT + edges * (_WIDTH - _LEFT), 2)[1:-1]
    ys = np.repeat(floor - values / highest * (floor - _TOP), 2)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    unit = "/s" * (limit is None)
    drawn = [
        *_axis(highest, lambda value: f"{format_nbytes(value)}{unit}"),
        f'<polygon class="pale" points="{_LEFT},{floor} {points} {_WIDTH},{floor}"/>',
        f'<polyline class="line" points="{points}"/>',
        _text(_LEFT, _HEIGHT - 6, "start"),
        _text(_WIDTH, _HEIGHT - 6, format_seconds(seconds), "end"),
    ]
    if limit is not None:
        y = floor - limit / highest * (floor - _TOP)
        drawn.append(f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(_text(_WIDTH, y - 6, limit_name, "end"))
    return _svg(drawn)


def histogram(counts: npt.NDArray[np.int64], low: float, high: float) -> str:
    """Return a chart of how many values lie in each of equal parts of a range."""
    highest, floor = max(1.0, float(counts.max())), _HEIGHT - _BOTTOM
    width = (_WIDTH - _LEFT) / len(counts)
    bars = [
        f'<rect class="fill" x="{_LEFT + index * width:.1f}" y="{floor - height:.1f}" width="{max(width - 1, 1):.1f}" '
        f'height="{height:.1f}"/>'
        for index, height in enumerate(counts / highest * (floor - _TOP))
        if height
    ]
    ends = [_text(_LEFT, _HEIGHT - 6, f"{low:.4g}"), _text(_WIDTH, _HEIGHT - 6, f"{high:.4g}", "end")]
    return _svg([*_axis(highest, lambda value: f"{value:,.0f}"), *bars, *ends])


def stacked_bars(rows: Sequence[tuple[str, Sequence[float], str]]) -> str:
    """Return one bar per row, of one part per stage; a row has a name, seconds per stage, and a remark."""
    longest = max((sum(parts) for _, parts, _ in rows), default=0.0) or 1.0
    shown = []
    for name, parts, remark in rows:
        bar = "".join(
            f'<div style="width:{100 * part / longest:.2f}%;background:var(--{stage})" '
            f'title="{STAGES[stage]}: {format_seconds(part)}"></div>'
            for stage, part in zip(STAGES, parts, strict=True)
        )
        shown.append(f'<span>{escape(name)}</span><div class="bar">{bar}</div><span>{escape(remark)}</span>')
    return f'<div class="bars">{"".join(shown)}</div>'


def _axis(highest: float, name: Callable[[float], str]) -> list[str]:
    floor = _HEIGHT - _BOTTOM
    drawn = []
    for share in (0.0, 0.5, 1.0):
        y = floor - share * (floor - _TOP)
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(_text(_LEFT - 8, y + 4, name(share * highest) if share else "0", "end"))
    return drawn


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'
