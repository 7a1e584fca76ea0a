"""The task graph of one image: stitch its tiles, then write it."""

import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask.array
from dask.delayed import Delayed, delayed

from tilewright.images.lazy_image import is_lazy
from tilewright.images.stitch_lazily import Fetch, stitched_lazily
from tilewright.images.stitching import ImageStitching

WriteFunc = Callable[..., Any]
"""What writes an image: called with ``file_path``, ``img``, and further keywords."""


def image_graph(
    stitching: ImageStitching,
    tiles: Sequence[Any],
    write_func: WriteFunc,
    file_path: Path,
    write_func_kwargs: dict[str, Any],
    fetch: Fetch = list,
) -> Delayed:
    """Return the delayed graph of one image: stitch, then write.

    Parameters
    ----------
    stitching : ImageStitching
        How the tiles are put together.
    tiles : sequence of array or future
        The tiles.
    write_func : callable
        Writes the image. Where it takes a lazy image, that is stitched while it writes.
    file_path : Path
        Where to.
    write_func_kwargs : dict
        Further keywords of the function.
    fetch : callable
        Turns tiles into arrays, for a lazy image.

    Returns
    -------
    dask.delayed.Delayed
        Its value is None.
    """
    write = partial(_write, write_func, file_path, write_func_kwargs)
    name = f"{file_path.stem}-{uuid.uuid4().hex}"
    graph: Delayed
    if is_lazy(write_func):
        # Hidden from the graph: as dependencies of a task, all tiles would be brought to its worker at once.
        write = partial(_write_lazily, write, partial(stitched_lazily, stitching, list(tiles), fetch))
        graph = delayed(write, pure=False)(dask_key_name=f"write-{name}")
    else:
        stitched = delayed(stitching.stitch, pure=False)(list(tiles), dask_key_name=f"stitch-{name}")
        graph = delayed(write, pure=False)(stitched, dask_key_name=f"write-{name}")
    return graph


def _write(write_func: WriteFunc, file_path: Path, write_func_kwargs: dict[str, Any], img: Any) -> None:
    file_path.parent.mkdir(parents=True, exist_ok=True)
    write_func(file_path=file_path, img=img, **write_func_kwargs)


def _write_lazily(write: Callable[[Any], None], make_image: Callable[[], dask.array.Array]) -> None:
    write(make_image())
