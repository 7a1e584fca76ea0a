"""Nothing is imported, created or predicted before the command line makes sense, and a mistake costs one line of text.

Only an error of the user's own model is shown with its traceback. What is heavy is imported by the command that needs
it.
"""

import importlib
import importlib.util
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import isclass, signature
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from tilewright import __version__
from tilewright.errors import RunStoppedError, TilewrightError, UnitGivenUpError

if TYPE_CHECKING:
    from distributed import Client

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any] | click.Command)

TORCH_SCRIPT_SUFFIXES = (".pt", ".pth", ".ts")
DATA_TYPES = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
DATA_TYPES += ("float16", "float32", "float64")
COMPRESSORS = ("auto", "none", "zstd", "blosc", "gzip")
# Click breaks no lines behind a backspace.
PLAN_EXAMPLE = """\b
Example:
  tilewright plan --shape 1000,2048,2048 --axes ZYX --tile-size 64,256,256 --overlap 16,64,64
"""
PREDICT_EXAMPLE = """\b
Example:
  tilewright predict raw.zarr prediction.zarr --model networks.py:denoiser \\
      --axes ZYX --tile-size 64,256,256 --overlap 16,64,64
"""
VERIFY_EXAMPLE = """\b
Example:
  tilewright verify prediction.zarr
"""
REPAIR_EXAMPLE = """\b
Example:
  tilewright repair prediction.zarr --model networks.py:denoiser
"""
INCOMPLETE = 3
"""The exit status where all was done, and parts of the output are missing or wrong."""
STOPPED = 75
"""The exit status of a run that was asked to stop, and did: a temporary failure in the words of sysexits.h."""
INTERRUPTED = 130
"""What a shell expects of a program that Ctrl-C has ended."""


class ModelReferenceError(TilewrightError, ImportError):
    """A model that is not where the command line says."""


@dataclass(frozen=True)
class ModelReference:
    """Where a model is found: a factory that any process which sees the same files can call.

    Parameters
    ----------
    module : str
        The name of a module, or the absolute path of a Python or TorchScript file.
    name : str
        The name of the model in the module; empty for TorchScript.
    folder : str
        An absolute path from where the model may import, as from the folder of a script.

    Examples
    --------
    >>> ModelReference.parse("numpy:negative")()([1, 2]).tolist()
    [-1, -2]
    """

    module: str
    name: str
    folder: str

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Return the reference that a text stands for, after a look whether its file is there.

        Raises
        ------
        ValueError
            If it is none, or there is no such file.
        """
        module, _, name = text.rpartition(":")
        if text.endswith(TORCH_SCRIPT_SUFFIXES):
            module, name = text, ""
        elif not (module and name):
            raise ValueError(
                f"{text!r} is neither package.module:name, nor path/to/file.py:name, nor a TorchScript file model.pt"
            )
        if not module.endswith((*TORCH_SCRIPT_SUFFIXES, ".py")):
            return cls(module, name, str(Path.cwd()))
        path = Path(module).absolute()
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        return cls(str(path), name, str(path.parent))

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" if self.name else self.module

    def __call__(self) -> Any:
        """Return the model; where the name is that of a factory, call it.

        Raises
        ------
        ModelReferenceError
            If there is no such module, file or name.
        """
        from tilewright.execution.predictor import is_factory  # noqa: PLC0415

        if self.module.endswith(TORCH_SCRIPT_SUFFIXES):
            return _load_torch_script(self.module)
        if self.folder not in sys.path:
            sys.path.insert(0, self.folder)
        module = _run_file(Path(self.module)) if self.module.endswith(".py") else self._import_module()
        try:
            model = attrgetter(self.name)(module)
        except AttributeError:
            names = [name for name in vars(module) if not name.startswith("_")]
            meant = " or ".join(get_close_matches(self.name, names)) or "another name"
            raise ModelReferenceError(f"{self.module} has no {self.name!r}; did you mean {meant}?") from None
        if isclass(model) and not _can_be_made(model):
            raise ModelReferenceError(
                f"the class {self} cannot be made without arguments; write a function that makes the model, and name it"
            )
        made = model() if isclass(model) or is_factory(model) else model
        if not callable(made) and not hasattr(made, "predict_step"):
            raise ModelReferenceError(f"{self} is {type(made).__name__}, which is no model: {made!r:.80}")
        return made

    def _import_module(self) -> ModuleType:
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                # The module is there, and imports something that is not.
                raise
            raise ModelReferenceError(
                f"there is no module {self.module!r}: {error.name!r} is neither installed nor in {self.folder}"
            ) from None


def _can_be_made(model: type) -> bool:
    """Tell whether a class needs no arguments."""
    try:
        signature(model).bind()
    except TypeError:
        return False
    except ValueError:
        # A class that is not written in Python keeps what it needs for itself.
        return True
    return True


def _run_file(path: Path) -> ModuleType:
    """Import a file anew, since a worker may have seen it before it was changed."""
    if not path.is_file():
        raise ModelReferenceError(f"there is no file {path} on this worker; put it where all workers see it")
    name = f"tilewright_model_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelReferenceError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # Classes of the file look for their module there, those that are pickled for example.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _load_torch_script(path: str) -> Any:
    import torch  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            # Newer torch prefers torch.export; whoever has a TorchScript file knows that.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise ModelReferenceError(
            f"{path} cannot be loaded as TorchScript ({reason}); weights alone need a function that builds the model: "
            "path/to/file.py:name"
        ) from error


class _WholeNumbers:
    """Read whole numbers with commas between them, or one of some words, for which `words` has the values."""

    def __init__(self, **words: str | None) -> None:
        self.words = words

    def __call__(self, _ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, ...] | str | None:
        if text is None or text in self.words:
            return self.words[text] if text else None
        try:
            return tuple(int(number) for number in text.split(","))
        except ValueError:
            words = "".join(f", or {word}" for word in self.words)
            raise click.BadParameter(f"{text!r} is not whole numbers such as 64,256,256{words}") from None


def _read_nbytes(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    if text is None or text.isdecimal():
        return int(text) if text else None
    from dask.utils import parse_bytes  # noqa: PLC0415

    try:
        return int(parse_bytes(text))
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no size such as 8GiB, 500MB or 1e9") from None


def _read_model(_ctx: click.Context, _param: click.Parameter, text: str) -> ModelReference:
    try:
        return ModelReference.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class _Incomplete(click.ClickException):
    """All was done, and parts of the output are missing or wrong."""

    exit_code = INCOMPLETE


class _Stopped(click.ClickException):
    """A run that was asked to stop did."""

    exit_code = STOPPED


class _Commands(click.Group):
    """Commands whose mistakes cost one line, and whose models fail in full."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt as interrupt:
            click.echo(f"\nInterrupted. {interrupt}".rstrip(), err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if isinstance(error, TilewrightError) or not _passed_through_model(error):
                if not isinstance(error, TilewrightError | OSError | ValueError | KeyError):
                    raise
                failures: dict[type[Exception], type[click.ClickException]] = {
                    RunStoppedError: _Stopped,
                    UnitGivenUpError: _Incomplete,
                }
                raise failures.get(type(error), click.ClickException)(_one_line(error)) from error
            # Not left to Python: click would take an EOFError for an end of its own input.
            traceback.print_exception(error)
            raise click.ClickException(f"the model raised {type(error).__name__}, see above") from error


def _passed_through_model(error: BaseException) -> bool:
    """Tell whether an error comes from the user's model: it passed through the one module that calls models."""
    # On a worker, tilewright may be installed somewhere else.
    frames = (Path(frame.f_code.co_filename).parts[-3:] for frame, _ in traceback.walk_tb(error.__traceback__))
    return ("tilewright", "execution", "predictor.py") in frames


def _one_line(error: Exception) -> str:
    """Return what an error says, its remedies as options of the command line."""
    text = f"there is no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    text = "; ".join([text, *getattr(error, "__notes__", ())])
    text = re.sub(r"\b(layout|chunks|shards|compressors|if_exists)=[\"'](\w+)[\"']", r"--\1 \2", text)
    text = text.replace("--compressors", "--compressor").replace("--if_exists", "--if-exists")
    return " ".join(text.split())


class _Options(Protocol):
    """Options that several commands have."""

    def __call__(self, command: AnyCommand) -> AnyCommand:
        """Give a command these options, in their order."""


def _with_options(*options: Any) -> _Options:
    def give(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return give


_plan_options = _with_options(
    click.option("--axes", required=True, help="Axes of the source in its order, letters of STCZYX: ZYX."),
    click.option(
        "--tile-size",
        required=True,
        metavar="N,N,...",
        callback=_WholeNumbers(),
        help="Elements of a tile along (Z,)Y,X.",
    ),
    click.option(
        "--overlap",
        required=True,
        metavar="N,N,...",
        callback=_WholeNumbers(),
        help="What neighbouring tiles share.",
    ),
    click.option(
        "--layout",
        type=click.Choice(["auto", "compact", "aligned"]),
        default="auto",
        show_default=True,
        help="Fewest tiles (compact), or no tile shared by write units (aligned).",
    ),
    click.option(
        "--chunks",
        metavar="auto|N,N,...",
        callback=_WholeNumbers(auto="auto"),
        default="auto",
        show_default=True,
        help="Elements of a chunk, per axis of the output or per spatial axis.",
    ),
    click.option(
        "--shards",
        metavar="none|auto|N,N,...",
        callback=_WholeNumbers(none=None, auto="auto"),
        default="none",
        show_default=True,
        help="Elements of a shard, multiples of those of a chunk.",
    ),
    click.option(
        "--memory",
        "memory_nbytes",
        metavar="SIZE",
        callback=_read_nbytes,
        help="What predicted tiles may take: 8GiB, 500MB, 1e9.",
    ),
)
_cluster_options = _with_options(
    click.option(
        "--scheduler",
        metavar="ADDRESS|FILE",
        help="A Dask cluster, tcp://host:port or its scheduler file; else one in this process.",
    ),
    click.option("--ledger", metavar="FOLDER", help="The ledger, where it is not beside DESTINATION."),
    click.option("--progress/--no-progress", default=None, help="Show progress; else in a terminal only."),
)
_run_options = _with_options(
    _cluster_options,
    click.option(
        "--grace",
        "grace_seconds",
        type=click.FloatRange(min=0),
        default=20.0,
        show_default=True,
        help="Seconds in which what is in flight may finish after SIGTERM or Ctrl-C.",
    ),
)
_model_options = _with_options(
    click.option(
        "--model",
        callback=_read_model,
        metavar="MODEL",
        required=True,
        help="package.module:name, path/to/file.py:name, or a TorchScript file model.pt.",
    ),
    click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Tiles per call."),
    click.option(
        "--device", default="auto", show_default=True, help="A torch device; auto is a GPU where there is one."
    ),
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tilewright")
def main() -> None:
    """Tiled deep-learning predictions of huge image volumes into Zarr, on Dask."""


@main.command("demo", short_help="Train, predict and draw: the first run.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("tilewright-demo"),
    show_default=True,
    help="Where the outputs and the picture go.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of noise, volume and training.")
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


@main.command("plan", short_help="Print the plan, and create nothing.", epilog=PLAN_EXAMPLE)
@click.argument("source", required=False)
@click.option(
    "--shape",
    metavar="N,N,...",
    callback=_WholeNumbers(),
    help="Extents of the source in its order, instead of SOURCE.",
)
@_plan_options
@click.option(
    "--dtype",
    type=click.Choice(DATA_TYPES),
    metavar="NAME",
    default="float32",
    show_default=True,
    help="Data type of the output.",
)
@click.option("--channels", type=click.IntRange(min=1), help="Channels of the output; else those of the source.")
def plan_command(source: str | None, shape: tuple[int, ...] | None, axes: str, **options: Any) -> None:
    """Print how SOURCE would be predicted and stored, and create nothing.

    SOURCE is a Zarr array, a Zarr group with an array 0, or a TIFF file.
    """
    from tilewright.plan import plan_write  # noqa: PLC0415

    if (source is None) == (shape is None):
        raise click.UsageError("give either a SOURCE or its --shape")
    if source is not None:
        from tilewright.storage.source import open_source  # noqa: PLC0415

        shape = open_source(source, axes).axes.shape
    click.echo(str(plan_write(shape or (), axes, **options)))


@main.command("predict", short_help="Predict a volume into Zarr.", epilog=PREDICT_EXAMPLE)
@click.argument("source")
@click.argument("destination")
@_plan_options
@click.option(
    "--compressor", type=click.Choice(COMPRESSORS), default="auto", show_default=True, help="What chunks go through."
)
@click.option(
    "--dtype", type=click.Choice(DATA_TYPES), metavar="NAME", help="Data type of the output; else that of the model."
)
@_model_options
@click.option("--zarr-format", type=click.Choice(["3", "2"]), default="3", show_default=True)
@click.option(
    "--if-exists",
    type=click.Choice(["fail", "overwrite", "resume"]),
    default="fail",
    show_default=True,
    help="What to do where DESTINATION exists; resume begins it, or completes it.",
)
@_run_options
def predict_command(
    source: str,
    destination: str,
    model: ModelReference,
    compressor: str,
    device: str,
    zarr_format: str,
    scheduler: str | None,
    progress: bool | None,
    **options: Any,
) -> None:
    """Predict SOURCE tile by tile, and write the prediction to the Zarr group DESTINATION.

    SOURCE is a Zarr array, a Zarr group with an array 0, or a TIFF file. The prediction is array 0 of DESTINATION.
    The name in MODEL is that of a model, or of a function without arguments that makes one; it is looked for on
    the workers, which must see the same files.

    The exit status is 3 if parts were given up, 75 if SIGTERM or Ctrl-C stopped the run; both may be resumed.
    """
    with _cluster(scheduler) as client, _reported(destination):
        from tilewright.prediction import predict_to_zarr  # noqa: PLC0415

        _check_device(device, is_here=client is None)
        report = predict_to_zarr(
            model,
            source,
            destination,
            compressors=_compressors(compressor, int(zarr_format)),
            device=device,
            zarr_format=int(zarr_format),
            client=client,
            on_plan=click.echo,
            progress=_shows_progress(progress),
            **options,
        )
        click.echo(str(report))


@main.command("verify", short_help="Prove that an output is complete.", epilog=VERIFY_EXAMPLE)
@click.argument("destination")
@_cluster_options
def verify_command(destination: str, scheduler: str | None, progress: bool | None, **options: Any) -> None:
    """Compare every stored object of DESTINATION with the ledger of the runs that wrote it.

    The exit status is 3 if a unit is missing, short, damaged or given up.
    """
    with _cluster(scheduler) as client:
        from tilewright.verification import verify  # noqa: PLC0415

        verification = verify(destination, client=client, progress=_shows_progress(progress), **options)
    click.echo(str(verification))
    if not verification.is_complete:
        sys.exit(INCOMPLETE)


@main.command("repair", short_help="Write what is missing or damaged again.", epilog=REPAIR_EXAMPLE)
@click.argument("destination")
@click.option("--source", help="The source, where it is not at its place any more.")
@_model_options
@_run_options
def repair_command(
    destination: str, model: ModelReference, device: str, scheduler: str | None, progress: bool | None, **options: Any
) -> None:
    """Predict and write again what is missing, short, damaged or given up in DESTINATION.

    All but the model is known from the ledger. The exit status is that of predict.
    """
    with _cluster(scheduler) as client, _reported(destination):
        from tilewright.prediction import repair  # noqa: PLC0415

        _check_device(device, is_here=client is None)
        report = repair(destination, model, client=client, device=device, progress=_shows_progress(progress), **options)
        click.echo(str(report))


@contextmanager
def _reported(destination: str) -> Iterator[None]:
    """Say of a run that did not get to its end how to go on."""
    try:
        yield
    except UnitGivenUpError as error:
        click.echo(str(error.report))
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"If {destination} was begun, it is incomplete: go on with --if-exists resume."
        ) from None


def _shows_progress(progress: bool | None) -> bool:
    return sys.stderr.isatty() if progress is None else progress


@contextmanager
def _cluster(scheduler: str | None) -> "Iterator[Client | None]":
    """Connect to the cluster at an address or of a scheduler file."""
    if scheduler is None:
        yield None
        return
    is_address = re.search(r"://|:\d+$", scheduler) is not None
    if not is_address and not Path(scheduler).is_file():
        # Dask would wait for the file.
        raise click.BadParameter(
            f"{scheduler!r} is neither an address such as tcp://host:8786, nor a file that exists",
            param_hint="'--scheduler'",
        )
    from distributed import Client  # noqa: PLC0415

    where = {"address": scheduler} if is_address else {"scheduler_file": scheduler}
    with Client(**where, set_as_default=False) as client:
        if not client.nthreads():
            click.echo(f"The cluster {scheduler} has no workers yet; waiting for one.", err=True)
        yield client


def _check_device(device: str, *, is_here: bool) -> None:
    """Refuse what is no torch device, or not there; what a cluster has is known by its workers only."""
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
    """Return what `zarr.create_array` takes for a compressor."""
    if name in ("auto", "none"):
        return None if name == "none" else name
    if zarr_format == 2:
        import numcodecs  # noqa: PLC0415

        return {"zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc, "gzip": numcodecs.GZip}[name]()
    from zarr import codecs  # noqa: PLC0415

    return {"zstd": codecs.ZstdCodec, "blosc": codecs.BloscCodec, "gzip": codecs.GzipCodec}[name]()


if __name__ == "__main__":
    # Under its own name, by which workers find the class of the model.
    importlib.import_module("tilewright.cli").main()
