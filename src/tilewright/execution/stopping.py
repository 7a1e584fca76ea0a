"""Who is asked to end, ends well: a first signal lets what is in flight finish, a second one ends at once.

Clusters end jobs with SIGTERM, and kill them some 30 seconds later.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tilewright.errors import RunStoppedError

GRACE_SECONDS = 20.0
"""How long what is in flight may take where nobody says."""


@dataclass
class StopRequest:
    """Whether a run is to stop.

    Parameters
    ----------
    grace_seconds : float
        How long what is in flight may take then.
    name : str
        What asked for it; empty while nothing has.
    is_heeded : bool
        Whether somebody looks at it, and ends in order. Until then there is nothing to finish.
    """

    grace_seconds: float = GRACE_SECONDS
    name: str = ""
    is_heeded: bool = False

    @property
    def is_requested(self) -> bool:
        """Whether something has asked for it."""
        return bool(self.name)


@contextmanager
def listening(stop: StopRequest) -> Iterator[StopRequest]:
    """Take SIGTERM and SIGINT as a request to stop, where nobody else has other plans with them.

    The second one ends the program as it would without this.
    """
    before: dict[int, Any] = {}

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.name = signal.Signals(number).name
        for taken, handler in before.items():
            signal.signal(taken, handler)
        if not stop.is_heeded:
            raise RunStoppedError(
                f"{stop.name}: the run has stopped before it wrote anything; run it again with if_exists='resume'"
            )

    # Python lets only the main thread choose.
    if threading.current_thread() is threading.main_thread():
        for number, default in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            if signal.getsignal(number) == default:
                before[number] = default
                signal.signal(number, ask)
    try:
        yield stop
    finally:
        for taken, handler in before.items():
            signal.signal(taken, handler)
