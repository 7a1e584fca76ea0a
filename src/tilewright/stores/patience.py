"""Retry policy for a failing store, and errors that name the object or file."""

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
"""Errors of a full or read-only disk, where a retry is useless."""
Check = Callable[[], None]
"""Raises where another run has the output, so that nothing may be stored or removed."""


def allowed() -> None:
    """Raise nothing: there is no lock to check."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Retry policy for a failing store.

    Parameters
    ----------
    attempts : int
        Number of attempts per object.
    pause_seconds : float
        Pause before the second attempt; four times as long before each further one.
    answer_seconds : float
        Timeout of one request to a store that is no local folder.
    """

    attempts: int = 3
    pause_seconds: float = 0.25
    answer_seconds: float = 120.0

    def bear(self, attempt: Callable[[], Answer]) -> Answer:
        """Return the result of an attempt; after an error and a pause, try again."""
        for pause in range(self.attempts - 1):
            try:
                return attempt()
            except Exception as error:
                if is_fatal(error) or isinstance(error, OutputInUseError):
                    raise
                sleep(self.pause_seconds * 4**pause)
        return attempt()


def is_fatal(error: BaseException | None) -> bool:
    """Tell whether an error means a full or read-only disk."""
    return isinstance(error, OSError) and error.errno in FATAL


def answer_of(store: Store, key: str, request: Coroutine[Any, Any, Answer], answer_seconds: float) -> Answer:
    """Return the answer of a store, or raise an error that names the object."""
    try:
        return sync(request, timeout=answer_seconds)
    except TimeoutError as error:
        reason = f"no answer for {answer_seconds:.0f} seconds"
        raise TimeoutError(errno.ETIMEDOUT, reason, f"{public_name(store)}/{key}") from error
    except OSError as error:
        raise named(error, f"{public_name(store)}/{key}") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file by its final name in an error of the system."""
    try:
        yield
    except TilewrightError:
        raise
    except OSError as error:
        raise named(error, str(path)) from error


def named(error: OSError, name: str) -> OSError:
    """Return an error of the system with the name of the object or file."""
    number = error.errno or errno.EIO
    reason = os.strerror(number) if error.errno else str(error)
    return OSError(number, f"could not write: {reason}", name)
