"""Choice of chunks and shards: free chunks divide the step of the tiles, so that tiles end where chunks end.

What was given is kept, and a shard is always a whole number of chunks.
"""

from collections.abc import Sequence
from math import lcm, prod

from tilewright.errors import GeometryError
from tilewright.geometry import AxisTiling
from tilewright.plan.request import Request

CHUNK_NBYTES = 4 * 2**20
"""Chunks chosen here are no larger: quick to fetch for a viewer, few enough for a quota on files."""
SMALL_CHUNK_NBYTES = 2**18
"""A small image has smaller ones, down to this size, so that several threads have something to write."""
CHUNKS_OF_SMALL_IMAGE = 64
"""About as many chunks has an image that is too small for larger ones."""
LARGEST_CHUNK_NBYTES = 2**31 - 1
"""Bytes that Blosc takes at once."""
SHARD_NBYTES = 64 * 2**20
"""Shards chosen here grow to about this size."""
LONG_ENOUGH = 64
"""A chunk chosen here is not made of steps much shorter than this, nor cut into parts much shorter than a third."""

StoredExtents = tuple[tuple[int, ...], tuple[int, ...] | None]
"""Extents of a chunk, and those of a shard where the array is sharded."""


def stored_extents(
    request: Request, tilings: Sequence[AxisTiling], chunks: Sequence[int] | str, shards: Sequence[int] | str | None
) -> StoredExtents:
    """Return the extents that are given or chosen, or raise GeometryError where a chunk does not divide its shard."""
    for name, value in (("chunks", chunks), ("shards", shards)):
        if isinstance(value, str) and value != "auto":
            raise GeometryError(f"{name} must be extents or 'auto', got {value!r}")
    shard = None if shards is None or isinstance(shards, str) else request.per_output_axis("shards", shards)
    if isinstance(chunks, str):
        chunk = _divided(request, _repeating_extents(request, tilings) if shard is None else shard)
    else:
        chunk = request.per_output_axis("chunks", chunks)
    if isinstance(shards, str):
        shard = _grown_shards(request, tilings, chunk)
    _check_nbytes(request, chunk, shard)
    for axis, name in enumerate(request.axes):
        if shard is not None and shard[axis] % chunk[axis] != 0:
            raise GeometryError(
                f"on axis {name} the shard of {shard[axis]} is not a whole multiple of the chunk of {chunk[axis]}; "
                f"the shards are {shard}, the chunks {chunk}: choose shards that the chunks divide"
            )
    return chunk, shard


def _check_nbytes(request: Request, chunk: tuple[int, ...], shard: tuple[int, ...] | None) -> None:
    """Refuse chunks that no codec takes, and shards far beyond the image, which would have to be held as a whole."""
    chunk_nbytes = prod(chunk) * request.itemsize
    if chunk_nbytes > LARGEST_CHUNK_NBYTES:
        raise GeometryError(
            f"chunks of {chunk} are {chunk_nbytes} bytes each, and codecs take at most {LARGEST_CHUNK_NBYTES}; choose "
            "smaller chunks"
        )
    if shard is None:
        return
    shard_nbytes = prod(shard) * request.itemsize
    whole = prod(-(-extent // part) * part for extent, part in zip(request.shape, chunk, strict=True))
    if shard_nbytes > max(LARGEST_CHUNK_NBYTES, whole * request.itemsize):
        raise GeometryError(
            f"shards of {shard} are {shard_nbytes} bytes each, more than the image of {request.shape}; choose shards "
            "that it has several of"
        )


def _repeating_extents(request: Request, tilings: Sequence[AxisTiling]) -> tuple[int, ...]:
    """Return what repeats in the tiling of each axis, or several of it where it is short."""
    extents = []
    for name, tiling in zip(request.axes, tilings, strict=True):
        if name in "ST":
            extents.append(1)
        elif tiling.count == 1:
            extents.append(tiling.extent)
        else:
            repeat = tiling.cells[1]
            steps = 1 if 3 * repeat >= 2 * LONG_ENOUGH else -(-LONG_ENOUGH // repeat)
            extents.append(min(tiling.extent, repeat * steps))
    return tuple(extents)


def _divided(request: Request, extents: tuple[int, ...]) -> tuple[int, ...]:
    """Divide the longest axis by its smallest divisor, again and again, until a chunk is small enough."""
    divided = list(extents)
    share_nbytes = prod(request.shape) * request.itemsize // CHUNKS_OF_SMALL_IMAGE
    largest_nbytes = min(CHUNK_NBYTES, max(SMALL_CHUNK_NBYTES, share_nbytes))
    while prod(divided) * request.itemsize > largest_nbytes:
        smaller = {
            axis: part
            for axis, name in enumerate(request.axes)
            if (part := _next_smaller(divided[axis], exact=extents[axis] < request.shape[axis], name=name))
        }
        if not smaller:
            break
        # Channels first: a viewer that shows one of them does not fetch all.
        longest = max(smaller, key=lambda axis: (request.axes[axis] == "C", divided[axis]))
        divided[longest] = smaller[longest]
    return tuple(divided)


def _next_smaller(extent: int, *, exact: bool, name: str) -> int | None:
    """Return the next smaller part of an extent that is still long enough, or None."""
    shortest = LONG_ENOUGH // 3 if name in "ZYX" else 1
    parts = [extent // divisor for divisor in (2, 3, 5, 7) if extent % divisor == 0]
    if not exact:
        # The chunk spans the whole axis: nothing follows it, so it need not divide anything.
        parts.append(-(-extent // 2))
    return max((part for part in parts if shortest <= part < extent), default=None)


def _grown_shards(request: Request, tilings: Sequence[AxisTiling], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Grow shards from chunks: to whole steps of the tiles first, then to the wanted size, fastest axis first."""
    shards = list(chunks)

    def grow(axis: int, extent: int) -> bool:
        grown_nbytes = prod([*shards[:axis], extent, *shards[axis + 1 :]]) * request.itemsize
        if shards[axis] >= request.shape[axis] or grown_nbytes > SHARD_NBYTES:
            return False
        shards[axis] = extent
        return True

    # Samples are images of their own.
    growing = [axis for axis in reversed(range(len(shards))) if request.axes[axis] != "S"]
    for axis in growing:
        grow(axis, lcm(tilings[axis].step, chunks[axis]))
    for axis in growing:
        while grow(axis, 2 * shards[axis]):
            pass
    return tuple(shards)
