"""Picture of the demo: predictions as stored, with the tiles, write units and chunks of their plans."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from tilewright.runs.report import Report

INK, GREY = "#1b1f24", "#6a737d"
VALID, TILE, UNIT, CHUNK = "#4cc9f0", "#ffb703", "#ff4d8d", "#ffffff"
ARROW = "\N{RIGHTWARDS ARROW}"
CAPTION: dict[str, Any] = {"fontsize": 10, "color": GREY, "pad": 5}
LINES_ORDER = 3  # one for all lines: later ones cover earlier ones
UNIT_BORDER: dict[str, Any] = {"color": UNIT, "alpha": 0.85, "linewidth": 5.0}

# In inches: margins, panels and gaps fill the width.
WIDTH, MARGIN, GAP, PANEL = 12.5, 0.3, 0.15, 3.866
HEAD, ROW, FOOT = 0.68, 4.7, 0.44
DOTS_PER_INCH = 128


@dataclass(frozen=True)
class PictureRow:
    """One row of the picture, for one prediction: its last two axes are drawn, its quality is that of `DemoResult`."""

    title: str
    psnr_label: str
    report: Report
    psnr: tuple[float, float]
    noisy: npt.NDArray[Any]
    predicted: npt.NDArray[Any]


def draw_picture(path: Path, rows: Sequence[PictureRow]) -> None:
    """Write a PNG with one row per prediction: input, prediction, and the grids of tiles and stored objects."""
    height = HEAD + ROW * len(rows) + FOOT
    # Without pyplot there is no window and no global state.
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, facecolor="white")
    _write(figure, MARGIN, height - 0.36, "tilewright", fontsize=19, fontweight="bold")
    slogan = "tiles in any order, every stored object written once, whole"
    _write(figure, MARGIN + 1.62, height - 0.375, slogan, fontsize=12.5, color=GREY)
    for number, row in enumerate(rows):
        _draw_row(figure, row, top=height - HEAD - ROW * number)
    figure.legend(
        handles=[
            Line2D([], [], color=VALID, linewidth=1.4, label="valid region of a tile"),
            Patch(facecolor=to_rgba(TILE, 0.3), edgecolor=TILE, linewidth=1.6, label="one tile with its halo"),
            Line2D([], [], **UNIT_BORDER, label="write unit: one task writes it"),
            Line2D([], [], color=GREY, linewidth=1.2, linestyle=(0, (1, 1.6)), label="stored chunk"),
            Patch(facecolor="none", edgecolor=GREY, linewidth=1, label="detail shown on the left"),
        ],
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=5,
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        handlelength=1.7,
        columnspacing=2.4,
    )
    figure.savefig(path, format="png")
    # 256 colours look the same as all, in a third of the bytes.
    with Image.open(path) as image:
        few_colours = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few_colours.save(path, optimize=True)


def _draw_row(figure: Figure, row: PictureRow, top: float) -> None:
    """Draw a row whose upper edge lies `top` inches above the lower edge of the figure."""
    quality = f"{row.psnr_label}: {row.psnr[0]:.1f} {ARROW} {row.psnr[1]:.1f} dB"
    _write(figure, MARGIN, top - 0.22, row.title, fontsize=11.5, fontweight="bold")
    _write(figure, WIDTH - MARGIN, top - 0.22, quality, fontsize=10.5, horizontalalignment="right")

    report = row.report
    captions = (
        "input, noise added",
        "prediction",
        f"{_count(report.tile_count, 'tile')} {ARROW} {_count(report.unit_count, 'write unit')} "
        f"{ARROW} {_count(report.object_count, 'stored object')}, {report.total_seconds:.1f} s",
    )
    # One window and one contrast make input and prediction comparable.
    window = _detail(row.noisy.shape)
    low, high = np.percentile(row.predicted, (0.5, 99.8))
    images = (row.noisy[window], row.predicted[window], row.predicted)
    height = figure.get_figheight()
    for column, (caption, image) in enumerate(zip(captions, images, strict=True)):
        left, bottom = MARGIN + (PANEL + GAP) * column, top - ROW + 0.14
        axes = figure.add_axes((left / WIDTH, bottom / height, PANEL / WIDTH, PANEL / height))
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="antialiased")
        axes.set_axis_off()
        axes.set_title(caption, **CAPTION)
    # The last panel shows the whole prediction.
    _draw_grids(axes, row, window)


def _draw_grids(axes: Axes, row: PictureRow, window: tuple[slice, slice]) -> None:
    """Draw tiles, write units and chunks over the prediction."""
    plan = row.report.plan
    height, width = plan.shape[-2:]
    # Darken the image under the lines.
    _outline(axes, (0, height), (0, width), facecolor=to_rgba(INK, 0.45), edgecolor="none")

    # Broad: their edges stay visible under the border of a valid region.
    units = [_inner_starts(axis.span, axis.count) for axis in plan.arrays[0].units[-2:]]
    _draw_lines(axes, units, plan.shape, **UNIT_BORDER)
    _outline(axes, (0, height), (0, width), fill=False, **UNIT_BORDER)
    valid = [_inner_starts(axis.valid, axis.count) for axis in plan.tilings[-2:]]
    _draw_lines(axes, valid, plan.shape, color=VALID, linewidth=1.4)
    # Borders of units are borders of chunks too, and are drawn already.
    chunks = [
        sorted(set(range(chunk, extent, chunk)) - set(borders))
        for chunk, extent, borders in zip(plan.chunks[-2:], (height, width), units, strict=True)
    ]
    _draw_lines(axes, chunks, plan.shape, color=CHUNK, linewidth=0.9, linestyle=(0, (1, 2.4)))

    # A tile in the middle shows its whole halo.
    rows, columns = plan.tilings[-2:]
    y, x = (rows.count - 1) // 2, (columns.count - 1) // 2
    _outline(axes, rows.read(y), columns.read(x), facecolor=to_rgba(TILE, 0.4), edgecolor=TILE, linewidth=1.8)
    (top, bottom), (left, right) = rows.valid(y), columns.valid(x)
    low, high = axes.images[0].get_clim()
    axes.imshow(
        row.predicted[top:bottom, left:right],
        cmap="gray",
        vmin=low,
        vmax=high,
        extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5),
        zorder=LINES_ORDER,
    )
    _outline(axes, (top, bottom), (left, right), fill=False, edgecolor=VALID, linewidth=1.8)

    down, across = window
    if row.predicted[window].shape != row.predicted.shape:
        detail = ((down.start, down.stop), (across.start, across.stop))
        _outline(axes, *detail, fill=False, edgecolor="white", linewidth=1.3)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def _write(figure: Figure, left: float, bottom: float, text: str, **style: Any) -> None:
    """Write text at a position in inches from the lower left corner of the figure."""
    style = {"color": INK, "verticalalignment": "center"} | style
    figure.text(left / WIDTH, bottom / figure.get_figheight(), text, **style)


def _inner_starts(region: Callable[[int], tuple[int, int]], count: int) -> list[int]:
    """Return the starts of the regions of one axis, without the first."""
    return [region(index)[0] for index in range(1, count)]


def _draw_lines(axes: Axes, borders: Sequence[Sequence[int]], shape: Sequence[int], **style: Any) -> None:
    """Draw the borders along Y and along X as lines across the whole image."""
    style["zorder"] = LINES_ORDER
    # Pixel 0 reaches from -0.5 to 0.5.
    axes.hlines([border - 0.5 for border in borders[0]], -0.5, shape[-1] - 0.5, **style)
    axes.vlines([border - 0.5 for border in borders[1]], -0.5, shape[-2] - 0.5, **style)


def _outline(axes: Axes, rows: tuple[int, int], columns: tuple[int, int], **style: Any) -> None:
    """Draw a rectangle around rows and columns, both half-open."""
    corner = (columns[0] - 0.5, rows[0] - 0.5)
    axes.add_patch(Rectangle(corner, columns[1] - columns[0], rows[1] - rows[0], zorder=LINES_ORDER, **style))


def _detail(shape: Sequence[int], largest: int = 512, detail: int = 432) -> tuple[slice, slice]:
    """Return the window of a small image as a whole, of a large one a part that shows its noise."""
    if max(shape) <= largest:
        return slice(0, shape[0]), slice(0, shape[1])
    # Away from the borders of image, tiles and chunks, which would hide its outline.
    down, across = (int(0.9 * max(0, extent - detail)) for extent in shape)
    return slice(down, min(down + detail, shape[0])), slice(across, min(across + detail, shape[1]))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
