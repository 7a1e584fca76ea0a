"""A region of the output is filled from the tiles that own it, each element from exactly one, in one copy."""

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tilewright.geometry import Interval, Region, extents_of, intersection
from tilewright.plan import WritePlan

AnyArray = npt.NDArray[np.generic]


def slices_of(region: Region) -> tuple[slice, ...]:
    """Return a region as slices.

    Examples
    --------
    >>> slices_of(((0, 2), (3, 5)))
    (slice(0, 2, None), slice(3, 5, None))
    """
    return tuple(slice(start, stop) for start, stop in region)


def crop(tile: AnyArray, plan: WritePlan, index: int, spatial: Region | None = None) -> AnyArray:
    """Return the valid region of a predicted tile, on the axes of the output: a view of the tile.

    Parameters
    ----------
    tile : array
        The prediction of one whole tile, C(Z)YX.
    plan : WritePlan
        The plan of the image.
    index : int
        Which tile it is.
    spatial : Region, optional
        Where its valid region lies in it, (Z)YX, if that is known.
    """
    if spatial is None:
        spatial = plan.crop_region(index)[-(tile.ndim - 1) :]
    valid = tile[(slice(None), *slices_of(spatial))]
    return valid.reshape(extents_of(plan.valid_region(index)))


class UnitParts(Protocol):
    """The parts that a unit is encoded in: chunks, or whole stored objects."""

    def part(self, position: tuple[int, ...]) -> AnyArray:
        """Return the part at this position on the grid of parts of the whole output, contiguous.

        It stays as it is until the next part is asked for.
        """


class UnitTiles:
    """The parts of a unit whose tiles are all there: each is put together when it is asked for, while it is in a cache.

    Parameters
    ----------
    plan : WritePlan
        The plan of the image.
    unit : int
        Which unit.
    part_extents : tuple of int
        What is encoded at once: a chunk, or a whole stored object.
    fill_value : scalar
        What stands behind the end of the image.
    tiles : mapping of int to array
        The valid regions of its tiles.
    memory : array of uint8
        Memory to use, of the size of a part.

    Examples
    --------
    >>> from tilewright.plan import plan_write
    >>> plan = plan_write((4, 6), "YX", (4, 6), (0, 0), chunks=(4, 4), dtype="uint8")
    >>> tiles = UnitTiles(plan, 0, (4, 4), 0, {0: np.ones((4, 6), "uint8")}, np.empty(16, "uint8"))
    >>> tiles.part((0, 1))[0].tolist()
    [1, 1, 0, 0]
    """

    def __init__(
        self,
        plan: WritePlan,
        unit: int,
        part_extents: tuple[int, ...],
        fill_value: Any,
        tiles: Mapping[int, AnyArray],
        memory: AnyArray,
    ) -> None:
        self._shape = plan.shape
        self._part_extents = part_extents
        self._fill_value = fill_value
        self._tiles = tiles
        self._part = memory.view(plan.dtype).reshape(part_extents)
        # On each axis, of which tiles each part is put together: a share of the rank of the tile, where to, where from.
        self._pieces: list[dict[int, list[tuple[int, slice, slice]]]] = []
        stride = plan.tile_count
        for tiling, (start, stop), part in zip(plan.tilings, plan.unit_region(unit), part_extents, strict=True):
            stride //= tiling.count
            pieces: dict[int, list[tuple[int, slice, slice]]] = {}
            for tile in tiling.indices_in(start, stop):
                first, last = tiling.valid(tile)
                shared = _shared_with_parts((max(start, first), min(stop, last)), first, part, 0)
                for index, into, out_of in shared:
                    pieces.setdefault(index, []).append((tile * stride, into, out_of))
            self._pieces.append(pieces)

    def part(self, position: tuple[int, ...]) -> AnyArray:
        """Return the part at this position on the grid of parts of the whole output."""
        part: AnyArray = self._part
        if any(
            (index + 1) * extent > end
            for index, extent, end in zip(position, self._part_extents, self._shape, strict=True)
        ):
            part[...] = self._fill_value
        for piece in product(*(pieces[index] for pieces, index in zip(self._pieces, position, strict=True))):
            ranks, into, out_of = zip(*piece, strict=True)
            part[into] = self._tiles[sum(ranks)][out_of]
        return part


class UnitBuffer:
    """The parts of a unit, filled from tiles as they come, which need not be kept.

    A piece of a tile is copied once, from where the model left it to where the encoder takes it.

    Parameters
    ----------
    plan : WritePlan
        The plan of the image.
    unit : int
        Which unit.
    part_extents : tuple of int
        What is encoded at once: a chunk, or a whole stored object.
    fill_value : scalar
        What stands behind the end of the image.
    memory : array of uint8, optional
        Memory to use, of at least the size of the unit; else it is allocated.

    Attributes
    ----------
    memory : array of uint8
        The memory that is used.
    parts : array
        One axis of parts per axis of the output, then the axes of a part.

    Examples
    --------
    >>> from tilewright.plan import plan_write
    >>> plan = plan_write((4, 6), "YX", (4, 6), (0, 0), chunks=(4, 4), dtype="uint8")
    >>> buffer = UnitBuffer(plan, unit=0, part_extents=(4, 4), fill_value=0)
    >>> buffer.place(0, np.ones((4, 6), "uint8"))
    >>> buffer.parts.shape, buffer.parts[0, 1, 0].tolist()
    ((1, 2, 4, 4), [1, 1, 0, 0])
    """

    def __init__(
        self,
        plan: WritePlan,
        unit: int,
        part_extents: tuple[int, ...],
        fill_value: Any,
        memory: AnyArray | None = None,
    ) -> None:
        self._plan = plan
        self._region = plan.unit_region(unit)
        self._part_extents = part_extents
        # Whole stored objects, also where they reach beyond the image.
        covered = tuple(
            (start, -(-stop // stored) * stored)
            for (start, stop), stored in zip(self._region, plan.stored_extents, strict=True)
        )
        self._first = tuple(start // part for (start, _), part in zip(covered, part_extents, strict=True))
        counts = tuple(extent // part for extent, part in zip(extents_of(covered), part_extents, strict=True))
        shape = (*counts, *part_extents)
        nbytes = prod(shape) * plan.itemsize
        self.memory: AnyArray = np.empty(nbytes, np.uint8) if memory is None else memory
        self.parts: AnyArray = self.memory[:nbytes].view(plan.dtype).reshape(shape)
        if covered != self._region:
            self.parts[...] = fill_value

    def place(self, tile: int, valid: AnyArray) -> None:
        """Copy what a tile has in this unit.

        Parameters
        ----------
        tile : int
            Which tile.
        valid : array
            Its valid region.
        """
        owned = self._plan.valid_region(tile)
        piece = intersection(owned, self._region)
        steps = [
            _shared_with_parts(interval, start, part, first)
            for interval, (start, _), part, first in zip(piece, owned, self._part_extents, self._first, strict=True)
        ]
        for step in product(*steps):
            index, into, out_of = zip(*step, strict=True)
            self.parts[index][into] = valid[out_of]

    def part(self, position: tuple[int, ...]) -> AnyArray:
        """Return the part at this position on the grid of parts of the whole output."""
        part: AnyArray = self.parts[tuple(index - first for index, first in zip(position, self._first, strict=True))]
        return part


def _shared_with_parts(interval: Interval, tile_start: int, part: int, first: int) -> list[tuple[int, slice, slice]]:
    """Return, for each part that an interval of one axis meets: its index, where in it, and where in the tile."""
    start, stop = interval
    shared = []
    for index in range(start // part, -(-stop // part)):
        begin, end = max(start, index * part), min(stop, (index + 1) * part)
        into = slice(begin - index * part, end - index * part)
        shared.append((index - first, into, slice(begin - tile_start, end - tile_start)))
    return shared
