"""An image in Zarr appears whole, under its own name, or not at all, and each object of it is written once, whole."""

import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import zarr
from zarr.errors import ContainsGroupError

from tilewright.assemble import AnyArray, slices_of
from tilewright.errors import DestinationExistsError, GeometryError
from tilewright.geometry import AxisTiling, Region
from tilewright.images.lazy_image import LazyImage, takes_lazy_image
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.extremes import ImageExtremes
from tilewright.objects.unit_writer import UnitWriter
from tilewright.ome.world import UNKNOWN_WORLD, GivenWorld
from tilewright.outputs.arrays import create_arrays
from tilewright.outputs.group_attributes import list_labels, write_windows
from tilewright.outputs.options import OutputOptions, checked_path
from tilewright.outputs.output import Output
from tilewright.plan import WritePlan, plan_for_tilings
from tilewright.plan.axes import ORDER, is_in_order
from tilewright.plan.choice.stored import SMALL_CHUNK_NBYTES
from tilewright.provenance.call import Call
from tilewright.provenance.document import Origin
from tilewright.sources.readers.reader import unmasked
from tilewright.stores.metadata import is_zarr
from tilewright.stores.patience import naming
from tilewright.stores.removal import being_written, move, remove_abandoned, remove_partial

_PLANNED_AS = {2: "YX", 3: "CYX", 4: "CZYX", 5: "SCZYX"}
"""As what an image is planned that does not say its axes."""


@takes_lazy_image
def write_zarr(
    file_path: str | os.PathLike[str],
    img: AnyArray | dask.array.Array,
    *,
    axes: str | None = None,
    chunks: Sequence[int] | str = "auto",
    shards: Sequence[int] | str | None = None,
    compressors: Any = "auto",
    fill_value: Any = 0,
    zarr_format: int = 3,
    scale: Sequence[float] | Mapping[str, float] | None = None,
    units: str | Mapping[str, str] | None = None,
    channel_names: Sequence[str] | None = None,
    ome_version: str | None = None,
) -> None:
    """Write an image to a Zarr group, as its array ``0``, which appears under its name when it is complete.

    An earlier output of this function that has that name is then replaced, and nothing else is. Where the folder around
    it ends in ``.zarr``, it becomes a group too. A dask array is computed in the calling thread, some chunks at a time;
    one that lies in several write units is computed for each.

    Parameters
    ----------
    file_path : path
        Where to. Missing folders are made.
    img : array
        The image, C(Z)YX or SC(Z)YX, of NumPy or Dask.
    axes : str, optional
        Its axes, letters of ``STCZYX`` in that order, which are stored as the names of the dimensions. With these, the
        group is an image of OME-Zarr, with the window of each channel; with S a collection of images, one for each
        sample, as in `predict_to_zarr`.
    chunks, shards
        As in `plan_write`.
    compressors, fill_value, zarr_format
        As in `predict_to_zarr`.
    scale, units, channel_names, ome_version
        As in `predict_to_zarr`; they need ``axes``.

    Raises
    ------
    ValueError
        If the image cannot be stored in this way.
    OSError
        If something has that name that is no output of tilewright, or it cannot be written; the error names it.
    """
    origin = Origin(Call.of(write_zarr, locals()))
    path = checked_path(file_path).absolute()
    image = img if isinstance(img, dask.array.Array) else np.asarray(unmasked(img))
    options = OutputOptions(
        compressors,
        fill_value,
        zarr_format,
        "overwrite",
        names_dimensions=axes is not None,
        given=GivenWorld(scale, units, channel_names),
        ome_version=ome_version,
    )
    output = Output.at(file_path)
    output.check(options)
    if not output.listing.is_empty:
        # Also a group that holds nothing.
        output.check_replaceable(options)
    options.check_shards(shards)
    _check_group_around(path, zarr_format)
    lazy = LazyImage(image) if isinstance(image, dask.array.Array) else None
    plan = _plan(path, image, axes, chunks, shards)
    if options.given and axes is None:
        raise GeometryError(f"scale, units and channel_names of {path} are stored for named axes: give axes= too")
    options = options.for_image(plan.axes, UNKNOWN_WORLD, is_label=output.is_label)
    options.check_dtype(plan.dtype)
    output.check_space(options, plan.output_nbytes)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with being_written(partial, path, is_folder=True):
        with naming(path):
            provenance = origin.of_image(f"an array {plan.axes} of the shape {plan.shape}")
            arrays = create_arrays(Output.at(partial), plan, options, provenance)
        writer = UnitWriter(plan, tuple(map(ObjectEncoder, arrays)))
        read = (lambda region: image[slices_of(region)]) if lazy is None else lazy.read
        windows = _write_units(path, writer, read).windows()
        with naming(path):
            write_windows(arrays[0].store, "", plan, options, windows)
            if path.parent.suffix == ".zarr" and not is_zarr(path.parent):
                # Another process may do so in this moment, and writes the same.
                with suppress(ContainsGroupError):
                    zarr.create_group(path.parent, zarr_format=arrays[0].metadata.zarr_format)
            output.check(options)
            _rename(partial, path)
            remove_abandoned(path)
            if output.is_label:
                list_labels(path.parent, options)


def _plan(
    path: Path,
    image: AnyArray | dask.array.Array,
    axes: str | None,
    chunks: Sequence[int] | str,
    shards: Sequence[int] | str | None,
) -> WritePlan:
    """Plan the image as if its dask chunks were tiles that were predicted."""
    if axes is not None and (not isinstance(axes, str) or not is_in_order(axes)):
        raise GeometryError(f"axes must be letters of {ORDER!r} in that order, each once, got {axes!r:.80}")
    names = axes or _PLANNED_AS.get(image.ndim, "")
    if len(names) != image.ndim or 0 in image.shape:
        raise GeometryError(
            f"the image for {path} must be (S)C(Z)YX, without an empty axis, and have the axes that are named; got the "
            f"shape {image.shape} and axes={axes!r}"
        )
    held_at_once = tuple(map(int, image.chunksize if isinstance(image, dask.array.Array) else image.shape))
    if isinstance(chunks, str) and shards is None and prod(held_at_once) * image.dtype.itemsize >= SMALL_CHUNK_NBYTES:
        # Parts of a dask chunk, so that none lies in many units.
        one = [AxisTiling(extent, extent, 0) for extent in held_at_once]
        chunks = plan_for_tilings(names, image.dtype, one, chunks=chunks).chunks
    tilings = [AxisTiling(extent, tile, 0) for extent, tile in zip(image.shape, held_at_once, strict=True)]
    plan = plan_for_tilings(names, image.dtype, tilings, chunks=chunks, shards=shards)
    # Without names of its axes, the image is one array.
    return plan if axes is not None else replace(plan, is_collection=False)


def _write_units(path: Path, writer: UnitWriter, read: Callable[[Region], AnyArray]) -> ImageExtremes:
    plan = writer.plan
    extremes = ImageExtremes(plan)
    # The last one is kept: the next unit may lie in it too.
    held = -1
    values: AnyArray = np.empty(0)
    for unit in range(plan.unit_count):
        buffer = writer.buffer(unit)
        for tile in plan.tiles_of_unit(unit):
            if tile != held:
                held, values = tile, read(plan.valid_region(tile))
            buffer.place(tile, values)
        with naming(path):
            receipt = writer.write(unit, buffer).receipt
        extremes.add(unit, receipt.extremes)
        writer.recycle(unit, buffer)
    return extremes


def _check_group_around(path: Path, zarr_format: int) -> None:
    """Raise DestinationExistsError where the folder around it is Zarr, but nothing that a group can be added to."""
    folder = path.parent
    if folder.suffix != ".zarr" or not is_zarr(folder):
        return
    name = "zarr.json" if zarr_format == 3 else ".zgroup"
    metadata = folder / name
    if not metadata.is_file() or (zarr_format == 3 and json.loads(metadata.read_text())["node_type"] != "group"):
        raise DestinationExistsError(
            f"{path} cannot be a Zarr group of format {zarr_format}, because {folder} is none; choose another folder"
        )


def _rename(partial: Path, path: Path) -> None:
    """Give a folder its name, and remove the one that had it; if that fails, that one has it again."""
    if not path.exists():
        move(partial, path)
        return
    old = path.with_name(f"{path.name}.{uuid.uuid4().hex}.old.partial")
    move(path, old)
    try:
        move(partial, path)
    except BaseException:
        move(old, path)
        raise
    remove_partial(old)
