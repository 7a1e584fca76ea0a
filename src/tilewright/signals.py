"""Flag of a signal that asks the process to end: the handler sets it, and slow parts of a run look at it.

Only the standard library is imported: the command line takes signals before all else.
"""

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEFAULTS: "dict[signal.Signals, Any]" = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}


class StopSignals:
    """Handler of SIGTERM and SIGINT, where these have their default handlers; a second signal ends the program.

    Attributes
    ----------
    name : str
        Name of the signal that has come; empty before.
    """

    def __init__(self) -> None:
        self.name = ""
        self.is_listening = False

    def listen(self) -> None:
        """Take the signals that have their default handlers; works in the main thread only."""
        for number, usual in _DEFAULTS.items():
            if signal.getsignal(number) == usual:
                signal.signal(number, self._note)
                self.is_listening = True

    def give_back(self) -> None:
        """Restore the default handlers."""
        for number, usual in _DEFAULTS.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, usual)
        self.is_listening = False

    def end_as_usual(self) -> None:
        """Restore the handlers, and end the process at once by a signal that comes or has come."""
        is_of_command = self.is_listening or bool(self.name)
        self.give_back()
        if is_of_command:
            # KeyboardInterrupt would be an error inside the code that runs.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.name:
            os.kill(os.getpid(), signal.Signals[self.name])

    def ignore(self) -> None:
        """Ignore all signals: the process is about to end, with a known status."""
        for number in _DEFAULTS:
            if signal.getsignal(number) == self._note or self.name:
                signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, _frame: object) -> None:
        self.name = signal.Signals(number).name
        self.give_back()


of_command = StopSignals()
"""Signals of the command line, from the start of the process."""
