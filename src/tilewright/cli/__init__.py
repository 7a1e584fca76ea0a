"""Command line of tilewright."""

from tilewright.signals import of_command

__all__ = ["main"]

STOPPED = 75
"""Exit status of a run that a signal has stopped: EX_TEMPFAIL of sysexits.h."""


def main() -> None:
    """Run the command of the process arguments."""
    # Before the slow imports: a job may be ended in its first second.
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
    """End the process, also where a call of a model does not return."""
    import os  # noqa: PLC0415
    import sys  # noqa: PLC0415

    if status == STOPPED:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(STOPPED)
    sys.exit(status)  # type: ignore[arg-type]
