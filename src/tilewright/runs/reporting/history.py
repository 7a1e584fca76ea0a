"""History of a run in bounded memory: what was done where, when and by which process, also for ten million units.

Units are counted in the cells of a coarse map, and time in equal steps, which double when there are too many of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import prod
from time import perf_counter

import numpy as np
import numpy.typing as npt

from tilewright.geometry import position_of
from tilewright.ledger.receipts import StageSeconds, UnitReceipt
from tilewright.plan import WritePlan

MOST_CELLS = 2**14
"""Cells of the map of units, at most."""
MOST_STEPS = 512
"""Steps of time, at most."""
MOST_PROCESSES = 500
"""Processes with an entry of their own; those that come later share one."""
OTHERS = "other processes"
_BLOCK = 10**6
Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


class UnitMap:
    """Counts of written, kept and given-up units of one array, in cells of neighbouring units.

    Parameters
    ----------
    unit_counts : tuple of int
        Write units, per axis of the array.

    Attributes
    ----------
    factors : tuple of int
        Units of a cell, per axis.
    written, kept, given_up, total : array of int
        Units per cell, in the shape of the grid of cells.
    last_seconds : array of float
        When the last unit of the cell was written, in seconds from the start; NaN before.
    processes : array of int
        Index of the process that has written the last unit of the cell; -1 before.

    Examples
    --------
    >>> cells = UnitMap((1000, 1000))
    >>> cells.factors, cells.written.shape
    ((8, 8), (125, 125))
    """

    def __init__(self, unit_counts: tuple[int, ...]) -> None:
        self.unit_counts = unit_counts
        factors = [1] * len(unit_counts)
        while prod(shape := [-(-count // factor) for count, factor in zip(unit_counts, factors, strict=True)]) > (
            MOST_CELLS
        ):
            factors[shape.index(max(shape))] *= 2
        self.factors = tuple(factors)
        self.shape = tuple(shape)
        self.written, self.kept, self.given_up = (np.zeros(self.shape, np.int64) for _ in range(3))
        self.last_seconds = np.full(self.shape, np.nan)
        self.processes = np.full(self.shape, -1, np.int16)
        self.total = np.ones((), np.int64)
        for count, factor, cells in zip(unit_counts, factors, shape, strict=True):
            of_axis = np.minimum(factor, count - factor * np.arange(cells))
            self.total = np.multiply.outer(self.total, of_axis)

    def cell_of(self, rank: int) -> tuple[int, ...]:
        """Return the cell of a unit, by its rank in the array."""
        position = position_of(rank, self.unit_counts)
        return tuple([index // factor for index, factor in zip(position, self.factors, strict=True)])

    def keep(self, ranks: npt.NDArray[np.int64]) -> None:
        """Count units that an earlier run has written, by their ranks in the array."""
        for start in range(0, len(ranks), _BLOCK):
            positions = np.unravel_index(ranks[start : start + _BLOCK], self.unit_counts)
            cells = [index // factor for index, factor in zip(positions, self.factors, strict=True)]
            numbers = np.ravel_multi_index(cells, self.shape)
            self.kept += np.bincount(numbers, minlength=prod(self.shape)).reshape(self.shape)

    @property
    def unit_count(self) -> int:
        """The units of the array."""
        return prod(self.unit_counts)

    @property
    def is_filled(self) -> npt.NDArray[np.bool_]:
        """Whether a cell has units that are stored, per cell."""
        return (self.written + self.kept) > 0


class Timeline:
    """Bytes and units written per step of time, and the most bytes that were in flight in each step.

    Parameters
    ----------
    step_seconds : float
        Length of a step at first, in seconds.

    Examples
    --------
    >>> line = Timeline(step_seconds=1.0)
    >>> for second in range(2000):
    ...     line.add(second, nbytes=10)
    >>> line.step_seconds, line.rates(2000).tolist() == [10.0] * 500
    (4.0, True)
    """

    def __init__(self, step_seconds: float = 0.05) -> None:
        self.step_seconds = step_seconds
        self.nbytes = np.zeros(MOST_STEPS)
        self.unit_counts = np.zeros(MOST_STEPS)
        self.live_nbytes = np.full(MOST_STEPS, np.nan)

    def add(self, seconds: float, nbytes: int) -> None:
        """Count a unit that was written, so long after the start."""
        step = self._step_at(seconds)
        self.nbytes[step] += nbytes
        self.unit_counts[step] += 1

    def note_live(self, seconds: float, nbytes: int) -> None:
        """Note how many bytes are in flight, so long after the start."""
        step = self._step_at(seconds)
        self.live_nbytes[step] = np.fmax(self.live_nbytes[step], nbytes)

    def rates(self, seconds: float) -> Numbers:
        """Return the bytes written per second, in each step of so many seconds from the start."""
        return self.nbytes[: self._count(seconds)] / self.step_seconds

    def live(self, seconds: float) -> Numbers:
        """Return the bytes in flight in each step of so many seconds; a step without news has those before it."""
        noted = self.live_nbytes[: self._count(seconds)]
        known = np.flatnonzero(~np.isnan(noted))
        if not len(known):
            return np.zeros(len(noted))
        # Before the first news, which come when something is finished, it was as much.
        last = known[np.maximum(np.searchsorted(known, np.arange(len(noted)), side="right") - 1, 0)]
        return noted[last]

    def _count(self, seconds: float) -> int:
        return min(MOST_STEPS, max(1, int(np.ceil(seconds / self.step_seconds))))

    def _step_at(self, seconds: float) -> int:
        while (step := int(seconds / self.step_seconds)) >= MOST_STEPS:
            self.step_seconds *= 2
            empty = np.zeros(MOST_STEPS // 2)
            self.nbytes = np.concatenate([self.nbytes.reshape(-1, 2).sum(axis=1), empty])
            self.unit_counts = np.concatenate([self.unit_counts.reshape(-1, 2).sum(axis=1), empty])
            pairs = self.live_nbytes.reshape(-1, 2)
            self.live_nbytes = np.concatenate([np.fmax(pairs[:, 0], pairs[:, 1]), empty + np.nan])
        return step


@dataclass
class ProcessHistory:
    """What one process has written, and where its time went."""

    unit_count: int = 0
    nbytes: int = 0
    seconds: StageSeconds = field(default_factory=StageSeconds)
    peak_memory_nbytes: int = 0
    lost_count: int = 0


class History:
    """Record of one run while it goes on.

    Parameters
    ----------
    plan : WritePlan
        Plan of the output.
    clock : callable, optional
        Returns seconds.

    Attributes
    ----------
    started_at : datetime
        Start of the run, in local time.
    written_nbytes : int
        Bytes of the units that were written, before the codecs.
    levels : tuple of UnitMap
        The map of each array, the one at full resolution first.
    timeline : Timeline
        The time.
    processes : dict of str to ProcessHistory
        By the name of the process, in the order of their first units.
    """

    def __init__(self, plan: WritePlan, clock: Callable[[], float] = perf_counter) -> None:
        self._plan = plan
        self._clock = clock
        self._started = clock()
        self.started_at = datetime.now().astimezone()
        self.written_nbytes = 0
        self.levels = tuple(UnitMap(array.unit_counts) for array in plan.arrays)
        self.timeline = Timeline()
        self.processes: dict[str, ProcessHistory] = {}
        self._numbers: dict[str, int] = {}

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def latest_seconds(self) -> float:
        """When the last unit was written, in seconds from the start; 0 before."""
        latest = [float(np.nanmax(level.last_seconds)) for level in self.levels if level.written.any()]
        return max(latest, default=0.0)

    def kept(self, units: Sequence[int]) -> None:
        """Take in the units that an earlier run has written."""
        numbers = np.asarray(units, np.int64)
        for array, level in enumerate(self.levels):
            first = self._plan.first_unit(array)
            level.keep(numbers[(first <= numbers) & (numbers < first + level.unit_count)] - first)

    def written(self, receipt: UnitReceipt) -> None:
        """Take in a unit that is stored."""
        seconds, nbytes = self.seconds, self._plan.unit_nbytes(receipt.unit)
        self.written_nbytes += nbytes
        self.timeline.add(seconds, nbytes)
        name = receipt.process if receipt.process in self.processes or len(self.processes) < MOST_PROCESSES else OTHERS
        process = self.processes.setdefault(name, ProcessHistory())
        process.unit_count += 1
        process.nbytes += nbytes
        process.seconds.add(receipt.seconds)
        process.peak_memory_nbytes = max(process.peak_memory_nbytes, receipt.peak_memory_nbytes)
        process.lost_count += receipt.lost_count
        level, cell = self._level_and_cell(receipt.unit)
        level.written[cell] += 1
        level.last_seconds[cell] = seconds
        level.processes[cell] = self._numbers.setdefault(name, len(self._numbers))

    def given_up(self, unit: int) -> None:
        """Take in a unit that is given up."""
        level, cell = self._level_and_cell(unit)
        level.given_up[cell] += 1

    def _level_and_cell(self, unit: int) -> tuple[UnitMap, tuple[int, ...]]:
        array = self._plan.array_of_unit(unit)
        return self.levels[array], self.levels[array].cell_of(unit - self._plan.first_unit(array))

    def in_flight(self, nbytes: int) -> None:
        """Take in how many bytes of tiles are held or asked for now."""
        self.timeline.note_live(self.seconds, nbytes)
