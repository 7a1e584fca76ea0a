"""A mistake costs one line of text and an exit status; only an error of the user's own model is shown in full."""

import re
import traceback
from typing import Any

import click

from tilewright.cli import STOPPED
from tilewright.errors import RunStoppedError, TilewrightError, UnitGivenUpError, is_raised_by_model

INCOMPLETE = 3
"""The exit status where all was done, and parts of the output are missing or wrong."""
INTERRUPTED = 130
"""What a shell expects of a program that Ctrl-C has ended."""


class _Incomplete(click.ClickException):
    """All was done, and parts of the output are missing or wrong."""

    exit_code = INCOMPLETE


class _Stopped(click.ClickException):
    """A run that was asked to stop did."""

    exit_code = STOPPED


class Commands(click.Group):
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
            if isinstance(error, TilewrightError) or not is_raised_by_model(error):
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


def _one_line(error: Exception) -> str:
    """Return what an error says, its remedies as options of the command line."""
    text = f"there is no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    text = "; ".join([text, *getattr(error, "__notes__", ())])
    text = re.sub(r"\b(layout|chunks|shards|compressors|if_exists)=[\"'](\w+)[\"']", r"--\1 \2", text)
    text = text.replace("--compressors", "--compressor").replace("--if_exists", "--if-exists")
    return " ".join(text.split())
