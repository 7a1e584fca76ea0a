"""A unit is written whole: each of its objects is filled from tiles, encoded once, put once; nothing is read back."""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Any

import zarr

from tilewright.assemble import AnyArray, fill
from tilewright.geometry import Region
from tilewright.plan import WritePlan
from tilewright.storage.encoding import ObjectEncoder
from tilewright.storage.objects import put_object
from tilewright.storage.receipts import StageSeconds, UnitReceipt, peak_memory_nbytes


@dataclass(frozen=True)
class UnitWriter:
    """Write the units of one array.

    Parameters
    ----------
    plan : WritePlan
        Which unit has which objects and tiles.
    encoder : ObjectEncoder
        The encoder of the array.
    """

    plan: WritePlan
    encoder: ObjectEncoder

    @property
    def array(self) -> zarr.Array[Any]:
        """The array that is written."""
        return self.encoder.array

    def write(self, unit: int, tiles: Mapping[int, AnyArray]) -> UnitReceipt:
        """Write all objects of a unit.

        Parameters
        ----------
        unit : int
            Which one.
        tiles : mapping of int to array
            The valid regions of the tiles of this unit.

        Raises
        ------
        OSError
            If an object cannot be stored. The unit may then be written again: each object is replaced as a whole.
        """
        seconds = StageSeconds()
        stored_nbytes = object_count = 0
        for position in self.plan.objects_of_unit(unit):
            encoded = []
            for region in self._parts_of(position):
                start = perf_counter()
                part = fill(region, self.plan, tiles, self.array.fill_value)
                filled = perf_counter()
                encoded.append(self.encoder.encode_part(part))
                seconds.assemble += filled - start
                seconds.encode += perf_counter() - filled
            start = perf_counter()
            stored_nbytes += put_object(self.array.store, self.encoder.key(position), self.encoder.join(encoded))
            seconds.put += perf_counter() - start
            object_count += 1
        process = f"{socket.gethostname()}:{os.getpid()}"
        return UnitReceipt(unit, object_count, stored_nbytes, seconds, process, peak_memory_nbytes())

    def _parts_of(self, position: tuple[int, ...]) -> Iterator[Region]:
        """Iterate over the regions that are encoded one by one, in C order."""
        axes = [
            [(start, start + part) for start in range(index * stored, (index + 1) * stored, part)]
            for index, stored, part in zip(position, self.plan.stored_extents, self.encoder.part_extents, strict=True)
        ]
        return product(*axes)
