"""The loop between a coordinator and an executor: events one way, instructions the other, nothing else.

Whoever predicts, and wherever the work is done, it is this loop, until every unit is written.
"""

from collections.abc import Callable, Sequence

from tilewright.assemble import AnyArray
from tilewright.coordinator import (
    Coordinator,
    Event,
    GiveUpUnit,
    Instruction,
    RecordReceipt,
    StartAdmitting,
    TakeTile,
    TilesOffered,
)
from tilewright.errors import UnitGivenUpError
from tilewright.execution.executor import Executor
from tilewright.geometry import Region
from tilewright.storage.receipts import UnitReceipt


class Run:
    """Drive one output array to completion.

    Parameters
    ----------
    coordinator : Coordinator
        Who decides.
    executor : Executor
        Who does it.
    on_receipt : callable
        Is called with the receipt of each unit that is written.
    """

    def __init__(self, coordinator: Coordinator, executor: Executor, on_receipt: Callable[[UnitReceipt], None]) -> None:
        self.coordinator = coordinator
        self.executor = executor
        self._on_receipt = on_receipt

    def predict_and_write(self) -> None:
        """Ask for all tiles, and return when every unit is written.

        Raises
        ------
        Exception
            The error of a unit that was given up: its model's, its source's, or its store's.
        """
        self._handle(StartAdmitting())
        self.finish()

    def hand_over(self, tiles: Sequence[int], arrays: Sequence[AnyArray]) -> None:
        """Hand over the valid regions of tiles, and wait while as much is in flight as may be.

        What comes twice is not taken again. When this returns, the arrays are no longer needed.
        """
        self.advance()
        offered: dict[int, AnyArray] = {}
        for tile, array in zip(tiles, arrays, strict=True):
            ahead = sum(other.nbytes for other in offered.values())
            if offered and self.coordinator.is_over_budget(ahead + array.nbytes):
                self._offer(offered)
                offered = {}
            while self.coordinator.must_wait(array.nbytes):
                self.advance(wait=True)
            offered[tile] = array
        self._offer(offered)
        while self.coordinator.expects(tiles):
            self.advance(wait=True)

    def _offer(self, offered: dict[int, AnyArray]) -> None:
        instructions = self.coordinator.handle(TilesOffered(tuple(offered)))
        wanted = [instruction for instruction in instructions if isinstance(instruction, TakeTile)]
        self.executor.take(wanted, [offered[instruction.tile] for instruction in wanted])

    def advance(self, *, wait: bool = False) -> None:
        """Take in what has happened."""
        for event in self.executor.events(wait=wait):
            self._handle(event)

    def finish(self) -> None:
        """Return when no answer is outstanding."""
        while not self.coordinator.is_idle:
            self.advance(wait=True)

    def _handle(self, event: Event) -> None:
        for instruction in self.coordinator.handle(event):
            self._carry_out(instruction)

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case RecordReceipt(_, receipt) if isinstance(receipt, UnitReceipt):
                self._on_receipt(receipt)
            case GiveUpUnit(unit, reason):
                self._raise_given_up(unit, reason)
            case _:
                self.executor.carry_out(instruction)

    def _raise_given_up(self, unit: int, reason: str) -> None:
        region = describe_region(self.coordinator.plan.axes, self.coordinator.plan.unit_region(unit))
        message = f"the unit at {region} was given up after {self.coordinator.attempts} attempts: {reason}"
        error = self.executor.error_behind(reason)
        if error is None:
            raise UnitGivenUpError(message)
        # The user gets the error itself, with the traceback of the place where it was raised.
        error.add_note(message)
        raise error


def describe_region(axes: str, region: Region) -> str:
    """Return a region as a person reads it.

    Examples
    --------
    >>> describe_region("YX", ((0, 64), (64, 128)))
    'Y 0:64, X 64:128'
    """
    return ", ".join(f"{name} {start}:{stop}" for name, (start, stop) in zip(axes, region, strict=True))
