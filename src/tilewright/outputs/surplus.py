"""An array holds the objects of its plan and no others, such as those of another grid of chunks."""

import posixpath
import re
from collections.abc import Iterator

from tilewright.objects.encoding import ObjectEncoder
from tilewright.outputs.inventory import FolderListing, Listing, StoreListing
from tilewright.outputs.output import Output
from tilewright.plan import WritePlan
from tilewright.stores.metadata import METADATA_NAMES, array_metadata, array_node
from tilewright.stores.patience import Check
from tilewright.stores.removal import is_partial

_NUMBER = re.compile(r"\d+")


def surplus_objects(output: Output, plan: WritePlan, number: int, encoder: ObjectEncoder) -> Iterator[str]:
    """Iterate over the keys in an array that are not objects of the plan; without hidden files.

    They are relative to the array; of an array for each sample, to the group.
    """
    for path, key in _surplus(output, plan, number, encoder):
        yield f"{path}/{key}" if plan.is_collection else key


def remove_surplus(output: Output, plan: WritePlan, number: int, encoder: ObjectEncoder, check: Check) -> None:
    """Remove objects of another grid of chunks, and partial ones; other files stay."""
    node = array_node(array_metadata(encoder.array))
    if node is None:
        return
    found: dict[str, list[str]] = {}
    for path, key in _surplus(output, plan, number, encoder):
        if node.chunk_pattern.fullmatch(key) or is_partial(key.rpartition("/")[2]):
            found.setdefault(path, []).append(key)
    for path, keys in found.items():
        _listing(output, path).remove(keys, check)


def _surplus(output: Output, plan: WritePlan, number: int, encoder: ObjectEncoder) -> Iterator[tuple[str, str]]:
    """Iterate over the surplus keys of each Zarr array of an array, relative to it, with its path in the group."""
    grid = plan.arrays[number].grid
    for sample, path in enumerate(plan.stored_paths(number)):
        before = [sample] if plan.is_collection else []
        for key in _listing(output, path).keys():  # noqa: SIM118
            name = key.rpartition("/")[2]
            if key in METADATA_NAMES or name.startswith("."):
                continue
            found = [*before, *map(int, _NUMBER.findall(key))]
            position = plan.as_planned(found) if len(found) == len(grid) else ()
            is_inside = bool(position) and all(map(int.__lt__, position, grid))
            if not is_inside or encoder.key(position) != posixpath.join(output.path_of(path), key):
                yield path, key


def _listing(output: Output, path: str) -> Listing:
    if output.folder is not None:
        return FolderListing(output.folder / path)
    return StoreListing(output.store, output.path_of(path))
