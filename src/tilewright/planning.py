"""The dry run: a shape, or a source that is opened for its shape alone, becomes a plan."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tilewright.arguments import whole_number, whole_numbers
from tilewright.errors import GeometryError
from tilewright.ome.world import UNKNOWN_WORLD, GivenWorld
from tilewright.plan import ImageAxes, WritePlan
from tilewright.plan import plan_write as plan_shape

if TYPE_CHECKING:
    from tilewright.sources.readers.reader import ReadFunction


def plan_write(
    shape: Any,
    axes: str | None = None,
    tile_size: Sequence[int] | None = None,
    overlap: Sequence[int] | None = None,
    *,
    layout: str = "auto",
    chunks: Sequence[int] | str = "auto",
    shards: Sequence[int] | str | None = None,
    dtype: object = None,
    channels: int | None = None,
    memory_nbytes: int | None = None,
    window_nbytes: int | None = None,
    series: int = 0,
    levels: int | str = "auto",
    scale: Sequence[float] | Mapping[str, float] | None = None,
    labels: bool = False,
    read_source_func: "ReadFunction | None" = None,
    output_axes: str = "STCZYX",
    padding: str = "reflect",
) -> WritePlan:
    """Plan the writing of the tiled prediction of one image: the dry run.

    Parameters
    ----------
    shape : sequence of int, path, or array
        The extents of the source, in its own order; or the source, as in `predict_to_zarr`.
    axes : str, optional
        The axes of the source, letters of ``STCZYX`` in its own order; where not given those of its metadata, as in
        `predict_to_zarr`.
    tile_size, overlap : sequence of int
        One number per spatial axis, in the order (Z)YX.
    layout : {"auto", "compact", "aligned"}
        ``"compact"`` has the fewest tiles; ``"aligned"`` lets no two units share a tile; ``"auto"`` takes
        ``"aligned"`` where that costs at most a tenth more tiles, or where nothing else fits the memory.
    chunks : sequence of int or "auto"
        The extents of a chunk: one number per output axis in the order of the output, or one per spatial axis (Z)YX.
    shards : sequence of int, "auto" or None
        The extents of a shard, whole multiples of those of a chunk.
    dtype : str or NumPy data type, optional
        The data type of the output; float32 is planned for where not given.
    channels : int, optional
        The channels of the output; those of the source where not given.
    memory_nbytes : int, optional
        What the predicted tiles that wait or are in flight may take together, in bytes.
    window_nbytes : int, optional
        Bytes of tiles in flight beyond those that must wait.
    series : int, default=0
        Which image of a source that holds several.
    levels : int or "auto"
        The number of levels of the pyramid, each half of the one below; 1 is full resolution alone. ``"auto"`` halves
        while the plane has more than 256 elements on an axis.
    scale : sequence of float, or mapping of str to float, optional
        The size of an element on each spatial axis, in the order (Z)YX, or by axis letter; where not given that of the
        metadata of the source, or the same on each axis. Z is not halved while its elements are larger than those of
        the plane.
    labels : bool, default=False
        Whether elements are labels, of which coarser levels take the most frequent one, and not the mean.
    read_source_func : callable, optional
        Reader of the path of a source, as in `predict_to_zarr`; called once, for the shape.
    output_axes : {"STCZYX", "source"}
        The order of the axes of the output. ``"source"`` keeps the axes of the source, in one array also where it has
        samples. OME-Zarr needs the other order: unless the axes are the same in both, the array is no image of it, has
        no coarser levels, and no physical metadata.
    padding : {"reflect", "zeros"}
        What a tile has beyond an axis that is shorter than it: the image, reflected on both sides; or zeros behind it,
        as in CAREamics.

    Returns
    -------
    WritePlan
        The plan: print it, and pass it to `predict_to_zarr`.

    Raises
    ------
    GeometryError
        If axes, tiles, chunks or shards do not fit each other. It is a ValueError.
    SourceError
        If the source cannot be opened. It is an OSError.
    MemoryPlanError
        If the plan cannot hold its tiles in ``memory_nbytes``. It is a ValueError.

    Examples
    --------
    >>> plan = plan_write((256, 1024, 1024), "ZYX", (64, 256, 256), (16, 64, 64))
    >>> plan.layout, plan.tile_count, plan.chunks
    ('compact', 125, (48, 96, 192))
    """
    missing = [name for name, value in (("tile_size", tile_size), ("overlap", overlap)) if value is None]
    if missing:
        raise TypeError(f"{', '.join(missing)} must be given")
    world = UNKNOWN_WORLD
    if not _is_shape(shape):
        # Only here: a plan of a shape loads neither Zarr nor Dask.
        from tilewright.sources.opening import open_single_source  # noqa: PLC0415

        source = open_single_source(shape, axes, read_source_func, series)
        shape, axes, world = source.axes.shape, source.axes.names, source.world
        source.close()
    elif whole_number("series", series, 0) or read_source_func is not None:
        raise ValueError(f"series and read_source_func are of a source, and a shape was given: {shape!r:.80}")
    if axes is None:
        raise GeometryError(f"axes must be given, such as 'ZYX', since a shape has none: {shape!r:.80}")
    image = ImageAxes(axes, whole_numbers("shape", shape))
    return plan_shape(
        shape,
        axes,
        tile_size,
        overlap,
        layout=layout,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        channels=channels,
        memory_nbytes=memory_nbytes,
        window_nbytes=window_nbytes,
        levels=levels,
        scale=world.updated(GivenWorld(scale).on(axes)).scale_of(image.spatial),
        labels=labels,
        output_axes=output_axes,
        padding=padding,
    )


def _is_shape(value: Any) -> bool:
    """Return whether a value is meant as extents: a list, a tuple, an array of one axis, or no source at all."""
    if isinstance(value, list | tuple | range | int | float) or value is None:
        return True
    return len(getattr(value, "shape", (0, 0))) < 2
