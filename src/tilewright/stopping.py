"""Request to stop a run: work in flight is finished, and slow steps check for the request.

Clusters end jobs with SIGTERM, and kill them some 30 seconds later.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tilewright.errors import RunStoppedError
from tilewright.signals import StopSignals, of_command

Answer = TypeVar("Answer")
GRACE_SECONDS = 20.0
"""Default time for the work in flight after a request to stop."""
LOOK_SECONDS = 0.1
"""Time between two checks for a request to stop during a slow step."""


@dataclass
class StopRequest:
    """Request to stop a run.

    Parameters
    ----------
    grace_seconds : float
        Time for the work in flight after the request.
    signals : StopSignals
        Signals that make the request.
    progress : callable
        Returns in words how much is written.
    """

    grace_seconds: float = GRACE_SECONDS
    signals: StopSignals = field(default_factory=StopSignals)
    progress: Callable[[], str] = lambda: "nothing is written"

    @property
    def name(self) -> str:
        """Name of the signal that has come; empty before."""
        return self.signals.name

    @property
    def is_requested(self) -> bool:
        """Whether a signal has come."""
        return bool(self.name)

    def error(self) -> RunStoppedError:
        """Return the error of a run that has stopped."""
        return RunStoppedError(
            f"{self.name}: the run has stopped; {self.progress()}. Run it again with if_exists='resume' to go on from "
            "there"
        )

    def check(self) -> None:
        """Raise RunStoppedError after a request to stop."""
        if self.is_requested:
            raise self.error()

    def wait_for(self, function: Callable[[], Answer]) -> Answer:
        """Return the result of a slow function, which runs in a thread of its own.

        Raises
        ------
        RunStoppedError
            If a request to stop comes first; the thread is left alone.
        """
        if not self.signals.is_listening and not self.is_requested:
            return function()
        self.check()
        future: Future[Answer] = Future()

        def call() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=call, name="tilewright-slow", daemon=True).start()
        while not wait([future], LOOK_SECONDS).done:
            self.check()
        return future.result()


@contextmanager
def listening(stop: StopRequest) -> Iterator[StopRequest]:
    """Take SIGTERM and SIGINT with default handlers as a request to stop.

    The command line has taken them from its start, and a signal that came since then counts.
    """
    if of_command.is_listening or of_command.name:
        stop.signals = of_command
        yield stop
        return
    # Python sets handlers in the main thread only.
    if threading.current_thread() is threading.main_thread():
        stop.signals.listen()
    try:
        yield stop
    finally:
        stop.signals.give_back()
