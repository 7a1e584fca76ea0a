"""An array holds the objects of its plan and no other ones: those of another grid of chunks would stay unnoticed."""

import re
from collections.abc import Iterator

from tilewright.objects.encoding import ObjectEncoder
from tilewright.outputs.inventory import FolderListing, StoreListing
from tilewright.outputs.output import FULL_RESOLUTION, Output
from tilewright.plan import WritePlan
from tilewright.stores.metadata import METADATA_NAMES, array_metadata, array_node
from tilewright.stores.patience import Check
from tilewright.stores.removal import delete_object, is_partial, remove_files

_NUMBER = re.compile(r"\d+")


def surplus_objects(output: Output, plan: WritePlan, encoder: ObjectEncoder) -> Iterator[str]:
    """Iterate over the keys, relative to the array, of what lies in the array and is none of its objects.

    Hidden files, which systems leave in folders, are passed over.

    Parameters
    ----------
    output : Output
        The output.
    plan : WritePlan
        Its plan, by which objects are counted.
    encoder : ObjectEncoder
        The encoder of the array, which knows the keys of its objects.
    """
    start = f"{encoder.array.path}/" if encoder.array.path else ""
    grid = [-(-extent // stored) for extent, stored in zip(plan.shape, plan.stored_extents, strict=True)]
    for key in _array_listing(output).keys():  # noqa: SIM118
        name = key.rpartition("/")[2]
        if key in METADATA_NAMES or name.startswith("."):
            continue
        position = tuple(map(int, _NUMBER.findall(key)))
        is_inside = len(position) == len(grid) and all(map(int.__lt__, position, grid))
        if not is_inside or encoder.key(position) != f"{start}{key}":
            yield key


def remove_surplus(output: Output, plan: WritePlan, encoder: ObjectEncoder, check: Check) -> None:
    """Remove objects of another grid of chunks, and half-written ones; what is no object of an array stays."""
    node = array_node(array_metadata(encoder.array))
    if node is None:
        return
    keys = [
        key
        for key in surplus_objects(output, plan, encoder)
        if node.chunk_pattern.fullmatch(key) or is_partial(key.rpartition("/")[2])
    ]
    if not keys:
        return
    listing = _array_listing(output)
    if isinstance(listing, FolderListing):
        remove_files(listing.folder, keys, check)
        return
    for key in keys:
        delete_object(listing.store, listing.full_key(key), check=check)


def _array_listing(output: Output) -> FolderListing | StoreListing:
    if output.folder is not None:
        return FolderListing(output.folder / FULL_RESOLUTION)
    return StoreListing(output.store, output.array_path)
