"""Progress on standard error: a bar in a terminal or a notebook, else a plain line a minute, as logs want it.

Each line goes to the logger ``tilewright`` too, with the level INFO.
"""

import logging
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from tqdm.auto import tqdm

from tilewright.plan.describe import format_nbytes, format_seconds
from tilewright.runs.callbacks import Callbacks

if TYPE_CHECKING:
    from tilewright.plan import WritePlan
    from tilewright.stopping import StopRequest

INTERVAL_SECONDS = 60.0
"""Time between two lines where there is no terminal."""
_log = logging.getLogger("tilewright")
_IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)


class ProgressLine:
    """One number that grows to a total.

    Parameters
    ----------
    total, initial : int
        The number at the end and at the beginning.
    name : str
        What is done.
    shown : bool
        Whether to show it on standard error.
    is_nbytes : bool, default=False
        Whether the number counts bytes, and not units.
    interval_seconds : float
        Time between two lines where there is no terminal.
    """

    def __init__(
        self,
        total: int,
        name: str,
        *,
        shown: bool,
        initial: int = 0,
        is_nbytes: bool = False,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._total, self._name, self._is_nbytes = total, name, is_nbytes
        self._interval_seconds = interval_seconds
        self._count = self._initial = initial
        self._note = ""
        self._started = self._told = monotonic()
        self._bar: tqdm[Any] | None = None
        has_bar = shown and (sys.stderr.isatty() or _IN_NOTEBOOK)
        self._prints = shown and not has_bar
        if has_bar:
            scale = {"unit": "B", "unit_scale": True, "unit_divisor": 1024} if is_nbytes else {"unit": "units"}
            self._bar = tqdm(total=total, initial=initial, desc=name, **scale)
        self._tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def update(self, count: int, note: str = "") -> None:
        """Add to the number, and say how far that is in other words."""
        self._count += count
        self._note = note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        if monotonic() - self._told >= self._interval_seconds:
            self._tell()

    def close(self) -> None:
        """Say how far it came."""
        if self._bar is not None:
            self._bar.close()
        if self._count != self._told_count:
            self._tell()

    def _tell(self) -> None:
        self._told, self._told_count = monotonic(), self._count
        if self._prints:
            print(self._line(), file=sys.stderr, flush=True)
        _log.info("%s", self._line())

    def _line(self) -> str:
        """Return how far it is, how fast it goes, and how long it will take, in one line."""
        seconds, done = self._told - self._started, self._count - self._initial
        # Not rounded up: 100% is the end.
        parts = [f"{100 * self._count // max(1, self._total)}%"]
        parts += [self._note] * bool(self._note)
        if not self._is_nbytes:
            parts.append(f"{self._count:,}/{self._total:,} units")
        if done and seconds:
            rate = done / seconds
            parts.append(f"{format_nbytes(rate)}/s" if self._is_nbytes else f"{rate:,.1f} units/s")
            parts.append(f"{format_seconds(seconds)} passed")
            if self._count < self._total:
                parts.append(f"about {format_seconds((self._total - self._count) / rate)} to go")
        return f"{self._name}: {', '.join(parts)}"


class Progress(Callbacks):
    """Progress of a run: first what is compared with the ledger, then what is written.

    Parameters
    ----------
    shown : bool
        Whether to show it on standard error.
    stop : StopRequest
        Request to stop the run.
    interval_seconds : float
        As in `ProgressLine`.
    """

    def __init__(self, shown: bool, stop: "StopRequest", interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._shown = shown
        self._stop = stop
        self._interval_seconds = interval_seconds
        self._line: ProgressLine | None = None

    def expect(self, plan: "WritePlan") -> None:
        """Take in how much there is to do."""
        self._plan = plan
        self._done = 0

    def checked(self, unit_count: int) -> None:
        """Show how many units were compared with the ledger; stop where that is asked for."""
        self._stop.check()
        if self._line is None:
            self._line = self._begun(self._plan.unit_count, "checking")
        self._line.update(unit_count)

    def kept(self, unit_count: int, nbytes: int) -> None:
        """Show what need not be written again."""
        self.close()
        self._done = unit_count
        self._line = self._begun(self._plan.output_nbytes, "tilewright", initial=nbytes, is_nbytes=True)

    def written(self, unit: int) -> None:
        """Show that a unit is written."""
        self._done += 1
        if self._line is not None:
            self._line.update(self._plan.unit_nbytes(unit), f"{self._done}/{self._plan.unit_count} units")

    def close(self) -> None:
        """Close the line."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _begun(self, total: int, name: str, **options: Any) -> ProgressLine:
        return ProgressLine(total, name, shown=self._shown, interval_seconds=self._interval_seconds, **options)
