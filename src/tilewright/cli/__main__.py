"""``python -m tilewright.cli`` is ``tilewright``."""

from tilewright.cli import main

main()
