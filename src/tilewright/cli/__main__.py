"""``python -m tilewright.cli`` is ``tilewright``."""

from tilewright.cli.commands import main

main(prog_name="tilewright")
