"""A run that is asked to stop finishes what is in flight, and whatever is slow before that looks whether it is asked.

Clusters end jobs with SIGTERM, and kill them some 30 seconds later.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tilewright.errors import RunStoppedError
from tilewright.signals import StopSignals, of_command

Answer = TypeVar("Answer")
GRACE_SECONDS = 20.0
"""How long what is in flight may take where no time is given."""
LOOK_SECONDS = 0.1
"""How often one looks whether a run is to stop, while something takes long."""


@dataclass
class StopRequest:
    """Whether a run is to stop.

    Parameters
    ----------
    grace_seconds : float
        How long what is in flight may take then.
    signals : StopSignals
        The signals that ask for it.
    progress : callable
        Returns in words how much is written, as far as that is known.
    """

    grace_seconds: float = GRACE_SECONDS
    signals: StopSignals = field(default_factory=StopSignals)
    progress: Callable[[], str] = lambda: "nothing is written"

    @property
    def name(self) -> str:
        """The signal that has asked for it; empty where none has."""
        return self.signals.name

    @property
    def is_requested(self) -> bool:
        """Whether a signal has asked for it."""
        return bool(self.name)

    def error(self) -> RunStoppedError:
        """Return the error of a run that has stopped."""
        return RunStoppedError(
            f"{self.name}: the run has stopped; {self.progress()}. Run it again with if_exists='resume' to go on from "
            "there"
        )

    def check(self) -> None:
        """Raise RunStoppedError where the run is to stop."""
        if self.is_requested:
            raise self.error()

    def wait_for(self, function: Callable[[], Answer]) -> Answer:
        """Return what a function returns that may take long, or may hang.

        It is called in a thread of its own, which is left alone where the run is to stop.

        Raises
        ------
        RunStoppedError
            If the run is to stop before the function has returned.
        """
        if not self.signals.is_listening and not self.is_requested:
            return function()
        self.check()
        outcome: list[Any] = []
        ended = threading.Event()

        def call() -> None:
            try:
                outcome.extend((function(), None))
            except BaseException as error:
                outcome.extend((None, error))
            finally:
                ended.set()

        threading.Thread(target=call, name="tilewright-slow", daemon=True).start()
        while not ended.wait(LOOK_SECONDS):
            self.check()
        answer, error = outcome
        if error is not None:
            raise error
        result: Answer = answer
        return result


@contextmanager
def listening(stop: StopRequest) -> Iterator[StopRequest]:
    """Take SIGTERM and SIGINT as a request to stop, where no other part of the program has plans with them.

    On the command line they are taken already, and what has come before counts.
    """
    if of_command.is_listening or of_command.name:
        stop.signals = of_command
        yield stop
        return
    # Python lets only the main thread choose.
    if threading.current_thread() is threading.main_thread():
        stop.signals.listen()
    try:
        yield stop
    finally:
        stop.signals.give_back()
