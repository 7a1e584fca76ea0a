"""Suspects: tasks that workers died with. Each runs once more, alone, so that no other task dies with it.

Of the tasks that a worker dies with, one may be the cause. A suspect that dies alone is the cause; a suspect that
succeeds alone was running beside the cause.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Task = TypeVar("Task")


class Suspects(Generic[Task]):
    """Queue of suspects, of which one at a time runs while nothing else does.

    Examples
    --------
    >>> suspects = Suspects[str]()
    >>> suspects.add("unit 3")
    >>> suspects.take(others_run=True), suspects.take(others_run=False), suspects.one_runs
    (None, 'unit 3', True)
    >>> suspects.ended(), suspects.one_runs
    (None, False)
    """

    def __init__(self) -> None:
        self._waiting: deque[Task] = deque()
        self.one_runs = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, task: Task) -> None:
        """Queue a task that a worker died with."""
        self._waiting.append(task)

    def take(self, *, others_run: bool) -> Task | None:
        """Return the next suspect to run alone; None while another task runs."""
        if others_run or self.one_runs or not self._waiting:
            return None
        self.one_runs = True
        return self._waiting.popleft()

    def ended(self) -> None:
        """Take in that the suspect that ran alone has ended."""
        self.one_runs = False

    def keep(self, is_kept: Callable[[Task], bool]) -> None:
        """Drop all suspects but those for which a function is true."""
        self._waiting = deque(filter(is_kept, self._waiting))
