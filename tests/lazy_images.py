"""Images that are computed chunk by chunk."""

from collections.abc import Callable

import dask.array
import numpy as np


def image_of(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    values = np.random.default_rng(8).integers(0, 60_000, shape)
    if dtype == "bool":
        return values % 3 == 0
    # Labels that float32 cannot hold.
    return (values + (2**24 + 1 if dtype in {"int32", "int64", "uint64"} else 0)).astype(dtype)


def in_odd_chunks(image: np.ndarray) -> dask.array.Array:
    """Chunks that are not regular, nor of the extents of anything in the file."""
    chunks = []
    for extent in image.shape:
        first = min(extent, 1 + extent // 5)
        second = (extent - first) * 2 // 3
        chunks.append(tuple(part for part in (first, second, extent - first - second) if part))
    return dask.array.from_array(image, chunks=tuple(chunks))


def calling(
    function: Callable[[tuple[int, ...]], None], shape: tuple[int, ...], chunks: tuple[int, ...]
) -> dask.array.Array:
    """An image of ones that calls a function for each chunk, with its position, when it is computed."""

    def computed(block: np.ndarray, block_id: tuple[int, ...]) -> np.ndarray:
        function(block_id)
        return block

    ones = dask.array.ones(shape, chunks=chunks, dtype="uint8")
    return ones.map_blocks(computed, meta=np.empty((0,) * len(shape), "uint8"))


def failing(error: BaseException) -> dask.array.Array:
    """An image of several units, of which one of the last chunks cannot be computed."""

    def fail(block_id: tuple[int, ...]) -> None:
        if block_id == (2, 1, 0):
            raise error

    return calling(fail, (4, 800, 800), (1, 420, 420))
