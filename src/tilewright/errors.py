"""Every error that tilewright raises on purpose is also the built-in error that a caller would expect.

The messages are written where the values are known. What a model raises stays the error that it is, and is marked.
"""

from contextlib import suppress
from typing import Any

_OF_MODEL = "_tilewright_raised_by_model"


class TilewrightError(Exception):
    """Base class of the errors that tilewright raises on purpose."""


class FinalError(TilewrightError):
    """An error that no later attempt, and no other worker, would escape: it ends a run."""


class GeometryError(TilewrightError, ValueError):
    """Axes, tiles, overlaps, chunks or shards that do not fit each other."""


class MemoryPlanError(TilewrightError, ValueError):
    """A plan that cannot hold its waiting tiles in the memory it was given."""


class SourceError(TilewrightError, OSError):
    """A source that cannot be opened or read."""


class SourceElsewhereError(SourceError, FinalError):
    """A source that is not there, or is another one, where a process reads it."""


class DestinationError(TilewrightError, OSError):
    """A destination that cannot be created or written."""


class DestinationExistsError(DestinationError, FileExistsError):
    """A destination that exists, where the caller asked not to touch what exists."""


class NotSharedError(DestinationError, FinalError):
    """A destination that a worker does not see as the client does."""


class OutputInUseError(DestinationError, FinalError, BlockingIOError):
    """An output that another process is writing."""


class ResumeError(DestinationError, ValueError):
    """An output that cannot be completed: nobody knows what it was begun from, or that was something else."""


class ModelOutputError(TilewrightError, ValueError):
    """A model whose output does not fit the tile that it was given."""


class PredictionTypeError(ModelOutputError, FinalError):
    """A prediction of a data type that the output cannot hold exactly, and that no conversion was asked for."""


class ReusedMemoryError(ModelOutputError, FinalError):
    """A model that has written to a prediction that it had returned before."""


class TileMismatchError(TilewrightError, ValueError):
    """A tile that is not the one that the plan of its image has at that place."""


class IncompleteImageError(TilewrightError, RuntimeError):
    """An image of which some elements were never predicted or written."""


class UnitGivenUpError(TilewrightError, RuntimeError):
    """Write units that failed more often than they may, and hold the fill value.

    Attributes
    ----------
    report : Report or None
        What the run did apart from these units.
    """

    report: Any = None


class RunStoppedError(TilewrightError, InterruptedError):
    """A run that was asked to stop, and finished what was in flight before it did."""


class ImageWriteError(TilewrightError, RuntimeError):
    """An image that is complete, but that could not be written."""


class TilesGoneError(TilewrightError, ConnectionError):
    """Tiles that died with the worker that held them."""


class WorkGoneError(TilewrightError, ConnectionError):
    """A worker that does not have the work of its tasks: it was restarted, or has come with another scheduler."""


class ClusterGoneError(TilewrightError, ConnectionError):
    """A Dask cluster that went away during a run."""


def mark_as_raised_by_model(error: BaseException) -> None:
    """Mark an error as one of the user's model; the mark travels with the error to other processes."""
    # A class with slots takes no mark.
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
