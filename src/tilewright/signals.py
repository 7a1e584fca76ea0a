"""A signal that asks a process to end sets a flag and nothing else; the part of a run that is slow looks at the flag.

Nothing heavy is imported here: the command line takes signals with it before all else.
"""

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEFAULTS: "dict[signal.Signals, Any]" = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}


class StopSignals:
    """SIGTERM and SIGINT, where no other part of the program has plans with them.

    The second one ends the program as it would without this.

    Attributes
    ----------
    name : str
        The signal that has come; empty before.
    """

    def __init__(self) -> None:
        self.name = ""
        self.is_listening = False

    def listen(self) -> None:
        """Take the signals that have their usual handlers; only the main thread can."""
        for number, usual in _DEFAULTS.items():
            if signal.getsignal(number) == usual:
                signal.signal(number, self._note)
                self.is_listening = True

    def give_back(self) -> None:
        """Give the signals that were taken their usual handlers back."""
        for number, usual in _DEFAULTS.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, usual)
        self.is_listening = False

    def end_as_usual(self) -> None:
        """Give the signals back, and let one that comes, or has come, end the process: nothing is to be finished."""
        is_of_command = self.is_listening or bool(self.name)
        self.give_back()
        if is_of_command:
            # An interrupt that is raised would be an error of whatever runs.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.name:
            os.kill(os.getpid(), signal.Signals[self.name])

    def ignore(self) -> None:
        """Let no signal end the process any more: it is at its end, and its status is known."""
        for number in _DEFAULTS:
            if signal.getsignal(number) == self._note or self.name:
                signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, _frame: object) -> None:
        self.name = signal.Signals(number).name
        self.give_back()


of_command = StopSignals()
"""The signals of the command line, from the first moment of a command."""
