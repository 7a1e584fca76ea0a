"""Commands: each checks its arguments first, and then imports what it needs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tilewright import __version__
from tilewright.cli.as_json import PlanResult, Printer, json_option
from tilewright.cli.connecting import connected
from tilewright.cli.failures import COMMAND_LINE, INCOMPLETE, Commands
from tilewright.cli.model_reference import ModelReference
from tilewright.cli.options import (
    PATH,
    cluster_options,
    model_options,
    numbers_option,
    plan_options,
    prediction_options,
    report_option,
    run_options,
    series_option,
    world_options,
)
from tilewright.errors import RunStoppedError, UnitGivenUpError
from tilewright.signals import of_command
from tilewright.stopping import StopRequest

_STOPPABLE = ("predict", "repair")
"""Commands that finish the work in flight after a signal."""
DATA_TYPES = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
DATA_TYPES += ("float16", "float32", "float64")
PLAN_EXAMPLE = "tilewright plan --shape 1000,2048,2048 --axes ZYX --tile-size 64,256,256 --overlap 16,64,64"
PREDICT_EXAMPLE = (
    "tilewright predict raw.zarr prediction.zarr --model networks.py:denoiser \\",
    "    --axes ZYX --tile-size 64,256,256 --overlap 16,64,64",
)
VERIFY_EXAMPLE = "tilewright verify prediction.zarr"
REPAIR_EXAMPLE = "tilewright repair prediction.zarr --model networks.py:denoiser"
COMPLETION = (
    "\b\nA shell completes names and files with one line in its startup file:",
    'bash  eval "$(_TILEWRIGHT_COMPLETE=bash_source tilewright)"',
    'zsh   eval "$(_TILEWRIGHT_COMPLETE=zsh_source tilewright)"',
    "fish  _TILEWRIGHT_COMPLETE=fish_source tilewright | source",
)
COMPRESSORS = ("auto", "none", "zstd", "blosc", "gzip")
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


def _example(*lines: str) -> str:
    # Click does not wrap lines after a backspace.
    return "\n  ".join(["\b\nExample:", *lines])


@click.group(cls=Commands, context_settings=_SETTINGS, epilog="\n  ".join(COMPLETION))
@click.version_option(__version__, prog_name="tilewright")
@click.pass_context
def commands(context: click.Context) -> None:
    """Tiled deep-learning predictions of huge image volumes into Zarr, on Dask."""
    if context.invoked_subcommand not in _STOPPABLE:
        of_command.end_as_usual()


@commands.command("demo", short_help="Train, predict and draw: the first run.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("tilewright-demo"),
    help="Folder of the outputs and the picture.",
)
@click.option("--seed", default=0, help="Seed of noise, volume and training.")
def demo_command(directory: Path, seed: int) -> None:
    """Train a small denoiser, predict an image and a volume with it, and draw both.

    It takes some minutes at most, and needs: pip install "tilewright[demo]"
    """
    try:
        from tilewright.demo import run_demo  # noqa: PLC0415
    except ImportError as error:
        missing = getattr(error.__cause__ or error, "name", None) or ""
        if missing.split(".")[0] not in {"matplotlib", "skimage"}:
            raise
        raise click.ClickException(
            'the demo needs scikit-image and matplotlib; install them by: pip install "tilewright[demo]"'
        ) from error
    result = run_demo(directory, seed=seed, echo=click.echo)
    click.echo(f"The picture is {result.picture.absolute()}")


@commands.command("plan", short_help="Print the plan, and create nothing.", epilog=_example(PLAN_EXAMPLE))
@click.argument("source", type=PATH, required=False)
@numbers_option("--shape", help="Extents of the source in its order, instead of SOURCE.")
@plan_options
@click.option(
    "--dtype", type=click.Choice(DATA_TYPES), metavar="NAME", default="float32", help="Data type of the output."
)
@click.option("--channels", type=click.IntRange(min=1), help="Channels of the output; else those of the source.")
@series_option
@json_option
def plan_command(
    source: str | None, shape: tuple[int, ...] | None, axes: str | None, series: int, is_json: bool, **options: Any
) -> None:
    """Print how SOURCE would be predicted and stored, and create nothing.

    SOURCE is a Zarr array, a Zarr group whose metadata name an image, or with an array 0, a TIFF file, or a dataset
    of HDF5 (raw.h5:/path/of/dataset) or N5 (raw.n5/path/of/dataset).
    """
    from tilewright.planning import plan_write  # noqa: PLC0415

    if (source is None) == (shape is None):
        raise click.UsageError("give either a SOURCE or its --shape")
    printer = Printer(is_json)
    with printer.alone():
        plan = plan_write(source or shape, axes, series=series, **options)
    printer.result(PlanResult(plan))


@commands.command("predict", short_help="Predict a volume into Zarr.", epilog=_example(*PREDICT_EXAMPLE))
@click.argument("source", type=PATH)
@click.argument("destination", type=PATH)
@prediction_options
@click.option(
    "--compressor", "compressors", type=click.Choice(COMPRESSORS), default="auto", help="Compressor of chunks."
)
@click.option(
    "--dtype", type=click.Choice(DATA_TYPES), metavar="NAME", help="Data type of the output; else that of the model."
)
@click.option(
    "--value-range",
    type=float,
    nargs=2,
    metavar="LOWER UPPER",
    help="Values of the model that become the ends of an integer --dtype.",
)
@model_options
@series_option
@world_options
@click.option("--zarr-format", type=click.Choice(["3", "2"]), default="3")
@click.option(
    "--if-exists",
    type=click.Choice(["fail", "overwrite", "overwrite-foreign", "resume"]),
    default="fail",
    help="What to do where DESTINATION exists: overwrite an output of tilewright, or any Zarr; begin or complete it.",
)
@report_option
@run_options
@json_option
def predict_command(
    source: str,
    destination: str,
    model: ModelReference,
    compressors: str,
    device: str,
    zarr_format: str,
    scheduler: str | None,
    is_json: bool,
    **options: Any,
) -> None:
    """Predict SOURCE tile by tile, and write the prediction to the Zarr group DESTINATION.

    SOURCE is a Zarr array, a Zarr group whose metadata name an image, or with an array 0, a TIFF file, or a dataset
    of HDF5 (raw.h5:/path/of/dataset) or N5 (raw.n5/path/of/dataset). The prediction is array 0 of DESTINATION.
    MODEL names a model, or a function without arguments that returns one; each worker imports it, and must see
    the same files.

    The exit status is 3 if parts were given up, 75 if SIGTERM or Ctrl-C stopped the run; both may be resumed.
    """
    if not model.is_checkpoint and None in (options["tile_size"], options["overlap"]):
        raise click.UsageError("give --tile-size and --overlap; only a checkpoint of CAREamics has tiles of its own")
    printer = Printer(is_json)
    with connected(scheduler, StopRequest(signals=of_command)) as client, _reported(destination, printer):
        from tilewright.prediction import predict_to_zarr  # noqa: PLC0415
        from tilewright.provenance.call import by_command  # noqa: PLC0415

        _check_device(device, is_here=client is None)
        with by_command(click.get_current_context().meta[COMMAND_LINE], model.file):
            report = predict_to_zarr(
                model,
                source,
                destination,
                compressors=_compressors(compressors, int(zarr_format)),
                device=device,
                zarr_format=int(zarr_format),
                client=client,
                on_plan=printer.plan,
                **options,
            )
    printer.result(report)


@commands.command("verify", short_help="Prove that an output is complete.", epilog=_example(VERIFY_EXAMPLE))
@click.argument("destination", type=PATH)
@cluster_options
@json_option
def verify_command(destination: str, scheduler: str | None, is_json: bool, **options: Any) -> None:
    """Compare every stored object of DESTINATION with the ledger of the runs that wrote it.

    The exit status is 3 if a unit is missing, short, damaged or given up.
    """
    printer = Printer(is_json)
    with connected(scheduler, StopRequest(signals=of_command)) as client, printer.alone():
        from tilewright.verification import verify  # noqa: PLC0415

        verification = verify(destination, client=client, **options)
    printer.result(verification)
    if not verification.is_complete:
        sys.exit(INCOMPLETE)


@commands.command("repair", short_help="Write missing and damaged parts again.", epilog=_example(REPAIR_EXAMPLE))
@click.argument("destination", type=PATH)
@click.option("--source", type=PATH, help="The source, if it was moved.")
@model_options
@report_option
@run_options
@json_option
def repair_command(
    destination: str, model: ModelReference, device: str, scheduler: str | None, is_json: bool, **options: Any
) -> None:
    """Predict and write again the units that are missing, short, damaged or given up in DESTINATION.

    The ledger has all arguments but the model. The exit status is that of predict.
    """
    printer = Printer(is_json)
    with connected(scheduler, StopRequest(signals=of_command)) as client, _reported(destination, printer):
        from tilewright.prediction import repair  # noqa: PLC0415

        _check_device(device, is_here=client is None)
        report = repair(destination, model, client=client, device=device, **options)
    printer.result(report)


@contextmanager
def _reported(destination: str, printer: Printer) -> Iterator[None]:
    """Print what a run that did not finish has done, and how to go on."""
    try:
        with printer.alone():
            yield
    except (UnitGivenUpError, RunStoppedError) as error:
        # A person sees in the error how far a stopped run has come.
        if error.report is not None and (printer.is_json or isinstance(error, UnitGivenUpError)):
            printer.result(error.report)
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"If {destination} was begun, it is incomplete: go on with --if-exists resume."
        ) from None


def _check_device(device: str, *, is_here: bool) -> None:
    """Refuse a device that torch does not know, or that this machine lacks; a cluster may have other devices."""
    if device == "auto":
        return
    import torch  # noqa: PLC0415

    try:
        named = torch.device(device)
        if is_here:
            torch.empty(0, device=named)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise click.BadParameter(f"{device!r} cannot be used: {reason}", param_hint="'--device'") from error


def _compressors(name: str, zarr_format: int) -> Any:
    """Return a compressor as `zarr.create_array` takes it."""
    if name in ("auto", "none"):
        return None if name == "none" else name
    if zarr_format == 2:
        import numcodecs  # noqa: PLC0415

        return {"zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc, "gzip": numcodecs.GZip}[name]()
    from zarr import codecs  # noqa: PLC0415

    return {"zstd": codecs.ZstdCodec, "blosc": codecs.BloscCodec, "gzip": codecs.GzipCodec}[name]()
