"""Tiles of one source, read and predicted in batches that depend on the plan alone."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import numpy as np

from tilewright.assemble import AnyArray, crop
from tilewright.conversion import ValueRange, converted
from tilewright.errors import ModelOutputError
from tilewright.identity.models import ModelFacts
from tilewright.ledger.receipts import StageSeconds
from tilewright.model.own_memory import OwnMemory, Turn
from tilewright.model.predictor import Predictor
from tilewright.model.tile_windows import TileWindows
from tilewright.plan import WritePlan
from tilewright.plan.describe import describe_region
from tilewright.sources.source import Source

_COMPANIES_KEPT = 16
"""Units of which the tiles are kept: those that several threads are about."""


class _Spent:
    """What several threads of one process have spent and lost, until a receipt carries it along."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = StageSeconds()
        self._lost_count = 0

    def add(self, seconds: StageSeconds | None = None, lost_count: int = 0) -> None:
        with self._lock:
            self._lost_count += lost_count
            if seconds is not None:
                self._seconds.add(seconds)

    def take(self) -> tuple[StageSeconds, int]:
        with self._lock:
            taken = self._seconds, self._lost_count
            self._seconds, self._lost_count = StageSeconds(), 0
        return taken


class _Company(NamedTuple):
    """The tiles that begin in one unit, and the rank of each among them."""

    tiles: tuple[int, ...]
    rank: dict[int, int]


class _Companies:
    """The tiles that begin in the units that were asked for last."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[WritePlan, _Company]] = OrderedDict()

    def of(self, plan: WritePlan, unit: int) -> _Company:
        known = self._known.get(unit)
        if known is not None and known[0] is plan:
            return known[1]
        tiles = plan.tiles_starting_in(unit)
        company = _Company(tiles, {tile: rank for rank, tile in enumerate(tiles)})
        self._known[unit] = plan, company
        while len(self._known) > _COMPANIES_KEPT:
            # Another thread may have taken the same one away.
            with suppress(KeyError):
                self._known.popitem(last=False)
        return company


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known of a model when it has predicted one tile: what it returns, and what tells it from others."""

    channels: int
    dtype: str
    model: ModelFacts


@dataclass(frozen=True)
class TilePrediction:
    """How the tiles of one source are predicted.

    Parameters
    ----------
    source, predictor
        What gives the windows, and the model.
    batch_size : int
        How many tiles the model sees at once, at most.
    is_converted : bool
        Whether a user has chosen the data type of the output; else it is that of the first prediction.
    value_range : ValueRange, optional
        The values that are mapped onto the data type of the output.
    """

    source: Source
    predictor: Predictor
    batch_size: int
    is_converted: bool = False
    value_range: ValueRange | None = None
    _spent: _Spent = field(default_factory=_Spent, repr=False, compare=False)
    _memory: OwnMemory = field(default_factory=OwnMemory, repr=False, compare=False)
    # By tile, the prediction by which the model was probed, until that tile is asked for.
    _probed: dict[int, AnyArray] = field(default_factory=dict, repr=False, compare=False)
    _companies: _Companies = field(default_factory=_Companies, repr=False, compare=False)
    _windows: TileWindows = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_windows", TileWindows(self.source))

    def __reduce__(self) -> tuple[type["TilePrediction"], tuple[Source, Predictor, int, bool, ValueRange | None]]:
        # What the model has done, and in which memory, is known of the process that it is in.
        return TilePrediction, (self.source, self.predictor, self.batch_size, self.is_converted, self.value_range)

    def batches(self, plan: WritePlan, tiles: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the batches that the model must see for these tiles.

        A tile is always in the same batch, with the other tiles of its unit, or of the unit that it begins in, also
        where these are not needed any more.
        """
        chosen: dict[tuple[int, int], tuple[int, ...]] = {}
        for tile in tiles:
            unit = plan.units_of_tile(tile)[0]
            company = self._companies.of(plan, unit)
            number = company.rank[tile] // self.batch_size
            if (unit, number) not in chosen:
                chosen[unit, number] = company.tiles[number * self.batch_size : (number + 1) * self.batch_size]
        return [chosen[key] for key in sorted(chosen)]

    def predict(self, plan: WritePlan, tiles: Sequence[int]) -> list[AnyArray]:
        """Return the valid regions of one batch of tiles, in the data type of the plan."""
        probed = self._probed.pop(tiles[0], None) if len(tiles) == 1 else None
        if probed is not None:
            return [self._valid(probed[0], plan, tiles[0])]
        start = perf_counter()
        together = self._companies.of(plan, plan.units_of_tile(tiles[0])[0]).tiles
        windows = self._windows.read(plan, tiles, together)
        batch = windows[0][np.newaxis] if len(windows) == 1 else np.stack(windows)
        del windows
        read = perf_counter()
        with self._memory.lock:
            predictions = self.predictor.predict(batch)
            self._spent.add(StageSeconds(read=read - start, model=perf_counter() - read))
            if predictions.shape[1] != plan.channels:
                raise ModelOutputError(
                    f"the model returned {predictions.shape[1]} channels for tiles {tuple(tiles)}, but {plan.channels} "
                    "for the first tile; all tiles must have as many"
                )
            is_left_alone = self._memory.is_left_alone(predictions)
            valid = (self._valid(prediction, plan, tile) for prediction, tile in zip(predictions, tiles, strict=True))
            if not is_left_alone:
                # Before another thread lets the model write to the same memory.
                return [region.copy() for region in valid]
            regions = list(valid)
            self._memory.hold(predictions, regions)
        return regions

    def _valid(self, prediction: AnyArray, plan: WritePlan, tile: int) -> AnyArray:
        """Return the valid region of a prediction, in the data type of the output."""
        region = crop(prediction, plan, tile)
        dtype = np.dtype(plan.dtype)
        if region.dtype == dtype and self.value_range is None:
            return region
        where = f"tile {tile} ({describe_region(plan.axes, plan.valid_region(tile))})"
        region, lost_count = converted(
            region, dtype, is_asked_for=self.is_converted, what=where, value_range=self.value_range
        )
        self._spent.add(lost_count=lost_count)
        return region

    def turn(self) -> Turn:
        """Return the turn of a thread that predicts one batch after the other."""
        return Turn(self._memory.lock)

    def take_spent(self) -> tuple[StageSeconds, int]:
        """Return the seconds that predicting took in this process since the last call, and the elements it lost."""
        return self._spent.take()

    def probe(self, plan: WritePlan, *, for_use: bool = False) -> Probe:
        """Predict the first tile, and return what it says of the model; the output of the plan does not matter.

        With `for_use`, the prediction is kept until the tile is asked for, where the model sees it alone.
        """
        start = perf_counter()
        window = self.read_tile(plan, 0)
        read = perf_counter()
        prediction = self.predictor.predict(window[np.newaxis])
        seconds = StageSeconds(read=read - start, model=perf_counter() - read)
        if for_use and self.batch_size == 1:
            # A copy: the model may write to its memory again.
            self._probed[0] = prediction.copy()
            self._spent.add(seconds)
        return Probe(prediction.shape[1], prediction.dtype.name, self.predictor.facts)

    def read_tile(self, plan: WritePlan, tile: int) -> AnyArray:
        """Return what the model sees of a tile, C(Z)YX."""
        return self.source.read_tile(plan.axes, plan.tilings, plan.tile_position(tile))
