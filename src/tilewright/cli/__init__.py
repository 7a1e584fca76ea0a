"""The command line: what a shell can do with tilewright."""

from tilewright.cli.commands import main

__all__ = ["main"]
