"""The command line: what a shell can do with tilewright."""

from tilewright.signals import of_command

__all__ = ["main"]

STOPPED = 75
"""The exit status of a run that was asked to stop, and did: a temporary failure in the words of sysexits.h."""


def main() -> None:
    """Run the command that the arguments of the process say."""
    # Before anything takes time: a job may be ended in its first second.
    of_command.listen()
    status: object = 1
    try:
        from tilewright.cli.commands import commands  # noqa: PLC0415

        commands(prog_name="tilewright")
    except SystemExit as ended:
        status = ended.code
    finally:
        of_command.ignore()
    _exit(status)


def _exit(status: object) -> None:
    """End the process, also where a model that was called does not return."""
    import os  # noqa: PLC0415
    import sys  # noqa: PLC0415

    if status == STOPPED:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(STOPPED)
    sys.exit(status)  # type: ignore[arg-type]
