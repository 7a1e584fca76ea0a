"""Small tiles are cut from windows of many of them: a stored object of the source is read once for all of its tiles."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

from tilewright.assemble import AnyArray
from tilewright.errors import FinalError, SourceError
from tilewright.geometry import AxisTiling
from tilewright.plan import WritePlan
from tilewright.plan.axes import SPATIAL
from tilewright.sources.source import Source, padded

SMALL_TILE_NBYTES = 2**18
"""Tiles of fewer bytes are cut from a common window: reading each by itself takes longer than the model does."""
WINDOWS_KEPT = 4
"""Windows that are kept for the next tiles: several threads may be about neighbouring ones."""

Block = tuple[range, ...]
"""The tiles that are cut from one window: on each axis their indices."""


class TileWindows:
    """The tiles of one source, as a model sees them.

    Parameters
    ----------
    source : Source
        The image.
    window_nbytes : int
        Bytes of a window of many tiles, at most.
    """

    def __init__(self, source: Source, window_nbytes: int = 2**24) -> None:
        self._source = source
        self._window_nbytes = window_nbytes
        self._lock = threading.Lock()
        self._windows: OrderedDict[tuple[int, Block], _Window] = OrderedDict()
        self._blocks: _Blocks | None = None

    def read(self, plan: WritePlan, tiles: Sequence[int], together: Sequence[int]) -> list[AnyArray]:
        """Return some tiles, C(Z)YX each, in memory of their own.

        Parameters
        ----------
        plan : WritePlan
            The plan of the image.
        tiles : sequence of int
            Which ones.
        together : sequence of int
            The tiles that are asked for with these, or soon: those that begin in the same unit, in C order.
        """
        positions = list(map(plan.tile_position, tiles))
        if len(together) < 2 or self._tile_nbytes(plan) >= SMALL_TILE_NBYTES:
            return [self._source.read_tile(plan.axes, plan.tilings, position) for position in positions]
        blocks = self._blocks_of(plan, together)
        return [self._cut(plan, blocks.around(position), position) for position in positions]

    def _cut(self, plan: WritePlan, block: Block, position: Sequence[int]) -> AnyArray:
        try:
            window = self._window(plan, block)
        except FinalError:
            raise
        except SourceError:
            # What is damaged costs the tiles that need it, and no others.
            return self._source.read_tile(plan.axes, plan.tilings, position)
        inside: list[slice] = [slice(None)]
        spatial = []
        for name, tiling, indices, index in zip(plan.axes, plan.tilings, block, position, strict=True):
            if name in SPATIAL:
                offset = tiling.read(indices[0])[0]
                start, stop = tiling.read(index)
                inside.append(slice(start - offset, stop - offset))
                spatial.append(tiling)
        return padded(window[tuple(inside)].copy(), spatial)

    def _window(self, plan: WritePlan, block: Block) -> AnyArray:
        """Return the window of a block; of several threads that ask for it, one reads it."""
        key = (id(plan), block)
        with self._lock:
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = _Window(plan)
            self._windows.move_to_end(key)
            while len(self._windows) > WINDOWS_KEPT:
                self._windows.popitem(last=False)
        return window.read_once(lambda: self._source.read_window(_span(plan, block)))

    def _blocks_of(self, plan: WritePlan, together: Sequence[int]) -> "_Blocks":
        """Return how the tiles that begin in one unit are cut from windows."""
        known = self._blocks
        if known is None or known.plan is not plan or known.together is not together:
            first, last = plan.tile_position(together[0]), plan.tile_position(together[-1])
            ranges = tuple(range(start, stop + 1) for start, stop in zip(first, last, strict=True))
            known = self._blocks = _Blocks(plan, together, ranges, *self._divided(plan, ranges))
        return known

    def _divided(self, plan: WritePlan, ranges: Sequence[range]) -> tuple[int, int]:
        """Return the axis along which tiles go to several windows, and how many of them go to one.

        Along the axes before it each window has one tile, along those behind it all: tiles come in C order, so that a
        window is read, used up, and not needed again.
        """
        block = list(ranges)
        for axis, indices in enumerate(ranges):
            block[axis] = indices[:1]
            if plan.axes[axis] in "ST" or self._nbytes(plan, block) > self._window_nbytes:
                continue
            count = len(indices)
            while count > 1:
                block[axis] = indices[:count]
                if self._nbytes(plan, block) <= self._window_nbytes:
                    break
                count = -(-count // 2)
            return axis, count
        return len(ranges) - 1, 1

    def _nbytes(self, plan: WritePlan, block: Sequence[range]) -> int:
        """Return the bytes of a window, of all channels."""
        spans = _span(plan, block).values()
        elements = self._source.axes.channels * prod(stop - start for start, stop in spans)
        return elements * self._source.dtype.itemsize

    def _tile_nbytes(self, plan: WritePlan) -> int:
        extents = prod(tiling.tile for name, tiling in zip(plan.axes, plan.tilings, strict=True) if name in SPATIAL)
        return self._source.axes.channels * extents * self._source.dtype.itemsize


class _Blocks(NamedTuple):
    """How the tiles that come together are cut from windows.

    Parameters
    ----------
    plan : WritePlan
        The plan of the image.
    together : sequence of int
        The tiles.
    ranges : sequence of range
        Their indices on each axis.
    axis, group : int
        Along which axis they go to several windows, so many to each.
    """

    plan: WritePlan
    together: Sequence[int]
    ranges: Sequence[range]
    axis: int
    group: int

    def around(self, position: Sequence[int]) -> Block:
        """Return the tiles that are cut from the same window as the one at a position."""
        block = list(self.ranges)
        for axis in range(self.axis):
            block[axis] = range(position[axis], position[axis] + 1)
        indices, index = block[self.axis], position[self.axis]
        start = indices.start + (index - indices.start) // self.group * self.group
        block[self.axis] = range(start, min(start + self.group, indices.stop))
        return tuple(block)


class _Window:
    """A window that one of several threads reads."""

    def __init__(self, plan: WritePlan) -> None:
        # Kept, so that no other plan gets its number.
        self.plan = plan
        self._lock = threading.Lock()
        self._array: AnyArray | None = None

    def read_once(self, read: Callable[[], AnyArray]) -> AnyArray:
        with self._lock:
            if self._array is None:
                self._array = read()
            return self._array


def _span(plan: WritePlan, block: Sequence[range]) -> dict[str, tuple[int, int]]:
    """Return what the tiles of a block read of each axis, but for channels, of which all are read."""
    named: zip[tuple[str, AxisTiling, range]] = zip(plan.axes, plan.tilings, block, strict=True)
    return {
        name: (tiling.read(indices[0])[0], tiling.read(indices[-1])[1])
        for name, tiling, indices in named
        if name != "C"
    }
