"""The page of a run: what has happened, against what was planned, for a reader who was not there.

The order is that of a reader's questions: is it done and what must I do, where and when was it done, what does it look
like, what did it cost, on what machine.
"""

from __future__ import annotations

import logging
import platform
import posixpath
import socket
from html import escape
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING

from tilewright.plan import FULL_RESOLUTION
from tilewright.plan.describe import format_nbytes, format_seconds
from tilewright.runs.reporting.charts import STAGES, histogram, over_time, stacked_bars
from tilewright.runs.reporting.ending import FAILED, Ending
from tilewright.runs.reporting.ending import GIVEN_UP as UNITS_GIVEN_UP
from tilewright.runs.reporting.levels import levels_section
from tilewright.runs.reporting.markup import figures, fragment, key, note, page, panels, paragraphs, section, table
from tilewright.runs.reporting.pictures import Readable, Slices, orthogonal_slices, stored_levels, whole_slices
from tilewright.runs.reporting.unit_map import EARLY, GIVEN_UP, KEPT, LATE, planes_per_panel, unit_map
from tilewright.stores.places import public_name, without_secrets

if TYPE_CHECKING:
    from tilewright.runs.report import Report
    from tilewright.runs.reporting.history import History

_log = logging.getLogger(__name__)
_MOST_REGIONS, _REGIONS_OPEN, _MOST_WORKERS = 100, 6, 16
_FEWEST_STEPS, _UNITS_PER_POINT = 8, 6
_LIBRARIES = ("tilewright", "dask", "distributed", "numpy", "torch", "zarr")
_BRAND = '<p class="brand"><b>tilewright</b> report of a prediction</p>'


def run_page(report: Report, *, with_pictures: bool = True) -> str:
    """Return the report of a run as one HTML file, which needs no other file.

    Parameters
    ----------
    report : Report
        The report, also of a run that did not finish.
    with_pictures : bool, default=True
        Whether to read slices of source and prediction.
    """
    body = [
        _top(report),
        _where(report),
        _levels(report),
        _not_written(report),
        _when(report),
        _pictures(report) if with_pictures else "",
        _plan_and_actual(report),
        _workers(report),
        _environment(report),
    ]
    return page(_headline(report), "".join(body))


def run_fragment(report: Report) -> str:
    """Return the beginning of the page for a notebook; nothing that is stored is read."""
    return fragment(_top(report) + _where(report) + _plan_and_actual(report))


def failure_page(ending: Ending, destination: str) -> str:
    """Return the page of a run that has ended before it had a plan."""
    headline = f"{'Failed' if ending.state == FAILED else 'Stopped'} before anything was written."
    details = f"<details><summary>Traceback</summary><pre>{escape(ending.details)}</pre></details>"
    shown = f'{_BRAND}<h1>{headline}</h1><p class="lead">{escape(destination)}</p>{_next(ending, {}, has_begun=False)}'
    return page(headline, shown + details * bool(ending.details) + _environment(None))


def _headline(report: Report) -> str:
    done = report.unit_count + report.kept_unit_count
    return report.ending.headline(done, report.plan.unit_count, len(report.given_up))


def _next(ending: Ending, given_up: dict[str, str], coarser: int = 0, *, has_begun: bool = True) -> str:
    steps = ending.next_steps(given_up, coarser, has_begun=has_begun)
    looks = "next alarm" if ending.state in (FAILED, UNITS_GIVEN_UP) else "next"
    return f'<div class="{looks}">{paragraphs(steps)}</div>' * bool(steps)


def _given_up(report: Report) -> dict[str, str]:
    """Return the regions that were given up, in words, with their reasons; those at full resolution first."""
    plan = report.plan
    return {plan.describe_place(unit): reason for unit, reason in sorted(report.given_up.items())}


def _causes(report: Report) -> dict[str, str]:
    """Return those of them that the others follow from: those at full resolution, where there are some."""
    given_up = _given_up(report)
    count = sum(unit < report.plan.finest_unit_count for unit in report.given_up)
    return dict(islice(given_up.items(), count)) if count else given_up


def _top(report: Report) -> str:
    plan = report.plan
    seconds = max(report.total_seconds, 1e-9)
    done = plan.output_nbytes and (report.output_nbytes + report.kept_nbytes) / plan.output_nbytes
    values = [
        # Not rounded up: 100% is for a run that is complete.
        (f"{int(1000 * done) / 10:g}%", "of the bytes are stored"),
        (format_seconds(report.total_seconds), "duration"),
        (f"{format_nbytes(report.output_nbytes / seconds)}/s", "written, before compression"),
        (format_nbytes(report.stored_nbytes), f"stored of {format_nbytes(report.output_nbytes)} written"),
        (format_nbytes(report.peak_memory_nbytes), "memory of the largest process"),
    ]
    causes = _causes(report)
    shape = plan.shape if plan.stored_axes is None else plan.as_stored(plan.shape)
    begun = f"{report.history.started_at:%d %B %Y, %H:%M}. " if report.history else ""
    what = f"{begun}{_array_name(report)}: {plan.stored_axes or plan.axes} {_times(shape)}, {plan.dtype}."
    details = f"<details><summary>Traceback</summary><pre>{escape(report.ending.details)}</pre></details>"
    return (
        f'{_BRAND}<h1>{escape(_headline(report))}</h1><p class="lead">{escape(what)}</p>'
        f"{_next(report.ending, causes, len(report.given_up) - len(causes))}"
        f"{details * bool(report.ending.details)}{figures(values)}"
    )


def _where(report: Report) -> str:
    if report.history is None or report.history.levels[0].written.size == 1:
        return ""
    units, plan = report.history.levels[0], report.plan
    rgb = [f"rgb{colour}".replace(" ", "") for colour in (EARLY, LATE, KEPT, GIVEN_UP)]
    end = format_seconds(report.total_seconds)
    time = f"written in this run, from the start (pale) to the end after {end} (dark)"
    entries = [(f"linear-gradient(90deg,{rgb[0]},{rgb[1]})", time)] * bool(report.unit_count)
    entries += [(rgb[2], "kept from an earlier run")] * bool(report.kept_unit_count)
    entries += [(rgb[3], "given up")] * bool(report.given_up) + [("", "missing")] * bool(report.missing_unit_count)
    per_cell = _times(units.factors)
    cell = "One cell is one write unit" if set(units.factors) == {1} else f"One cell is {per_cell} write units"
    planes = planes_per_panel(units)
    group = f". {planes} planes of cells are drawn as one, in which all shows that is not written" * (planes > 1)
    return section(
        "Where it was written",
        f"{cell} at full resolution; a write unit is what one task writes, "
        f"up to {_times(plan.arrays[0].unit_extents)} elements ({plan.axes}){group}.",
        unit_map(plan, units, report.history.latest_seconds),
        key(entries),
    )


def _levels(report: Report) -> str:
    return "" if report.history is None else levels_section(report.plan, report.history)


def _when(report: Report) -> str:
    history = report.history
    if history is None or not report.unit_count:
        return ""
    line = history.timeline
    seconds = report.total_seconds
    planned = report.plan.peak_live_nbytes
    if seconds < _FEWEST_STEPS * line.step_seconds:
        return ""
    # Points of few units would tell of the units, not of the rate.
    per_point = max(1, round(_UNITS_PER_POINT * seconds / line.step_seconds / report.unit_count))
    rates = over_time(line.rates(seconds), line.step_seconds, seconds, per_point=per_point)
    live = over_time(line.live(seconds), line.step_seconds, seconds, limit=planned, limit_name="planned at most")
    return section(
        "How it went on",
        "Gaps are times in which nothing came to its end: models that load, slow stores, other users of the machine.",
        '<div class="two">'
        f"<figure>{rates}<figcaption>Written per second, before compression</figcaption></figure>"
        f"<figure>{live}<figcaption>Predicted tiles in flight: asked for, or waiting to be written</figcaption>"
        "</figure></div>",
    )


def _pictures(report: Report) -> str:
    """Return slices and histograms; nothing where they cannot be read, which must not cost the report."""
    if report.history is None or not report.unit_count + report.kept_unit_count:
        return ""
    try:
        source = None
        if report.source is not None:
            source = Readable.of(report.source.opened(), report.source.axes.names)
        levels = stored_levels(report.plan, report.array, report.history.levels, report.given_up)
        predicted, read, is_part = orthogonal_slices(levels[0], source)
        fitting = whole_slices(levels) if is_part else None
    except Exception as error:
        _log.warning("the pictures of the report could not be read", exc_info=True)
        return section("What it looks like", f"The pictures could not be read: {without_secrets(error)}", "<p></p>")
    whole = ""
    if fitting is not None:
        level = f" at level {fitting[0]}" * (fitting[0] != FULL_RESOLUTION)
        whole = _planes([(f"Prediction, all of it{level}", fitting[1])])
    part = ", a part at full resolution" * is_part
    both = [(f"Source{part}", read)] if read is not None else []
    both.append((f"Prediction{part}", predicted))
    through = "Planes through one point that is written" if len(predicted.pictures) > 1 else "The plane"
    channel = ", of the first channel" * (report.plan.channels > 1)
    charts = "".join(_histogram(name, slices) for name, slices in both)
    return section(
        "What it looks like",
        f"{through}{channel}. Each row has its own range of grey values. Striped parts are not written, or no numbers.",
        whole,
        _planes(both),
        f'<div class="two">{charts}</div>',
    )


def _planes(both: list[tuple[str, Slices]]) -> str:
    """Return the pictures of the arrays: a row for each, or side by side where each has one."""
    named = [(name, slices, slices.range) for name, slices in both]
    if len(both[0][1].pictures) == 1:
        shown = [f"<div><h3>{n}</h3>{panels(1, [slices.pictures[0].html(*ends)])}</div>" for n, slices, ends in named]
        return f'<div class="two">{"".join(shown)}</div>'
    return "".join(f"<h3>{n}</h3>{panels(3, [p.html(*ends) for p in slices.pictures])}" for n, slices, ends in named)


def _histogram(name: str, slices: Slices) -> str:
    counts, low, high = slices.histogram()
    text = f"{name}: values of the pictures, from {low:.4g} (black) to {high:.4g} (white)"
    if not counts.any():
        text = f"{name}: none of the values of the pictures is a number"
    return f"<figure>{histogram(counts, low, high)}<figcaption>{text}</figcaption></figure>"


def _plan_and_actual(report: Report) -> str:
    plan = report.plan
    done = report.unit_count + report.kept_unit_count
    kept = f"{report.unit_count:,} written, {report.kept_unit_count:,} kept"
    rows = [
        (
            "Tiles",
            f"{plan.tile_count:,}",
            f"{plan.tile_count:,}" if report.is_complete and not report.kept_unit_count else "–",
        ),
        ("Write units", f"{plan.unit_count:,}", kept if report.kept_unit_count else f"{done:,} written"),
        ("Stored objects (files)", f"{plan.object_count:,}", f"{report.object_count:,} written in this run"),
        ("Bytes before compression", format_nbytes(plan.output_nbytes), format_nbytes(report.output_nbytes)),
        ("Bytes stored", "–", _stored(report)),
        ("Predicted tiles in memory", f"at most {format_nbytes(plan.peak_live_nbytes)}", _peak(report)),
        ("Memory of the largest process", "–", format_nbytes(report.peak_memory_nbytes)),
        ("Duration", "–", format_seconds(report.total_seconds)),
        ("Given up", "0 units", f"{len(report.given_up):,} units"),
        ("Missing", "0 units", f"{report.missing_unit_count:,} units"),
        ("Clipped values", "–", f"{report.lost_count:,} elements that {plan.dtype} cannot hold"),
        ("Missing objects of the source", "–", f"{report.missing_count:,}"),
    ]
    return section(
        "Planned and done",
        "A write unit consists of whole stored objects, each written once; units of all levels are counted.",
        table(("", "Planned", "Done"), rows),
        "".join(map(note, report.notes)),
    )


def _stored(report: Report) -> str:
    ratio = report.output_nbytes / report.stored_nbytes if report.stored_nbytes else 0
    return format_nbytes(report.stored_nbytes) + (f", {ratio:.1f} times smaller" if ratio > 1.05 else "")


def _peak(report: Report) -> str:
    return f"at most {format_nbytes(report.peak_live_nbytes)}"


def _workers(report: Report) -> str:
    if report.history is None or not report.history.processes:
        return ""
    history: History = report.history
    processes = sorted(history.processes.items(), key=lambda item: -item[1].unit_count)
    rows = []
    for name, process in processes[:_MOST_WORKERS]:
        seconds = process.seconds
        units = "1 unit" if process.unit_count == 1 else f"{process.unit_count:,} units"
        remark = f"{units}, {format_nbytes(process.nbytes)}, memory {format_nbytes(process.peak_memory_nbytes)}"
        parts = [getattr(seconds, stage) for stage in STAGES]
        rows.append((f"process {name}" if name[:1].isdigit() else name, parts, remark))
    totals = [(stage, getattr(report.stage_seconds, stage)) for stage in STAGES]
    legend = [(f"var(--{stage})", f"{STAGES[stage]} {format_seconds(seconds)}") for stage, seconds in totals]
    more = len(processes) - _MOST_WORKERS
    clipped = [f"{process.lost_count:,} by process {name}" for name, process in processes if process.lost_count]
    return section(
        "Where the time went",
        "Seconds of all threads of a process together, by what they did; threads may also wait, which is not counted.",
        stacked_bars(rows),
        key(legend),
        note(f"{more:,} more processes are not shown." if more > 0 else ""),
        note(f"Clipped elements: {', '.join(clipped[:_MOST_WORKERS])}." if clipped else ""),
    )


def _not_written(report: Report) -> str:
    given_up = [(region, without_secrets(reason)) for region, reason in _given_up(report).items()][:_MOST_REGIONS]
    more = len(report.given_up) - len(given_up)
    missing = report.missing_unit_count
    striped = "They are striped on the map, and verify lists them."
    head = ("Region", "Reason")
    parts = [table(head, given_up[:_REGIONS_OPEN], is_words=True)] if given_up else []
    if rest := given_up[_REGIONS_OPEN:]:
        parts.append(f"<details><summary>{len(rest)} more</summary>{table(head, rest, is_words=True)}</details>")
    parts += [note(f"{more:,} more were given up; verify lists all of them.")] if more > 0 else []
    text = f"{missing:,} units are missing, since the run did not come to them. {striped}"
    parts += [paragraphs([text])] if missing else []
    return section("Regions that are not written", "They hold the fill value of the array.", *parts)


def _environment(report: Report | None) -> str:
    rows = [("Host", socket.gethostname()), ("System", platform.platform()), ("Python", platform.python_version())]
    rows += [(name, version(name)) for name in _LIBRARIES]
    read = ""
    if report is not None:
        plan = report.plan
        settings = [("Source", report.source.name)] if report.source is not None else []
        tiles = f"{_times(plan.tile_size)}, overlap {_times(plan.overlap)}, layout {plan.layout}"
        settings += [("Tiles", tiles), ("Chunks", _times(plan.chunks))]
        settings += [("Shards", _times(plan.shards))] if plan.shards else []
        rows = settings + rows
        names = [plan.axes[axis] for axis in plan.stored_order]
        at = ", ".join(":" if name in "YX" else "0" for name in names)
        plane = "".join(name for name in names if name in "YX")
        group = _array_name(report) if plan.is_collection else posixpath.dirname(_array_name(report))
        places = [posixpath.join(group, plan.stored_paths(level)[0]) for level in range(len(plan.arrays))]
        finest, coarsest = places[0], places[-1]
        lines = [
            "import zarr",
            f'prediction = zarr.open_array("{finest}", mode="r")',
            f"plane = prediction[{at}]  # a NumPy array {plane}",
        ]
        if coarsest != finest:
            lines.append(f'coarsest = zarr.open_array("{coarsest}", mode="r")')
        read = section("How to read it", "In Python:", f"<pre>{escape(chr(10).join(lines))}</pre>")
    return read + section(
        "Settings and machine", "Of the process that led the run.", table(("", ""), rows, is_words=True)
    )


def _array_name(report: Report) -> str:
    return str(public_name(report.array.store, report.array.path))


def _times(numbers: tuple[int, ...]) -> str:
    return " × ".join(f"{number:,}" for number in numbers)
