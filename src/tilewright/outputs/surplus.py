"""An array holds the objects of its plan and no others, such as those of another grid of chunks."""

import posixpath
import re
from collections.abc import Iterator

from tilewright.objects.encoding import ObjectEncoder
from tilewright.outputs.inventory import FolderListing, Listing, StoreListing
from tilewright.outputs.output import FULL_RESOLUTION, Output
from tilewright.plan import WritePlan
from tilewright.stores.metadata import METADATA_NAMES, array_metadata, array_node
from tilewright.stores.patience import Check
from tilewright.stores.removal import is_partial

_NUMBER = re.compile(r"\d+")


def surplus_objects(output: Output, plan: WritePlan, encoder: ObjectEncoder) -> Iterator[str]:
    """Iterate over the keys in the array, relative to it, that are not objects of the plan; without hidden files."""
    grid = [-(-extent // stored) for extent, stored in zip(plan.shape, plan.stored_extents, strict=True)]
    for key in _array_listing(output).keys():  # noqa: SIM118
        name = key.rpartition("/")[2]
        if key in METADATA_NAMES or name.startswith("."):
            continue
        position = tuple(map(int, _NUMBER.findall(key)))
        is_inside = len(position) == len(grid) and all(map(int.__lt__, position, grid))
        if not is_inside or encoder.key(position) != posixpath.join(encoder.array.path, key):
            yield key


def remove_surplus(output: Output, plan: WritePlan, encoder: ObjectEncoder, check: Check) -> None:
    """Remove objects of another grid of chunks, and partial ones; other files stay."""
    node = array_node(array_metadata(encoder.array))
    if node is None:
        return
    keys = [
        key
        for key in surplus_objects(output, plan, encoder)
        if node.chunk_pattern.fullmatch(key) or is_partial(key.rpartition("/")[2])
    ]
    if keys:
        _array_listing(output).remove(keys, check)


def _array_listing(output: Output) -> Listing:
    if output.folder is not None:
        return FolderListing(output.folder / FULL_RESOLUTION)
    return StoreListing(output.store, output.array_path)
