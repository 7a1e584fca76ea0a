"""The arrays of an output are created as planned, and opened only if they still are as planned."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zarr
from zarr.storage import MemoryStore

from tilewright.errors import DestinationError, ResumeError
from tilewright.outputs.compressors import default_compressor
from tilewright.outputs.fingerprint import differences
from tilewright.outputs.inventory import OWN_ATTRIBUTE
from tilewright.outputs.options import OutputOptions
from tilewright.outputs.output import Output
from tilewright.plan import FULL_RESOLUTION, ArrayPlan, WritePlan
from tilewright.stores.metadata import MetadataError, array_metadata, read_node
from tilewright.stores.places import without_secrets
from tilewright.stores.zarr_api import ensure_open

Arrays = tuple[zarr.Array[Any], ...]
"""The arrays of an output, in the order of its plan."""


def template_arrays(plan: WritePlan, options: OutputOptions) -> Arrays:
    """Return empty arrays in memory with the metadata of those of the output."""
    group = zarr.open_group(MemoryStore(), mode="w", zarr_format=_version(options))
    return tuple(_create_in(group, plan, array, options) for array in plan.arrays)


def create_arrays(output: Output, plan: WritePlan, options: OutputOptions) -> Arrays:
    """Create the group and the arrays of an output, and return the arrays, or raise DestinationError."""
    return tuple(_created(output, plan, array, options) for array in plan.arrays)


def _created(output: Output, plan: WritePlan, array: ArrayPlan, options: OutputOptions) -> zarr.Array[Any]:
    try:
        ensure_open(output.store)
        return _create_in(_opened_group(output, options), plan, array, options)
    except OSError as error:
        raise DestinationError(f"the output {output} could not be created: {without_secrets(error)}") from error


def open_arrays(output: Output, plan: WritePlan, options: OutputOptions) -> Arrays:
    """Return the arrays of an earlier run, and create missing ones; raise ResumeError if one is not as planned."""
    existing_group(output, options)
    opened = []
    for array, template in zip(plan.arrays, template_arrays(plan, options), strict=True):
        try:
            found = existing_array(output, array.name)
        except FileNotFoundError:
            found = _created(output, plan, array, options)
        if differing := differences(array_metadata(template), array_metadata(found)):
            raise ResumeError(
                f"the array {output}/{array.name} is not the one that its ledger {output.ledger} is about: "
                f"{'; '.join(differing)}; use if_exists='overwrite' to write it anew"
            )
        opened.append(found)
    return tuple(opened)


def existing_array(output: Output, name: str = FULL_RESOLUTION) -> zarr.Array[Any]:
    """Return an existing array of an output; raise FileNotFoundError without it, ResumeError if it cannot be read."""
    with _readable(output, name):
        mode: Any = "r" if output.store.read_only else "r+"
        return zarr.open_array(output.store, path=output.path_of_array(name), mode=mode)


def existing_group(output: Output, options: OutputOptions | None = None) -> None:
    """Check the group of an output; with options, create a missing one; raises as `existing_array`."""
    with _readable(output):
        if options is None:
            zarr.open_group(output.store, path=output.group, mode="r")
        else:
            _opened_group(output, options)


def _opened_group(output: Output, options: OutputOptions) -> zarr.Group:
    """Open or create the group of an output, with its attributes."""
    own = _own_attributes(options)
    group = zarr.open_group(output.store, path=output.group, mode="a", zarr_format=_version(options), attributes=own)
    if OWN_ATTRIBUTE not in group.attrs:
        # An empty group of another program, or a killed run: in format 2 attributes are a document of their own.
        group.update_attributes(own)
    return group


def _own_attributes(options: OutputOptions) -> dict[str, Any]:
    """Return the attributes of the group, which mark it as an output of tilewright, and say what its numbers mean."""
    own: dict[str, Any] = {"array": FULL_RESOLUTION}
    if (mapped := options.value_range) is not None:
        own |= {"value_range": [mapped.lower, mapped.upper], "scale": mapped.scale, "offset": mapped.offset}
    return {OWN_ATTRIBUTE: own}


@contextmanager
def _readable(output: Output, path: str = "") -> Iterator[None]:
    """Raise ResumeError if zarr or `read_node` cannot read the metadata of a node."""
    try:
        read_node(output.listing.read, path)
        yield
    except (FileNotFoundError, DestinationError):
        raise
    except (MetadataError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        node = f"{output}/{path}" if path else str(output)
        raise ResumeError(
            f"the metadata of {node} cannot be read: {without_secrets(repr(error))}; remove them (zarr.json, "
            "or .zgroup and .zarray), then a run with if_exists='resume' writes them again"
        ) from error


def _create_in(group: zarr.Group, plan: WritePlan, array: ArrayPlan, options: OutputOptions) -> zarr.Array[Any]:
    compressors = options.compressors
    if isinstance(compressors, str) and compressors == "auto":
        compressors = default_compressor(array.dtype, options.zarr_format)
    return group.create_array(
        array.name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=array.chunks,
        shards=array.shards,
        compressors=compressors,
        fill_value=options.fill_value,
        dimension_names=list(plan.axes.lower()) if options.names_dimensions and options.zarr_format == 3 else None,
        chunk_key_encoding={"name": "v2", "separator": "/"} if options.zarr_format == 2 else None,
    )


def _version(options: OutputOptions) -> Any:
    return options.zarr_format
