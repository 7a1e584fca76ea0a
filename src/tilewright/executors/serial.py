"""The reference executor: one instruction after the other, in the calling thread."""

from collections import deque
from collections.abc import Sequence

from tilewright.assemble import AnyArray
from tilewright.coordinator import Event, Instruction, ReleaseTile, TakeTile
from tilewright.executors.local_executor import LocalExecutor, is_prediction
from tilewright.executors.work import Work


class SerialExecutor(LocalExecutor):
    """Carry out one instruction whenever events are asked for, in the calling thread.

    Parameters
    ----------
    work : Work
        What the instructions are about.
    """

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._waiting: deque[Instruction] = deque()
        self._happened: list[Event] = []

    def carry_out(self, instruction: Instruction) -> None:
        """Remember an instruction, or release a tile at once."""
        match instruction:
            case ReleaseTile(tile):
                self._tiles.release(tile)
            case _:
                self._waiting.extend(self._steps(instruction))

    def stop_predicting(self) -> None:
        """Drop predictions that have not begun."""
        self._waiting = deque(step for step in self._waiting if not is_prediction(step))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued."""
        return not (self._waiting or self._happened)

    @property
    def wanted_nbytes(self) -> int:
        """Those of one unit."""
        return self._work.plan.largest_unit_nbytes

    @property
    def is_full(self) -> bool:
        """Whether tiles would be copied that need not be."""
        return self._tiles.is_full and not self.is_idle

    def events(self, *, wait: bool) -> list[Event]:
        """Return what was taken in; if there is nothing, carry out the oldest instruction, and return its outcome."""
        if self._happened:
            happened, self._happened = self._happened, []
            return happened
        return [self._perform(self._waiting.popleft())] if self._waiting else []

    def take(self, instructions: Sequence[TakeTile], arrays: Sequence[AnyArray]) -> None:
        """Hold tiles until their units are written."""
        self._happened += self._hold(instructions, arrays)

    def close(self) -> None:
        """Let go of all that is held."""
        self._waiting.clear()
        self._let_go()
