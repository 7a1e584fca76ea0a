"""Errors of tilewright: each is also the built-in error that a caller would expect.

An error of a user's model keeps its class, and is marked.
"""

from contextlib import suppress
from typing import Any

_OF_MODEL = "_tilewright_raised_by_model"


class TilewrightError(Exception):
    """Base class of the errors that tilewright raises on purpose."""


class FinalError(TilewrightError):
    """An error that ends a run, since a retry or another worker cannot help."""


class GeometryError(TilewrightError, ValueError):
    """Axes, tiles, overlaps, chunks or shards that do not fit each other."""


class MemoryPlanError(TilewrightError, ValueError):
    """A plan whose waiting tiles do not fit into the given memory."""


class SourceError(TilewrightError, OSError):
    """A source that cannot be opened or read."""


class SourceElsewhereError(SourceError, FinalError):
    """A source that a worker cannot find, or that is another one there."""


class DestinationError(TilewrightError, OSError):
    """A destination that cannot be created or written."""


class DestinationExistsError(DestinationError, FileExistsError):
    """A destination that exists and must not be changed."""


class NotSharedError(DestinationError, FinalError):
    """A destination that client and worker do not share."""


class OutputInUseError(DestinationError, FinalError, BlockingIOError):
    """An output that another run is writing."""


class ResumeError(DestinationError, ValueError):
    """An output that cannot be resumed: its ledger is missing, or names another source, model or plan."""


class ModelOutputError(TilewrightError, ValueError):
    """A model whose output does not fit its input tile."""


class PredictionTypeError(ModelOutputError, FinalError):
    """A prediction whose data type the output cannot hold exactly, without a requested conversion."""


class ReusedMemoryError(ModelOutputError, FinalError):
    """A model that has written into a prediction that it returned before."""


class TileMismatchError(TilewrightError, ValueError):
    """A tile that differs from the tile in the plan of its image."""


class IncompleteImageError(TilewrightError, RuntimeError):
    """An image with elements that were never predicted or written."""


class UnitGivenUpError(TilewrightError, RuntimeError):
    """Write units that failed too often, and hold the fill value.

    Attributes
    ----------
    report : Report or None
        Report of the run.
    """

    report: Any = None


class RunStoppedError(TilewrightError, InterruptedError):
    """A run that was asked to stop, and has finished the work in flight.

    Attributes
    ----------
    report : Report or None
        Report of what was done until then, where the output had begun.
    """

    report: Any = None


class ImageWriteError(TilewrightError, RuntimeError):
    """A complete image that could not be written."""


class TilesGoneError(TilewrightError, ConnectionError):
    """Tiles that were lost with their worker."""


class WorkGoneError(TilewrightError, ConnectionError):
    """A worker without the setup of its tasks, since it or its scheduler was restarted."""


class ClusterGoneError(TilewrightError, ConnectionError):
    """A Dask cluster that was lost during a run."""


def mark_as_raised_by_model(error: BaseException) -> None:
    """Mark an error as one of the user's model; the mark is pickled with the error."""
    # A class with slots has no room for the mark.
    with suppress(AttributeError, TypeError):
        setattr(error, _OF_MODEL, True)


def is_raised_by_model(error: BaseException) -> bool:
    """Return whether the user's model has raised an error.

    Examples
    --------
    >>> error = ValueError("odd number of planes")
    >>> mark_as_raised_by_model(error)
    >>> is_raised_by_model(error), is_raised_by_model(ValueError())
    (True, False)
    """
    return getattr(error, _OF_MODEL, False) is True
