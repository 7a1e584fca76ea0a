"""A store that fails now and then is asked again, and its errors name the object or file that they are about."""

import errno
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

from zarr.abc.store import Store

from tilewright.errors import OutputInUseError, TilewrightError
from tilewright.stores.places import public_name
from tilewright.stores.zarr_api import sync

Answer = TypeVar("Answer")
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk that no later attempt, and no other object, would escape."""
Check = Callable[[], None]
"""What raises where an object must not be stored or removed any more: another run has the output."""


def allowed() -> None:
    """Raise nothing: there is no other run."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a store that fails, or does not answer, is borne.

    Parameters
    ----------
    attempts : int
        How often an object is put before that fails.
    pause_seconds : float
        How long to wait before the second attempt; before each further one four times as long.
    answer_seconds : float
        How long one waits for a store that is no local folder.
    """

    attempts: int = 3
    pause_seconds: float = 0.25
    answer_seconds: float = 120.0

    def bear(self, attempt: Callable[[], Answer]) -> Answer:
        """Return what an attempt returns; try again, after a pause, where it raises."""
        for pause in range(self.attempts - 1):
            try:
                return attempt()
            except Exception as error:
                if is_fatal(error) or isinstance(error, OutputInUseError):
                    raise
                sleep(self.pause_seconds * 4**pause)
        return attempt()


def is_fatal(error: BaseException | None) -> bool:
    """Tell whether a disk takes nothing any more: it is full, or read-only."""
    return isinstance(error, OSError) and error.errno in FATAL


def answer_of(store: Store, key: str, request: Coroutine[Any, Any, Answer], answer_seconds: float) -> Answer:
    """Return what a store answers, or raise an error that names the object."""
    try:
        return sync(request, timeout=answer_seconds)
    except TimeoutError as error:
        raise TimeoutError(
            errno.ETIMEDOUT, f"no answer for {answer_seconds:.0f} seconds", f"{public_name(store)}/{key}"
        ) from error
    except OSError as error:
        raise named(error, f"{public_name(store)}/{key}") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in an error of the system: its temporary name would say nothing to the user."""
    try:
        yield
    except TilewrightError:
        raise
    except OSError as error:
        raise named(error, str(path)) from error


def named(error: OSError, name: str) -> OSError:
    """Return an error of the system as one that names the object or file."""
    number = error.errno or errno.EIO
    reason = os.strerror(number) if error.errno else str(error)
    return OSError(number, f"could not write: {reason}", name)
