"""Writer of whole units: each object is filled from tiles, encoded once and put once; nothing is read back."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import prod
from operator import floordiv
from time import perf_counter
from typing import Any

import numpy as np
import zarr

from tilewright.assemble import AnyArray, UnitBuffer, UnitParts, UnitTiles
from tilewright.ledger.receipts import StageSeconds, UnitReceipt, peak_memory_nbytes, process_name
from tilewright.locks.guard import Guard
from tilewright.objects.digest import DigestedObject, UnitDigest
from tilewright.objects.encoding import ObjectEncoder
from tilewright.plan import WritePlan
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


@dataclass(frozen=True)
class _EncodedObject:
    """Object that is assembled and encoded part by part while it is stored; each attempt begins anew."""

    encoder: ObjectEncoder
    unit_parts: UnitParts
    positions: Sequence[tuple[int, ...] | None]
    seconds: StageSeconds

    def __iter__(self) -> Iterator[Encoded]:
        return self.encoder.join(map(self._encoded, self.positions))

    def _encoded(self, position: tuple[int, ...] | None) -> Encoded | None:
        if position is None:
            return None
        start = perf_counter()
        part = self.unit_parts.part(position)
        assembled = perf_counter()
        encoded = self.encoder.encode_part(part)
        self.seconds.assemble += assembled - start
        self.seconds.encode += perf_counter() - assembled
        return encoded


@dataclass(frozen=True)
class UnitWriter:
    """Writer of the units of one array; each attempt checks the guard, if there is one."""

    plan: WritePlan
    encoder: ObjectEncoder
    patience: Patience = field(default_factory=Patience)
    guard: Guard | None = None
    _unit_memory: _Memory = field(init=False, repr=False, compare=False)
    _part_memory: _Memory = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        most_nbytes = min(KEPT_NBYTES, self.plan.peak_live_nbytes)
        stored = self.plan.stored_extents
        largest = (-(-units.largest // extent) * extent for units, extent in zip(self.plan.units, stored, strict=True))
        for name, extents in (("_unit_memory", largest), ("_part_memory", self.encoder.part_extents)):
            object.__setattr__(self, name, _Memory(prod(extents) * self.plan.itemsize, most_nbytes))

    @property
    def array(self) -> zarr.Array[Any]:
        """The array that is written."""
        return self.encoder.array

    def buffer(self, unit: int) -> UnitBuffer:
        """Return an empty buffer for the tiles of a unit."""
        memory = self._unit_memory.take()
        return UnitBuffer(self.plan, unit, self.encoder.part_extents, self.array.fill_value, memory)

    def recycle(self, buffer: UnitBuffer) -> None:
        """Keep the memory of a written unit: fresh memory costs as much as a copy into it."""
        self._unit_memory.give(buffer.memory)

    def write_tiles(self, unit: int, tiles: Mapping[int, AnyArray]) -> UnitReceipt:
        """Write all objects of a unit from the valid regions of its tiles, which are only read; raises as `write`."""
        memory = self._part_memory.take()
        parts = UnitTiles(self.plan, unit, self.encoder.part_extents, self.array.fill_value, tiles, memory)
        receipt = self.write(unit, parts)
        self._part_memory.give(memory)
        return receipt

    def write(self, unit: int, unit_parts: UnitParts) -> UnitReceipt:
        """Write all objects of a unit, from a full buffer or from all of its tiles.

        Raises
        ------
        OSError
            If an object cannot be stored. The unit may be written again: each object is replaced as a whole.
        OutputInUseError
            If the run has lost its lock.
        """
        start = perf_counter()
        seconds = StageSeconds()
        digest = UnitDigest()
        object_count = 0
        for position in self.plan.objects_of_unit(unit):
            positions = [part if self._is_inside(part) else None for part in self._parts_of(position)]
            stored = DigestedObject(_EncodedObject(self.encoder, unit_parts, positions, seconds))
            put_object(self.array.store, self.encoder.key(position), stored, self.patience, self._check)
            digest.add(stored.digest)
            object_count += 1
        seconds.put = perf_counter() - start - seconds.assemble - seconds.encode
        return UnitReceipt(
            unit, object_count, digest.nbytes, digest.value, seconds, peak_memory_nbytes(), process=process_name()
        )

    def erase(self, unit: int) -> None:
        """Remove all objects of a unit, so that it reads as the fill value."""
        for position in self.plan.objects_of_unit(unit):
            delete_object(self.array.store, self.encoder.key(position), self.patience, self._check)

    @property
    def _check(self) -> Check:
        return allowed if self.guard is None else self.guard.check

    @cached_property
    def _part_counts(self) -> tuple[int, ...]:
        """Number of parts of an object on each axis."""
        return tuple(map(floordiv, self.plan.stored_extents, self.encoder.part_extents))

    def _is_inside(self, part: tuple[int, ...]) -> bool:
        """Tell whether a part holds an element of the image: the last shards reach beyond its end."""
        extents = zip(part, self.encoder.part_extents, self.plan.shape, strict=True)
        return all(index * extent < end for index, extent, end in extents)

    def _parts_of(self, position: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Iterate over the positions of the parts of an object, in C order."""
        counts = zip(position, self._part_counts, strict=True)
        return product(*(range(index * count, (index + 1) * count) for index, count in counts))
