"""The array of an output is created as planned, and opened only if it still is as planned."""

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
from tilewright.outputs.output import FULL_RESOLUTION, Output
from tilewright.plan import WritePlan
from tilewright.stores.metadata import MetadataError, array_metadata, read_node
from tilewright.stores.places import without_secrets
from tilewright.stores.zarr_api import ensure_open

_OWN_ATTRIBUTES: dict[str, Any] = {OWN_ATTRIBUTE: {"array": FULL_RESOLUTION}}
"""Attributes of the group of an output, which mark it as an output of tilewright."""


def template_array(plan: WritePlan, options: OutputOptions) -> zarr.Array[Any]:
    """Return an empty array in memory with the metadata of the array of the output."""
    group = zarr.open_group(MemoryStore(), mode="w", zarr_format=_version(options))
    return _create_in(group, plan, options)


def create_array(output: Output, plan: WritePlan, options: OutputOptions) -> zarr.Array[Any]:
    """Create the group and the array of an output, and return the array.

    Raises
    ------
    DestinationError
        If that fails.
    """
    try:
        ensure_open(output.store)
        return _create_in(_opened_group(output, options), plan, options)
    except OSError as error:
        raise DestinationError(f"the output {output} could not be created: {without_secrets(error)}") from error


def open_array(output: Output, plan: WritePlan, options: OutputOptions) -> zarr.Array[Any]:
    """Return the array of an earlier run, created now if that run had not created it.

    Raises
    ------
    ResumeError
        If it differs from the planned array.
    """
    existing_group(output, options)
    try:
        array = existing_array(output)
    except FileNotFoundError:
        return create_array(output, plan, options)
    wanted, found = array_metadata(template_array(plan, options)), array_metadata(array)
    if differing := differences(wanted, found):
        raise ResumeError(
            f"the array {output}/{FULL_RESOLUTION} is not the one that its ledger {output.ledger} is about: "
            f"{'; '.join(differing)}; use if_exists='overwrite' to write it anew"
        )
    return array


def existing_array(output: Output) -> zarr.Array[Any]:
    """Return the existing array of an output.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    ResumeError
        If its metadata cannot be read.
    """
    with _readable(output, FULL_RESOLUTION):
        return zarr.open_array(output.store, path=output.array_path, mode="r" if output.store.read_only else "r+")


def existing_group(output: Output, options: OutputOptions | None = None) -> None:
    """Check the group of an output; with options, create a missing one.

    Raises
    ------
    FileNotFoundError
        If it does not exist, and no options are given.
    ResumeError
        If its metadata cannot be read.
    """
    with _readable(output):
        if options is None:
            zarr.open_group(output.store, path=output.group, mode="r")
        else:
            _opened_group(output, options)


def _opened_group(output: Output, options: OutputOptions) -> zarr.Group:
    """Open or create the group of an output, with its attributes."""
    group = zarr.open_group(
        output.store, path=output.group, mode="a", zarr_format=_version(options), attributes=_OWN_ATTRIBUTES
    )
    if OWN_ATTRIBUTE not in group.attrs:
        # An empty group of another program, or a killed run: in format 2 attributes are a document of their own.
        group.update_attributes(_OWN_ATTRIBUTES)
    return group


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


def _create_in(group: zarr.Group, plan: WritePlan, options: OutputOptions) -> zarr.Array[Any]:
    compressors = options.compressors
    if isinstance(compressors, str) and compressors == "auto":
        compressors = default_compressor(plan.dtype, options.zarr_format)
    return group.create_array(
        FULL_RESOLUTION,
        shape=plan.shape,
        dtype=plan.dtype,
        chunks=plan.chunks,
        shards=plan.shards,
        compressors=compressors,
        fill_value=options.fill_value,
        dimension_names=list(plan.axes.lower()) if options.names_dimensions and options.zarr_format == 3 else None,
        chunk_key_encoding={"name": "v2", "separator": "/"} if options.zarr_format == 2 else None,
    )


def _version(options: OutputOptions) -> Any:
    return options.zarr_format
