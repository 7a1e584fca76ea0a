"""A unit is written whole: each of its objects is filled from tiles, encoded once, put once; nothing is read back."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
import zarr

from tilewright.assemble import AnyArray, UnitBuffer, UnitParts, UnitTiles
from tilewright.plan import WritePlan
from tilewright.storage.digest import DigestedObject, UnitDigest
from tilewright.storage.encoding import Encoded, ObjectEncoder
from tilewright.storage.lock import LockGuard
from tilewright.storage.objects import Patience, delete_object, put_object
from tilewright.storage.receipts import StageSeconds, UnitReceipt, peak_memory_nbytes

KEPT_NBYTES = 256 * 2**20
"""Memory of finished units that a process keeps for the next ones, at most."""


class _Memory:
    """Pieces of memory of one size, each large enough for any unit, that finished units leave to the next ones."""

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
class UnitWriter:
    """Write the units of one array.

    Parameters
    ----------
    plan : WritePlan
        Which unit has which objects and tiles.
    encoder : ObjectEncoder
        The encoder of the array.
    patience : Patience
        How a store that fails is borne.
    guard : LockGuard, optional
        What tells whether the run still has the right to write.
    """

    plan: WritePlan
    encoder: ObjectEncoder
    patience: Patience = field(default_factory=Patience)
    guard: LockGuard | None = None
    _unit_memory: _Memory = field(init=False, repr=False, compare=False)
    _object_memory: _Memory = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        most_nbytes = min(KEPT_NBYTES, self.plan.peak_live_nbytes)
        stored = self.plan.stored_extents
        largest = (-(-units.largest // extent) * extent for units, extent in zip(self.plan.units, stored, strict=True))
        for name, extents in (("_unit_memory", largest), ("_object_memory", stored)):
            object.__setattr__(self, name, _Memory(prod(extents) * self.plan.itemsize, most_nbytes))

    @property
    def array(self) -> zarr.Array[Any]:
        """The array that is written."""
        return self.encoder.array

    def buffer(self, unit: int) -> UnitBuffer:
        """Return an empty buffer of a unit, to be filled from its tiles."""
        memory = self._unit_memory.take()
        return UnitBuffer(self.plan, unit, self.encoder.part_extents, self.array.fill_value, memory)

    def recycle(self, buffer: UnitBuffer) -> None:
        """Take a buffer back whose unit is written: fresh memory costs as much as copying into it."""
        self._unit_memory.give(buffer.memory)

    def write_tiles(self, unit: int, tiles: Mapping[int, AnyArray]) -> UnitReceipt:
        """Write all objects of a unit from the valid regions of its tiles, which are only read.

        Raises
        ------
        OSError
            As `write`.
        """
        memory = self._object_memory.take()
        receipt = self.write(
            unit, UnitTiles(self.plan, unit, self.encoder.part_extents, self.array.fill_value, tiles, memory)
        )
        self._object_memory.give(memory)
        return receipt

    def write(self, unit: int, unit_parts: UnitParts) -> UnitReceipt:
        """Write all objects of a unit.

        Parameters
        ----------
        unit : int
            Which one.
        unit_parts : UnitParts
            Its parts: a buffer that is filled from all of its tiles, or the tiles.

        Raises
        ------
        OSError
            If an object cannot be stored, or the run has ended meanwhile. The unit may then be written again: each
            object is replaced as a whole.
        """
        seconds = StageSeconds()
        digest = UnitDigest()
        object_count = 0
        for position in self.plan.objects_of_unit(unit):
            encoded: list[Encoded | None] = []
            for position_of_part in self._parts_of(position):
                if not self._is_inside(position_of_part):
                    encoded.append(None)
                    continue
                start = perf_counter()
                part = unit_parts.part(position_of_part)
                assembled = perf_counter()
                encoded.append(self.encoder.encode_part(part))
                seconds.assemble += assembled - start
                seconds.encode += perf_counter() - assembled
            stored = DigestedObject(self.encoder.join(encoded))
            start = perf_counter()
            if self.guard is not None:
                self.guard.check()
            put_object(self.array.store, self.encoder.key(position), stored, self.patience)
            digest.add(stored.digest)
            seconds.put += perf_counter() - start
            object_count += 1
        return UnitReceipt(unit, object_count, digest.nbytes, digest.value, seconds, peak_memory_nbytes())

    def erase(self, unit: int) -> None:
        """Remove all objects of a unit, so that it reads as the fill value."""
        for position in self.plan.objects_of_unit(unit):
            delete_object(self.array.store, self.encoder.key(position), self.patience)

    def _is_inside(self, part: tuple[int, ...]) -> bool:
        """Tell whether a part holds an element of the image: the last shards reach beyond its end."""
        extents = zip(part, self.encoder.part_extents, self.plan.shape, strict=True)
        return all(index * extent < end for index, extent, end in extents)

    def _parts_of(self, position: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Iterate over the positions of the parts of an object, in C order."""
        counts = [
            stored // part for stored, part in zip(self.plan.stored_extents, self.encoder.part_extents, strict=True)
        ]
        return product(
            *(range(index * count, (index + 1) * count) for index, count in zip(position, counts, strict=True))
        )
