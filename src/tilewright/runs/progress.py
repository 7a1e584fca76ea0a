"""The progress line of a run on standard error."""

from typing import Any

from tqdm import tqdm

from tilewright.plan import WritePlan
from tilewright.runs.callbacks import Callbacks
from tilewright.stopping import StopRequest


class Progress(Callbacks):
    """A line on standard error: first what is compared with the ledger, then what is written."""

    def __init__(self, shown: bool, stop: StopRequest) -> None:
        self._shown = shown
        self._stop = stop
        self._line: tqdm[Any] | None = None

    def expect(self, plan: WritePlan) -> None:
        """Take in how much there is to do."""
        self._plan = plan
        self._done = 0

    def checked(self, unit_count: int) -> None:
        """Show how many units were compared with the ledger; stop where that is asked for."""
        self._stop.check()
        if self._line is None:
            self._line = tqdm(total=self._plan.unit_count, desc="checking", unit="units", disable=not self._shown)
        self._line.update(unit_count)

    def kept(self, unit_count: int, nbytes: int) -> None:
        """Show what need not be written again."""
        self.close()
        self._done = unit_count
        self._line = tqdm(
            total=self._plan.output_nbytes,
            initial=nbytes,
            desc="tilewright",
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=not self._shown,
        )

    def written(self, unit: int) -> None:
        """Show that a unit is written."""
        self._done += 1
        if self._line is not None:
            self._line.set_postfix_str(f"{self._done}/{self._plan.unit_count} units", refresh=False)
            self._line.update(self._plan.unit_nbytes(unit))

    def close(self) -> None:
        """Close the line."""
        if self._line is not None:
            self._line.close()
            self._line = None
