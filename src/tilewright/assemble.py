"""Each element of the output comes from exactly one tile, and is copied once."""

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tilewright.geometry import Interval, Region, extents_of, intersection, relative_to
from tilewright.plan import WritePlan

AnyArray = npt.NDArray[np.generic]


def slices_of(region: Region) -> tuple[slice, ...]:
    """Return the slices of a region.

    Examples
    --------
    >>> slices_of(((0, 2), (3, 5)))
    (slice(0, 2, None), slice(3, 5, None))
    """
    return tuple(slice(start, stop) for start, stop in region)


def shared_slices(first: Region, second: Region) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of what two regions share: in the first, and in the second.

    Examples
    --------
    >>> shared_slices(((0, 4),), ((3, 9),))
    ((slice(3, 4, None),), (slice(0, 1, None),))
    """
    shared = intersection(first, second)
    in_first, in_second = (relative_to(shared, [start for start, _ in region]) for region in (first, second))
    return slices_of(in_first), slices_of(in_second)


def paste(target: AnyArray, into: tuple[slice, ...], tile: AnyArray, out_of: tuple[slice, ...]) -> None:
    """Copy a piece of a tile to its place: each piece of each output goes through here."""
    target[into] = tile[out_of]


def crop(tile: AnyArray, plan: WritePlan, index: int, spatial: Region | None = None) -> AnyArray:
    """Return the valid region of a predicted tile, C(Z)YX, as a view on the axes of the output.

    `spatial` is the valid region inside the tile, (Z)YX, if it is known.
    """
    if spatial is None:
        spatial = plan.crop_region(index)[-(tile.ndim - 1) :]
    valid = tile[(slice(None), *slices_of(spatial))]
    return valid.reshape(extents_of(plan.valid_region(index)))


class UnitParts(Protocol):
    """The parts of a unit that are encoded one by one: chunks, or whole stored objects."""

    def part(self, position: tuple[int, ...]) -> AnyArray:
        """Return the contiguous part at a position on the part grid of the output, valid until the next call."""


class UnitTiles:
    """The parts of a unit whose tiles all exist; each part is assembled just before it is encoded.

    Parameters
    ----------
    plan : WritePlan
        Plan of the image.
    unit : int
        Number of the unit.
    part_extents : tuple of int
        Extents of a chunk, or of a whole stored object.
    fill_value : scalar
        Value of elements beyond the end of the image.
    tiles : mapping of int to array
        Valid regions of its tiles.
    memory : array of uint8
        Memory of the size of a part, in bytes.

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
        array = plan.arrays[plan.array_of_unit(unit)]
        self._shape = array.shape
        self._part_extents = part_extents
        self._fill_value = fill_value
        self._tiles = tiles
        self._part = memory.view(array.dtype).reshape(part_extents)
        # For each axis and part, the tiles in it: share of the tile number, slice of the part, slice of the tile.
        self._pieces: list[dict[int, list[tuple[int, slice, slice]]]] = []
        tilings, self._first_tile = plan.tiles_of_array(plan.array_of_unit(unit))
        stride = prod(tiling.count for tiling in tilings)
        for tiling, (start, stop), part in zip(tilings, plan.unit_region(unit), part_extents, strict=True):
            stride //= tiling.count
            pieces: dict[int, list[tuple[int, slice, slice]]] = {}
            for tile in tiling.indices_in(start, stop):
                first, last = tiling.valid(tile)
                shared = _shared_with_parts((max(start, first), min(stop, last)), first, part, 0)
                for index, into, out_of in shared:
                    pieces.setdefault(index, []).append((tile * stride, into, out_of))
            self._pieces.append(pieces)

    def part(self, position: tuple[int, ...]) -> AnyArray:
        """Return the part at a position on the part grid of the output."""
        part: AnyArray = self._part
        if any(
            (index + 1) * extent > end
            for index, extent, end in zip(position, self._part_extents, self._shape, strict=True)
        ):
            part[...] = self._fill_value
        for piece in product(*(pieces[index] for pieces, index in zip(self._pieces, position, strict=True))):
            ranks, into, out_of = zip(*piece, strict=True)
            paste(part, into, self._tiles[self._first_tile + sum(ranks)], out_of)
        return part


class UnitBuffer:
    """The parts of a unit, filled from each tile as soon as it is predicted, so that no tile is kept.

    Parameters
    ----------
    plan, unit, part_extents, fill_value
        As in `UnitTiles`.
    memory : array of uint8, optional
        Memory of at least the size of the unit, in bytes; allocated if not given.

    Attributes
    ----------
    memory : array of uint8
        The memory of the parts.
    parts : array
        The parts: the axes of the part grid, then the axes of a part.

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
        array = plan.arrays[plan.array_of_unit(unit)]
        self._plan = plan
        self._region = plan.unit_region(unit)
        self._part_extents = part_extents
        # Stored objects are encoded whole, also beyond the end of the image.
        covered = tuple(
            (start, -(-stop // stored) * stored)
            for (start, stop), stored in zip(self._region, array.stored_extents, strict=True)
        )
        self._first = tuple(start // part for (start, _), part in zip(covered, part_extents, strict=True))
        counts = tuple(extent // part for extent, part in zip(extents_of(covered), part_extents, strict=True))
        shape = (*counts, *part_extents)
        nbytes = prod(shape) * array.itemsize
        self.memory: AnyArray = np.empty(nbytes, np.uint8) if memory is None else memory
        self.parts: AnyArray = self.memory[:nbytes].view(array.dtype).reshape(shape)
        if covered != self._region:
            self.parts[...] = fill_value

    def place(self, tile: int, valid: AnyArray) -> None:
        """Copy the valid region of a tile, as far as it lies in this unit."""
        owned = self._plan.valid_region(tile)
        piece = intersection(owned, self._region)
        steps = [
            _shared_with_parts(interval, start, part, first)
            for interval, (start, _), part, first in zip(piece, owned, self._part_extents, self._first, strict=True)
        ]
        for step in product(*steps):
            index, into, out_of = zip(*step, strict=True)
            paste(self.parts[index], into, valid, out_of)

    def part(self, position: tuple[int, ...]) -> AnyArray:
        """Return the part at a position on the part grid of the output."""
        part: AnyArray = self.parts[tuple(index - first for index, first in zip(position, self._first, strict=True))]
        return part


def _shared_with_parts(interval: Interval, tile_start: int, part: int, first: int) -> list[tuple[int, slice, slice]]:
    """Return the parts that an interval of one axis meets: index, slice of the part, and slice of the tile."""
    start, stop = interval
    shared = []
    for index in range(start // part, -(-stop // part)):
        begin, end = max(start, index * part), min(stop, (index + 1) * part)
        into = slice(begin - index * part, end - index * part)
        shared.append((index - first, into, slice(begin - tile_start, end - tile_start)))
    return shared
