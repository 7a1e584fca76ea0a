"""Writer of whole units: each object is filled from tiles, encoded once and put once; nothing is read back."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from operator import floordiv, lt
from time import perf_counter
from typing import NamedTuple

import numpy as np

from tilewright.assemble import AnyArray, UnitBuffer, UnitParts, UnitTiles
from tilewright.ledger.receipts import StageSeconds, UnitReceipt, peak_memory_nbytes, process_name
from tilewright.locks.guard import Guard
from tilewright.objects.coarser_tile import CoarserTile, part_region, stored_tile
from tilewright.objects.digest import DigestedObject, UnitDigest
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.extremes import UnitExtremes
from tilewright.objects.reduction import Reducer
from tilewright.plan import ArrayPlan, WritePlan
from tilewright.stores.patience import Check, Patience, allowed
from tilewright.stores.put import put_object
from tilewright.stores.removal import delete_object
from tilewright.stores.zarr_api import Encoded

KEPT_NBYTES = 256 * 2**20
"""Most memory of finished units that a process keeps for the next ones."""


class _Memory:
    """Memory of finished units for the next ones: pieces of one size, each large enough for any unit."""

    def __init__(self, nbytes: int, most_nbytes: int) -> None:
        self._nbytes = nbytes
        self._most_nbytes = most_nbytes
        self._kept: deque[AnyArray] = deque(maxlen=max(1, most_nbytes // nbytes))

    def __reduce__(self) -> tuple[type["_Memory"], tuple[int, int]]:
        return _Memory, (self._nbytes, self._most_nbytes)

    def take(self) -> AnyArray:
        try:
            return self._kept.pop()
        except IndexError:
            return np.empty(self._nbytes, np.uint8)

    def give(self, memory: AnyArray) -> None:
        self._kept.append(memory)


class StoredUnit(NamedTuple):
    """Receipt of a unit that is stored, and the tile of the next coarser level that it is, if there is one."""

    receipt: UnitReceipt
    coarser: AnyArray | None = None


@dataclass(frozen=True)
class _EncodedObject:
    """Object that is assembled and encoded part by part while it is stored; each attempt begins anew.

    What else is made of the parts takes in each one while it is in the cache.
    """

    encoder: ObjectEncoder
    unit_parts: UnitParts
    positions: Sequence[tuple[int, ...] | None]
    seconds: StageSeconds
    shape: tuple[int, ...]
    takers: Sequence[CoarserTile | UnitExtremes]

    def __iter__(self) -> Iterator[Encoded]:
        return self.encoder.join(map(self._encoded, self.positions))

    def _encoded(self, position: tuple[int, ...] | None) -> Encoded | None:
        if position is None:
            return None
        start = perf_counter()
        part = self.unit_parts.part(position)
        if self.takers:
            region = part_region(position, part.shape, self.shape)
            inside = part[tuple([slice(stop - start) for start, stop in region])]
            for taker in self.takers:
                taker.add(region, inside)
        assembled = perf_counter()
        encoded = self.encoder.encode_part(part)
        self.seconds.assemble += assembled - start
        self.seconds.encode += perf_counter() - assembled
        return encoded


@dataclass(frozen=True)
class UnitWriter:
    """Writer of the units of one output; each attempt checks the guard, if there is one.

    There is an encoder for each array of the plan.
    """

    plan: WritePlan
    encoders: tuple[ObjectEncoder, ...]
    patience: Patience = field(default_factory=Patience)
    guard: Guard | None = None
    _unit_memory: tuple[_Memory, ...] = field(init=False, repr=False, compare=False)
    _part_memory: tuple[_Memory, ...] = field(init=False, repr=False, compare=False)
    _reducers: tuple[deque[Reducer], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        most_nbytes = min(KEPT_NBYTES, self.plan.peak_live_nbytes)
        units, parts = [], []
        for array, encoder in zip(self.plan.arrays, self.encoders, strict=True):
            axes = zip(array.units, array.stored_extents, strict=True)
            largest = prod(-(-units.largest // stored) * stored for units, stored in axes)
            units.append(_Memory(largest * array.itemsize, most_nbytes))
            parts.append(_Memory(prod(encoder.part_extents) * array.itemsize, most_nbytes))
        object.__setattr__(self, "_unit_memory", tuple(units))
        object.__setattr__(self, "_part_memory", tuple(parts))
        # With their memory, for the next units.
        object.__setattr__(self, "_reducers", tuple(deque[Reducer]() for _ in self.plan.arrays))

    def buffer(self, unit: int) -> UnitBuffer:
        """Return an empty buffer for the tiles of a unit."""
        number = self.plan.array_of_unit(unit)
        encoder, memory = self.encoders[number], self._unit_memory[number].take()
        return UnitBuffer(self.plan, unit, encoder.part_extents, encoder.array.fill_value, memory)

    def recycle(self, unit: int, buffer: UnitBuffer) -> None:
        """Keep the memory of a written unit: fresh memory costs as much as a copy into it."""
        self._unit_memory[self.plan.array_of_unit(unit)].give(buffer.memory)

    def write_tiles(self, unit: int, tiles: Mapping[int, AnyArray]) -> StoredUnit:
        """Write all objects of a unit from the valid regions of its tiles, which are only read; raises as `write`."""
        number = self.plan.array_of_unit(unit)
        encoder, memory = self.encoders[number], self._part_memory[number].take()
        parts = UnitTiles(self.plan, unit, encoder.part_extents, encoder.array.fill_value, tiles, memory)
        stored = self.write(unit, parts)
        self._part_memory[number].give(memory)
        return stored

    def write(self, unit: int, unit_parts: UnitParts) -> StoredUnit:
        """Write all objects of a unit, from a full buffer or from all of its tiles; raises as `put_object`.

        The unit may be written again: each object is replaced as a whole.
        """
        start = perf_counter()
        seconds = StageSeconds()
        object_count = 0
        number = self.plan.array_of_unit(unit)
        digest = UnitDigest(number)
        array, encoder = self.plan.arrays[number], self.encoders[number]
        tile = self.plan.tile_of_unit(unit)
        coarser = None if tile is None else self._coarser_tile(number, unit, tile)
        extremes = UnitExtremes(self.plan, unit) if number == 0 and self.plan.extremes_nbytes else None
        takers = [taker for taker in (extremes, coarser) if taker is not None]
        for position in self.plan.objects_of_unit(unit):
            positions = list(_parts_of(position, array, encoder.part_extents, self.plan))
            stored = DigestedObject(_EncodedObject(encoder, unit_parts, positions, seconds, array.shape, takers))
            put_object(encoder.array.store, encoder.key(position), stored, self.patience, self._check)
            digest.add(position, stored.digest)
            object_count += 1
        seconds.put = perf_counter() - start - seconds.assemble - seconds.encode
        receipt = UnitReceipt(
            unit,
            object_count,
            digest.nbytes,
            digest.value,
            seconds,
            peak_memory_nbytes(),
            process=process_name(),
            array=number,
            extremes=b"" if extremes is None else extremes.to_bytes(),
        )
        if coarser is None:
            return StoredUnit(receipt)
        valid = coarser.valid
        self._reducers[number].append(coarser.reducer)
        return StoredUnit(receipt, valid)

    def _coarser_tile(self, array: int, unit: int, tile: int) -> CoarserTile:
        """Return a tile of the next coarser level to be filled; its reducer has the memory of an earlier one."""
        try:
            reducer = self._reducers[array].pop()
        except IndexError:
            reducer = Reducer(self.plan.arrays[array + 1].factors, self.plan.reduction)
        return CoarserTile(self.plan, unit, tile, self.encoders[array].part_extents, reducer)

    def stored_tile(self, unit: int) -> AnyArray:
        """Return a unit that is stored as a tile of the next coarser level."""
        return stored_tile(self.plan, unit, self.encoders[self.plan.array_of_unit(unit)])

    def erase(self, unit: int) -> None:
        """Remove all objects of a unit, so that it reads as the fill value."""
        encoder = self.encoders[self.plan.array_of_unit(unit)]
        for position in self.plan.objects_of_unit(unit):
            delete_object(encoder.array.store, encoder.key(position), self.patience, self._check)

    @property
    def _check(self) -> Check:
        return allowed if self.guard is None else self.guard.check


def _parts_of(
    position: tuple[int, ...], array: ArrayPlan, part_extents: tuple[int, ...], plan: WritePlan
) -> Iterator[tuple[int, ...] | None]:
    """Iterate over the positions of the parts of an object; None for a part beyond the end of the image.

    They come in C order of the axes as they are stored.
    """
    counts = zip(position, map(floordiv, array.stored_extents, part_extents), strict=True)
    ends = [-(-extent // part) for extent, part in zip(array.shape, part_extents, strict=True)]
    ranges = [range(index * count, (index + 1) * count) for index, count in counts]
    for stored in product(*(ranges[axis] for axis in plan.axes_as_stored)):
        part = plan.as_planned(stored)
        yield part if all(map(lt, part, ends)) else None
