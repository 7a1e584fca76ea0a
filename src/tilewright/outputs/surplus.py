"""An array holds the objects of its plan and no others, such as those of another grid of chunks."""

import posixpath
import re
from collections.abc import Iterator

from tilewright.objects.encoding import ObjectEncoder
from tilewright.outputs.inventory import FolderListing, Listing, StoreListing
from tilewright.outputs.output import Output
from tilewright.plan import ArrayPlan
from tilewright.stores.metadata import METADATA_NAMES, array_metadata, array_node
from tilewright.stores.patience import Check
from tilewright.stores.removal import is_partial

_NUMBER = re.compile(r"\d+")


def surplus_objects(output: Output, array: ArrayPlan, encoder: ObjectEncoder) -> Iterator[str]:
    """Iterate over the keys in an array, relative to it, that are not objects of the plan; without hidden files."""
    for key in _array_listing(output, array).keys():  # noqa: SIM118
        name = key.rpartition("/")[2]
        if key in METADATA_NAMES or name.startswith("."):
            continue
        position = tuple(map(int, _NUMBER.findall(key)))
        is_inside = len(position) == len(array.grid) and all(map(int.__lt__, position, array.grid))
        if not is_inside or encoder.key(position) != posixpath.join(encoder.array.path, key):
            yield key


def remove_surplus(output: Output, array: ArrayPlan, encoder: ObjectEncoder, check: Check) -> None:
    """Remove objects of another grid of chunks, and partial ones; other files stay."""
    node = array_node(array_metadata(encoder.array))
    if node is None:
        return
    keys = [
        key
        for key in surplus_objects(output, array, encoder)
        if node.chunk_pattern.fullmatch(key) or is_partial(key.rpartition("/")[2])
    ]
    if keys:
        _array_listing(output, array).remove(keys, check)


def _array_listing(output: Output, array: ArrayPlan) -> Listing:
    if output.folder is not None:
        return FolderListing(output.folder / array.name)
    return StoreListing(output.store, output.path_of_array(array.name))
