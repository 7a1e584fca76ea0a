"""Errors on the command line: one line and an exit status, with a traceback for an error of the model only."""

import re
import traceback
from typing import Any

import click

from tilewright.cli import STOPPED
from tilewright.errors import RunStoppedError, TilewrightError, UnitGivenUpError, is_raised_by_model

INCOMPLETE = 3
"""Exit status of a command that found or left parts of the output missing or wrong."""
INTERRUPTED = 130
"""Exit status of a program that Ctrl-C has ended, as shells expect it."""
COMMAND_LINE = "tilewright.command_line"
"""Key of the command line in the `meta` of a context of click."""
_STATUS: dict[type[Exception], int] = {RunStoppedError: STOPPED, UnitGivenUpError: INCOMPLETE}
"""Exit status per error; 1 for all others."""


class Commands(click.Group):
    """Group of commands that turns errors into one line of text."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the command line, which the outputs tell of, and parse it."""
        ctx.meta[COMMAND_LINE] = ("tilewright", *args)
        return super().parse_args(ctx, args)

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
                click.echo(f"Error: {self._one_line(error)}", err=True)
                ctx.exit(_STATUS.get(type(error), 1))
            # Printed here: click would take an EOFError for the end of its own input.
            traceback.print_exception(error)
            raise click.ClickException(f"the model raised {type(error).__name__}, see above") from error

    def _one_line(self, error: Exception) -> str:
        """Return the message of an error, with ``keyword='value'`` as an option of the command line.

        The keywords of Python are the parameters of the commands, so that click knows the option of each:
        ``if_exists='resume'`` becomes ``--if-exists resume``.
        """
        text = f"there is no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        text = "; ".join([text, *getattr(error, "__notes__", ())])
        parameters = (parameter for command in self.commands.values() for parameter in command.params)
        options = {option.name: option.opts[0] for option in parameters if isinstance(option, click.Option)}
        text = re.sub(
            r"\b(\w+)=([\"'])([\w-]+)\2",
            lambda found: f"{options[found[1]]} {found[3]}" if found[1] in options else found[0],
            text,
        )
        return " ".join(text.split())
