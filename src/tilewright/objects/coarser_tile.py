"""A unit as a tile of the next coarser level: made of its parts while these are stored, or of what is stored."""

import numpy as np

from tilewright.assemble import AnyArray, slices_of
from tilewright.geometry import Region, extents_of, relative_to
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.reduction import Reducer, reduced
from tilewright.plan import WritePlan
from tilewright.stores.patience import Patience, answer_of
from tilewright.stores.places import public_name


class CoarserTile:
    """Tile of the next coarser level, filled part by part.

    Parameters
    ----------
    plan : WritePlan
        The plan.
    unit, tile : int
        Numbers of the unit, and of the tile.
    part_extents : tuple of int
        Extents of a part.
    reducer : Reducer
        Reduction to the next coarser level, which this tile alone uses until it is whole.
    """

    def __init__(self, plan: WritePlan, unit: int, tile: int, part_extents: tuple[int, ...], reducer: Reducer) -> None:
        number = plan.array_of_unit(unit)
        self._factors = plan.arrays[number + 1].factors
        self.reducer = reducer
        self._region = plan.unit_region(unit)
        owned = plan.valid_region(tile)
        self._origin = tuple(start for start, _ in owned)
        cuts = zip(part_extents, self._region, self._factors, strict=True)
        # Where a block of elements may lie in two parts, it is made of the whole unit.
        self._is_cut = any(extent % factor and stop - start > extent for extent, (start, stop), factor in cuts)
        filled = self._region if self._is_cut else owned
        self._elements: AnyArray = np.empty(extents_of(filled), plan.arrays[number].dtype)

    def add(self, region: Region, inside: AnyArray) -> None:
        """Take in a part, as far as the image reaches; a part that comes again replaces the first one."""
        if self._is_cut:
            self._elements[slices_of(relative_to(region, [start for start, _ in self._region]))] = inside
            return
        coarser = [
            (start // factor, -(-stop // factor)) for (start, stop), factor in zip(region, self._factors, strict=True)
        ]
        into = slices_of(relative_to(tuple(coarser), self._origin))
        self.reducer.reduce(inside, self._elements[into])

    @property
    def valid(self) -> AnyArray:
        """The elements of the tile, once each part was added."""
        return self.reducer.reduced(self._elements) if self._is_cut else self._elements


def part_region(position: tuple[int, ...], part_extents: tuple[int, ...], shape: tuple[int, ...]) -> Region:
    """Return the elements of the part at a position on the part grid, as far as the image reaches.

    Examples
    --------
    >>> part_region((0, 1), (4, 4), (3, 6))
    ((0, 3), (4, 6))
    """
    return tuple(
        (index * part, min((index + 1) * part, extent))
        for index, part, extent in zip(position, part_extents, shape, strict=True)
    )


def stored_tile(plan: WritePlan, unit: int, encoder: ObjectEncoder) -> AnyArray:
    """Return a unit that is stored as a tile of the next coarser level.

    Raises
    ------
    FileNotFoundError
        If one of its objects is not there: it would read as the fill value.
    """
    array = encoder.array
    for position in plan.objects_of_unit(unit):
        key = encoder.key(position)
        if not answer_of(array.store, key, array.store.exists(key), Patience().answer_seconds):
            raise FileNotFoundError(f"the object {public_name(array.store)}/{key} is not there any more")
    factors = plan.arrays[plan.array_of_unit(unit) + 1].factors
    return reduced(np.asarray(array[slices_of(plan.unit_region(unit))]), factors, plan.reduction)
