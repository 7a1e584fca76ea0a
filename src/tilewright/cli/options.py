"""Options that several commands share, checked before any heavy import."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import click

from tilewright.cli.model_reference import ModelReference

PATH = click.Path(readable=False)
"""A path that is checked later; a shell completes the names of files."""


def numbers_option(name: str, *words: str, **options: Any) -> Callable[[Any], Any]:
    """Return an option of whole numbers separated by commas, or of one of the words; ``none`` becomes None."""

    def read(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, ...] | str | None:
        if text is None or text in words:
            return None if text == "none" else text
        try:
            return tuple(int(number) for number in text.split(","))
        except ValueError:
            others = "".join(f", or {word}" for word in words)
            raise click.BadParameter(f"{text!r} is not whole numbers such as 64,256,256{others}") from None

    return click.option(name, metavar="|".join([*words, "N,N,..."]), callback=read, **options)


def _read_nbytes(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    if text is None or text.isdecimal():
        return int(text) if text else None
    from dask.utils import parse_bytes  # noqa: PLC0415

    try:
        return int(parse_bytes(text))
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no size such as 8GiB, 500MB or 1e9") from None


def _read_levels(_ctx: click.Context, _param: click.Parameter, text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is no number of levels; give 'auto', or 1 for full resolution alone")
    return int(text)


def _read_by_axis(_ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    """Return values in the order (Z)YX, or by axis letter as in ``T=5,X=0.5``; numbers for the scale."""
    if text is None:
        return None
    read: Callable[[str], Any] = float if param.name == "scale" else str.strip
    try:
        if "=" in text:
            pairs = [part.split("=") for part in text.split(",")]
            return {axis.strip(): read(value) for axis, value in pairs}
        return [read(value) for value in text.split(",")] if param.name == "scale" else text
    except ValueError:
        example = "2,0.5,0.5 or Z=2,Y=0.5,X=0.5" if param.name == "scale" else "micrometer or T=s,Y=um,X=um"
        raise click.BadParameter(f"{text!r} is not like {example}") from None


def _read_model(_ctx: click.Context, _param: click.Parameter, text: str) -> ModelReference:
    try:
        return ModelReference.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _with_options(*options: Any) -> Callable[[Any], Any]:
    """Return a decorator that adds options to a command, in this order."""
    return lambda command: reduce(lambda given, option: option(given), reversed(options), command)


series_option = click.option(
    "--series",
    type=click.IntRange(min=0),
    default=0,
    show_default=False,
    help="Which image of a file that holds several; else the first.",
)


def _tile_options(*, is_required: bool) -> Callable[[Any], Any]:
    """Return the options of tiles, which a checkpoint of CAREamics has too."""
    return _with_options(
        numbers_option("--tile-size", required=is_required, help="Elements of a tile along (Z,)Y,X."),
        numbers_option("--overlap", required=is_required, help="Elements that neighbouring tiles share."),
        click.option(
            "--padding",
            type=click.Choice(["reflect", "zeros"]),
            default="reflect" if is_required else None,
            help="What a tile has beyond an axis that is shorter than it: the image reflected, or zeros behind it.",
        ),
    )


_plan_options = _with_options(
    click.option("--axes", help="Axes of the source in its order, letters of STCZYX: ZYX; else those in its metadata."),
    click.option(
        "--layout",
        type=click.Choice(["auto", "compact", "aligned"]),
        default="auto",
        help="Fewest tiles (compact), or no tile shared by write units (aligned).",
    ),
    numbers_option(
        "--chunks", "auto", default="auto", help="Elements of a chunk, per axis of the output or per spatial axis."
    ),
    numbers_option(
        "--shards", "none", "auto", default="none", help="Elements of a shard, multiples of those of a chunk."
    ),
    click.option(
        "--levels",
        default="auto",
        callback=_read_levels,
        metavar="auto|N",
        help="Levels of the pyramid; 1 is full resolution alone.",
    ),
    click.option(
        "--output-axes",
        type=click.Choice(["STCZYX", "source"]),
        default="STCZYX",
        help="Order of the axes of the output; that of the source is no image of OME-Zarr, unless both are the same.",
    ),
    click.option("--labels", is_flag=True, show_default=False, help="Elements are labels, not intensities."),
    click.option(
        "--memory",
        "memory_nbytes",
        metavar="SIZE",
        callback=_read_nbytes,
        help="Memory of predicted tiles: 8GiB, 500MB, 1e9.",
    ),
)
plan_options = _with_options(_tile_options(is_required=True), _plan_options)
prediction_options = _with_options(_tile_options(is_required=False), _plan_options)
world_options = _with_options(
    click.option(
        "--scale",
        metavar="N,N,...",
        callback=_read_by_axis,
        help="Distance of elements along (Z,)Y,X, or Z=N,...; else that of the source.",
    ),
    click.option(
        "--units",
        metavar="NAME",
        callback=_read_by_axis,
        help="Unit of the scale, um, or Z=um,...; else that of the source.",
    ),
    click.option(
        "--channel-name",
        "channel_names",
        multiple=True,
        callback=lambda _ctx, _param, names: names or None,
        help="Name of a channel of the output, once for each; else those of the source.",
    ),
)
report_option = click.option(
    "--report", type=PATH, metavar="FILE", help="An HTML file for the report, written however the run ends."
)
cluster_options = _with_options(
    click.option(
        "--scheduler",
        metavar="ADDRESS|FILE",
        help="A Dask cluster, tcp://host:port or its scheduler file; else one in this process.",
    ),
    click.option("--ledger", type=PATH, metavar="FOLDER", help="The ledger, if not beside DESTINATION."),
    click.option(
        "--progress/--no-progress",
        default=True,
        show_default=False,
        help="Show progress on standard error: a bar in a terminal, else a line a minute.",
    ),
)
run_options = _with_options(
    cluster_options,
    click.option(
        "--grace",
        "grace_seconds",
        type=click.FloatRange(min=0),
        default=20.0,
        help="Seconds for the work in flight after SIGTERM or Ctrl-C.",
    ),
)
model_options = _with_options(
    click.option(
        "--model",
        type=PATH,
        callback=_read_model,
        metavar="MODEL",
        required=True,
        help="package.module:name, path/to/file.py:name, a TorchScript file model.pt, or careamics:checkpoint.ckpt.",
    ),
    click.option("--batch-size", type=click.IntRange(min=1), default=1, help="Tiles per call."),
    click.option("--device", default="auto", help="A torch device; auto is a GPU where there is one."),
)
