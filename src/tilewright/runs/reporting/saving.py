"""The report of a run is saved however the run ends, and its own failure costs neither the result nor the error."""

import logging
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tilewright.runs.reporting.ending import Ending
from tilewright.runs.reporting.page import failure_page, run_page
from tilewright.stores.removal import remove_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilewright.runs.report import Report

_log = logging.getLogger(__name__)


class SavedReport:
    """Context of a run that ends with a saved report.

    Parameters
    ----------
    path : path or None
        Path of the HTML file; None to save none.
    destination : str
        Name of the output.
    makes_folder : bool, default=False
        Whether the folder of the file is made.

    Attributes
    ----------
    so_far : callable or None
        Returns the report of what is done, by how the run has ended, once the output has begun.
    """

    def __init__(self, path: "str | os.PathLike[str] | None", destination: str, *, makes_folder: bool = False) -> None:
        self._path = None if path is None else Path(path)
        self._destination = destination
        self._makes_folder = makes_folder
        self.so_far: Callable[[Ending], Report] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """Save the report of a run that has ended, by an error where there was one."""
        if self._path is None:
            return
        try:
            if self._makes_folder:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            ending = Ending.of(error)
            if self.so_far is None:
                save_text(self._path, failure_page(ending, self._destination))
                return
            report = self.so_far(ending)
            if error is not None:
                # A job that was told to stop may be killed while slow stores are read.
                save_text(self._path, run_page(report, with_pictures=False))
            save_text(self._path, run_page(report))
        except Exception:
            _log.warning("the report %s could not be written", self._path, exc_info=True)


def save_text(path: Path, text: str) -> None:
    """Write a file, which appears under its name when it is whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        replace_file(partial, path)
    finally:
        remove_file(partial)
