"""The arrays of an output are created as planned, and opened only if they still are as planned."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import zarr
from zarr.storage import MemoryStore

from tilewright.errors import DestinationError, ResumeError
from tilewright.objects.reordered_array import ReorderedArray
from tilewright.objects.sample_arrays import SampleArrays
from tilewright.objects.stored_array import StoredArray
from tilewright.outputs.compressors import default_compressor
from tilewright.outputs.fingerprint import differences
from tilewright.outputs.group_attributes import attributes_of_groups, group_attributes, list_labels
from tilewright.outputs.inventory import COLLECTION, StoreListing
from tilewright.outputs.options import OutputOptions
from tilewright.outputs.output import Output
from tilewright.plan import WritePlan
from tilewright.stores.metadata import MetadataError, array_metadata, read_node
from tilewright.stores.places import without_secrets
from tilewright.stores.put import put_object
from tilewright.stores.zarr_api import ensure_open

Arrays = tuple[StoredArray, ...]
"""The arrays of an output, in the order of its plan."""


def template_arrays(plan: WritePlan, options: OutputOptions) -> Arrays:
    """Return empty arrays in memory with the metadata of those of the output."""
    attributes, store = group_attributes(plan, options), MemoryStore()
    group = zarr.open_group(store, mode="w", zarr_format=_version(options), attributes=attributes)
    if plan.is_collection:
        for name, of_group in attributes_of_groups(plan, options).items():
            group.create_group(name, attributes=of_group)
    created = [_create_in(group, plan, number, options) for number in range(len(plan.arrays))]
    return tuple(_as_planned(array, "", plan, number) for number, array in enumerate(created))


def create_arrays(
    output: Output, plan: WritePlan, options: OutputOptions, provenance: dict[str, Any] | None = None
) -> Arrays:
    """Create the groups and the arrays of an output, and return the arrays, or raise DestinationError."""
    if plan.is_collection:
        with _creating(output):
            _opened_group(output, plan, options, provenance)
            _add_samples(output, plan, options)
    return tuple(_created(output, plan, number, options, provenance) for number in range(len(plan.arrays)))


def _created(
    output: Output, plan: WritePlan, number: int, options: OutputOptions, provenance: dict[str, Any] | None
) -> StoredArray:
    if plan.is_collection:
        return existing_array(output, plan, number)
    with _creating(output):
        array = _create_in(_opened_group(output, plan, options, provenance), plan, number, options)
        return _as_planned(array, output.group, plan, number)


def open_arrays(
    output: Output, plan: WritePlan, options: OutputOptions, provenance: dict[str, Any] | None = None
) -> Arrays:
    """Return the arrays of an earlier run, and create missing ones; raise ResumeError if one is not as planned."""
    with _readable(output):
        _opened_group(output, plan, options, provenance)
    if plan.is_collection:
        with _creating(output):
            _add_samples(output, plan, options, are_new=False)
    opened = []
    for number, template in enumerate(template_arrays(plan, options)):
        found = None
        for path, differing in metadata_faults(output, plan, number, array_metadata(template)):
            if differing:
                raise ResumeError(
                    f"the array {output}/{path} is not the one that its ledger {output.ledger} is about: "
                    f"{'; '.join(differing)}; use if_exists='overwrite' to write it anew"
                )
            found = _created(output, plan, number, options, provenance)
        opened.append(found or existing_array(output, plan, number))
    return tuple(opened)


def metadata_faults(
    output: Output, plan: WritePlan, number: int, wanted: dict[str, Any]
) -> Iterator[tuple[str, list[str]]]:
    """Iterate over the Zarr arrays of an array whose metadata are missing, or others than those that are wanted.

    Each comes as its path in the group and its differences, of which a missing one has none. There may be millions of
    samples: documents that are byte for byte those of another sample are not parsed.

    Raises
    ------
    ResumeError
        If metadata cannot be read.
    """
    name = "zarr.json" if wanted["zarr_format"] == 3 else ".zarray"
    right: bytes | None = None
    for path in plan.stored_paths(number):
        if right is not None and output.listing.read(f"{path}/{name}") == right:
            continue
        try:
            found = array_at(output, path)
        except FileNotFoundError:
            yield path, []
            continue
        if differing := differences(wanted, array_metadata(found)):
            yield path, differing
        else:
            right = output.listing.read(f"{path}/{name}")


def existing_array(output: Output, plan: WritePlan, number: int = 0) -> StoredArray:
    """Return an existing array of an output; raises as `array_at` where none of its Zarr arrays is there."""
    paths = plan.stored_paths(number)
    for path in paths[:-1]:
        # The metadata of any sample are those of all.
        with suppress(FileNotFoundError):
            return _as_planned(array_at(output, path), output.group, plan, number)
    return _as_planned(array_at(output, paths[-1]), output.group, plan, number)


def array_at(output: Output, path: str) -> zarr.Array[Any]:
    """Return the Zarr array at a path; raise FileNotFoundError without it, ResumeError if it cannot be read."""
    with _readable(output, path):
        mode: Any = "r" if output.store.read_only else "r+"
        return zarr.open_array(output.store, path=output.path_of(path), mode=mode)


def existing_group(output: Output) -> None:
    """Check the group of an output; raises as `array_at`."""
    with _readable(output):
        zarr.open_group(output.store, path=output.group, mode="r")


def _as_planned(array: zarr.Array[Any], group: str, plan: WritePlan, number: int) -> StoredArray:
    if plan.is_collection:
        return SampleArrays(array, group, plan.arrays[number].name, plan.shape[0])
    order = plan.stored_order
    return array if order == tuple(range(len(order))) else ReorderedArray(array, order)


def _add_samples(output: Output, plan: WritePlan, options: OutputOptions, *, are_new: bool = True) -> None:
    """Write the metadata of all samples, or those that are missing: the same documents for each.

    Each is put as bytes: to create millions of arrays would take as long as to predict them.
    """
    templates = StoreListing(template_arrays(plan, options)[0].store, "")
    documents: dict[str, list[tuple[str, bytes]]] = {COLLECTION: [], "0": []}
    for key in templates.keys():  # noqa: SIM118
        folder, _, name = key.partition("/")
        if name:
            documents[folder].append((name, templates.read(key) or b""))
    for folder in (COLLECTION, *map(str, range(plan.shape[0]))):
        if not are_new:
            with _readable(output, folder):
                pass
        for name, document in documents[COLLECTION if folder == COLLECTION else "0"]:
            place = f"{folder}/{name}"
            if are_new or output.listing.read(place) is None:
                put_object(output.store, output.path_of(place), [document])


def _opened_group(
    output: Output, plan: WritePlan, options: OutputOptions, provenance: dict[str, Any] | None
) -> zarr.Group:
    """Open or create the group of an output, with its attributes; those that it has stay as they are."""
    attributes = group_attributes(plan, options, provenance)
    group = zarr.open_group(
        output.store, path=output.group, mode="a", zarr_format=_version(options), attributes=attributes
    )
    missing = {name: value for name, value in attributes.items() if name not in group.attrs}
    if missing:
        # An empty group of another program, or a killed run: in format 2 attributes are a document of their own.
        group.update_attributes(missing)
    if output.is_label and output.folder is not None:
        list_labels(output.folder.parent, options)
    return group


@contextmanager
def _creating(output: Output) -> Iterator[None]:
    """Raise DestinationError where the output cannot be created."""
    try:
        ensure_open(output.store)
        yield
    except ResumeError:
        # What is there cannot be read.
        raise
    except OSError as error:
        raise DestinationError(f"the output {output} could not be created: {without_secrets(error)}") from error


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


def _create_in(group: zarr.Group, plan: WritePlan, number: int, options: OutputOptions) -> zarr.Array[Any]:
    """Create the first of the Zarr arrays of an array."""
    compressors, array = options.compressors, plan.arrays[number]
    if isinstance(compressors, str) and compressors == "auto":
        compressors = default_compressor(array.dtype, options.zarr_format)
    names = [plan.axes[axis].lower() for axis in plan.stored_order]
    return group.create_array(
        plan.stored_paths(number)[0],
        shape=plan.as_stored(array.shape),
        dtype=array.dtype,
        chunks=plan.as_stored(array.chunks),
        shards=None if array.shards is None else plan.as_stored(array.shards),
        compressors=compressors,
        fill_value=options.fill_value,
        dimension_names=names if options.names_dimensions and options.zarr_format == 3 else None,
        chunk_key_encoding={"name": "v2", "separator": "/"} if options.zarr_format == 2 else None,
    )


def _version(options: OutputOptions) -> Any:
    return options.zarr_format
