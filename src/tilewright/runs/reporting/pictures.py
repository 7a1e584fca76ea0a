"""Slices of source and prediction at the size of a page, read with strides from a few stored chunks.

A plane of a large volume lies in too many chunks to be read for a picture: then its middle part is shown, and the whole
plane from the finest level where that costs little. Elements that were not written are transparent, and are in no
histogram: a fill value is no result.
"""

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from tilewright.geometry import Interval, Region
from tilewright.objects.sample_arrays import SampleArrays
from tilewright.objects.stored_array import StoredArray
from tilewright.plan import ArrayPlan, WritePlan
from tilewright.plan.axes import SPATIAL
from tilewright.runs.reporting.history import UnitMap
from tilewright.runs.reporting.markup import image
from tilewright.runs.reporting.png import data_url

LONGEST = 320
"""Pixels of a picture, along its longer side."""
PLANE_NBYTES = 2**25
"""Bytes of decoded chunks that one plane may cost."""
_BINS = 64
_MOST_GIVEN_UP = 2000
Window = dict[str, slice | int]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Readable:
    """An array that can be read without computing it: one of NumPy, in memory or mapped, or one of Zarr.

    Parameters
    ----------
    array : numpy.ndarray or zarr.Array
        The array.
    axes : str
        Its axes.
    """

    array: Any
    axes: str

    @classmethod
    def of(cls, array: Any, axes: str) -> "Readable | None":
        """Return an array to be read; None where it would have to be computed."""
        return cls(array, axes) if isinstance(array, np.ndarray | zarr.Array | SampleArrays) else None

    def cost_nbytes(self, window: Window) -> int:
        """Return the bytes of the chunks that a window touches."""
        chunks = getattr(self.array, "chunks", None) or (*[1] * (self.array.ndim - 1), 1024)
        cost = int(self.array.dtype.itemsize)
        for name, chunk, extent in zip(self.axes, chunks, self.array.shape, strict=True):
            taken = window.get(name, 0)
            touched = 1
            if isinstance(taken, slice):
                touched = -(-(taken.stop - taken.start) // max(chunk, taken.step))
            cost *= touched * min(chunk, extent)
        return cost

    def read(self, window: Window, plane: str) -> npt.NDArray[np.float64]:
        """Return a plane, with its axes in this order; the first channel, and the absolute value of complex numbers."""
        read = np.asarray(self.array[tuple(window.get(name, 0) for name in self.axes)])
        ordered = read if [name for name in self.axes if name in plane] == list(plane) else read.T
        values: npt.NDArray[np.float64] = np.abs(ordered) if np.iscomplexobj(ordered) else ordered.astype(np.float64)
        return values


@dataclass(frozen=True)
class Picture:
    """One plane: its name in words, its values with NaN where there are none, and its proportions."""

    name: str
    values: npt.NDArray[np.float64]
    height: int
    width: int

    @classmethod
    def of(cls, window: Window, plane: str, values: npt.NDArray[np.float64]) -> "Picture":
        """Return the picture of the values in a window."""
        height, width = (window[name].stop - window[name].start for name in plane)  # type: ignore[union-attr]
        return cls(_name(window, plane), values, height, width)

    def html(self, low: float, high: float) -> str:
        """Return the picture, grey from the low to the high value."""
        is_there = np.isfinite(self.values)
        grey = np.where(is_there, (self.values - low) / ((high - low) or 1.0), 0.0)
        pixels = np.stack([np.rint(255 * np.clip(grey, 0, 1)), 255 * is_there], axis=-1).astype(np.uint8)
        if is_there.all():
            pixels = pixels[..., :1]
        return image(data_url(pixels), self.name, self.height, self.width, looks="values")


@dataclass(frozen=True)
class Slices:
    """Planes of one array through one point, and the range of their values.

    Parameters
    ----------
    pictures : list of Picture
        One for two dimensions, three for three.
    """

    pictures: list[Picture]

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """All values that are shown, in one axis."""
        values: npt.NDArray[np.float64] = np.concatenate([picture.values.ravel() for picture in self.pictures])
        return values[np.isfinite(values)]

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value that are shown."""
        values = self.values
        return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)

    def histogram(self) -> tuple[npt.NDArray[np.int64], float, float]:
        """Return how many values lie in each of equal parts of their range, and its ends."""
        low, high = self.range
        counts, _ = np.histogram(self.values, _BINS, (low, high if high > low else low + 1))
        return counts, low, high


@dataclass(frozen=True)
class StoredLevel:
    """What is stored of one level.

    Parameters
    ----------
    axes : str
        Its axes.
    array : ArrayPlan
        Its plan.
    units : UnitMap
        Its units by state.
    given_up : list of Region
        Regions of its units that were given up.
    readable : Readable
        Its array.
    """

    axes: str
    array: ArrayPlan
    units: UnitMap
    given_up: Sequence[Region]
    readable: Readable

    def whole_planes(self) -> list[tuple[str, Window]]:
        """Return the planes through the written point: the axes of each, and its window."""
        extents = dict(zip(self.axes, self.array.shape, strict=True))
        spatial = [name for name in self.axes if name in SPATIAL]
        planes = ["".join(plane) for plane in reversed(list(combinations(spatial, 2)))]
        channel = {"C": 0} if "C" in self.axes else {}
        wholes = {name: _strided(0, extents[name]) for name in spatial}
        return [(plane, {**self.point, **{name: wholes[name] for name in plane}, **channel}) for plane in planes]

    def picture(self, plane: str, window: Window) -> "Picture":
        """Return a plane, without what is not stored."""
        values = self.readable.read(window, plane)
        values[~self._is_written(window, plane)] = np.nan
        return Picture.of(window, plane, values)

    @cached_property
    def point(self) -> dict[str, int]:
        """An element that is written, the middle one where that is; the middle one where nothing is."""
        middle = [extent // 2 for extent in self.array.shape]
        cells = np.argwhere(self.units.is_filled & (self.units.given_up == 0))
        if len(cells):
            distances = np.abs((cells + 0.5) / np.array(self.units.shape) - 0.5).sum(axis=1)
            best = cells[int(distances.argmin())]
            for axis, of_axis in enumerate(self.array.units):
                start, stop = self._elements(axis, int(best[axis]))
                if not start <= middle[axis] < stop:
                    middle[axis] = (start + stop) // 2
                middle[axis] = min(middle[axis], of_axis.extent - 1)
        return dict(zip(self.axes, middle, strict=True))

    def _elements(self, axis: int, cell: int) -> Interval:
        """Return the elements of a cell on one axis."""
        of_axis, factor = self.array.units[axis], self.units.factors[axis]
        return of_axis.span(cell * factor)[0], of_axis.span(min((cell + 1) * factor, of_axis.count) - 1)[1]

    def _is_written(self, window: Window, plane: str) -> Mask:
        """Return which elements of a plane are stored, as exactly as the map of units knows."""
        positions, cells = [], []
        for name, of_axis, factor in zip(self.axes, self.array.units, self.units.factors, strict=True):
            taken = window[name]
            elements = np.arange(taken.start, taken.stop, taken.step) if isinstance(taken, slice) else np.array([taken])
            positions.append(elements)
            cells.append(np.array([of_axis.index_at(int(element)) // factor for element in elements]))
        mask: Mask = self.units.is_filled[np.ix_(*cells)]
        for region in self.given_up[:_MOST_GIVEN_UP]:
            within = zip(positions, region, strict=True)
            mask[np.ix_(*[(start <= elements) & (elements < stop) for elements, (start, stop) in within])] = False
        return mask.reshape([len(taken) for taken, name in zip(positions, self.axes, strict=True) if name in plane])


def stored_levels(
    plan: WritePlan, finest: StoredArray, maps: Sequence[UnitMap], given_up: Iterable[int]
) -> list[StoredLevel]:
    """Return the levels of an output, by its array at full resolution."""
    levels = []
    for number, (array, units) in enumerate(zip(plan.arrays, maps, strict=True)):
        stored = _of_level(finest, array.name) if number else finest
        regions = [plan.unit_region(unit) for unit in given_up if plan.array_of_unit(unit) == number]
        levels.append(StoredLevel(plan.axes, array, units, regions, Readable(stored, plan.stored_axes or plan.axes)))
    return levels


def _of_level(finest: StoredArray, name: str) -> StoredArray:
    """Return the array of another level of an output."""
    if isinstance(finest, SampleArrays):
        other = replace(finest, name=name)
        return replace(other, one=zarr.open_array(finest.store, path=other.path_of(0), mode="r"))
    path = posixpath.join(posixpath.dirname(finest.path), name)
    return zarr.open_array(finest.store, path=path, mode="r")


def orthogonal_slices(level: StoredLevel, source: Readable | None) -> tuple[Slices, Slices | None, bool]:
    """Return the same planes of a level and of the source, and whether these are parts: whole ones cost too much."""
    of_level, of_source, is_part = [], [], False
    for plane, whole in level.whole_planes():
        window = whole
        for readable in filter(None, (level.readable, source)):
            window = _affordable(readable, window, plane, level.point)
        is_part |= window != whole
        of_level.append(level.picture(plane, window))
        if source is not None:
            of_source.append(Picture.of(window, plane, source.read(window, plane)))
    return Slices(of_level), Slices(of_source) if of_source else None, is_part


def whole_slices(levels: Sequence[StoredLevel]) -> tuple[str, Slices] | None:
    """Return the whole planes of the finest level where they cost few bytes, and its name; None where they never do."""
    for level in levels:
        planes = level.whole_planes()
        if all(level.readable.cost_nbytes(window) <= PLANE_NBYTES for _, window in planes):
            return level.array.name, Slices([level.picture(plane, window) for plane, window in planes])
    return None


def _strided(start: int, stop: int) -> slice:
    return slice(start, stop, -(-(stop - start) // LONGEST))


def _affordable(readable: Readable, window: Window, plane: Sequence[str], point: dict[str, int]) -> Window:
    """Return the part of a plane around a point that costs few bytes to read."""
    while readable.cost_nbytes(window) > PLANE_NBYTES:
        intervals = {name: window[name] for name in plane}
        longest = max(plane, key=lambda name: intervals[name].stop - intervals[name].start)  # type: ignore[union-attr]
        taken = intervals[longest]
        if not isinstance(taken, slice) or taken.stop - taken.start < 64:
            break
        length = (taken.stop - taken.start) // 2
        start = min(max(taken.start, point[longest] - length // 2), taken.stop - length)
        window = window | {longest: _strided(start, start + length)}
    return window


def _name(window: Window, plane: Sequence[str]) -> str:
    """Return a plane in words."""
    shown, at = [], []
    for name, taken in window.items():
        if isinstance(taken, slice):
            every = f" in steps of {taken.step}" * (taken.step > 1)
            shown.append(f"{name} {taken.start}:{taken.stop}{every}")
        else:
            at.append(f"{name} {taken}")
    return f"{''.join(plane)} at {', '.join(at)} ({'; '.join(shown)})" if at else f"{'; '.join(shown)}"
