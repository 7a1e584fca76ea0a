"""The group of an output is marked as one of tilewright, and is an image of OME-Zarr wherever its axes allow that.

Windows of display come from the values of the whole image. So they are written when all units of all levels are stored,
and not before; until then named channels have the window of the data type, and others have none. An output with units
that were given up keeps what it has. Channels of bools keep the window 0 to 1 if they have names, and else none; labels
have no windows.
"""

import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import replace
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, ZipStore

from tilewright.errors import DestinationError, GeometryError, OutputInUseError
from tilewright.ome.attributes import SampleAxisError, collection_attributes, image_attributes
from tilewright.ome.multiscales import multiscales_of, ome_attributes
from tilewright.ome.windows import Windows, with_windows
from tilewright.ome.world import World
from tilewright.outputs.inventory import COLLECTION, OWN_ATTRIBUTE, FolderListing
from tilewright.outputs.options import OutputOptions
from tilewright.plan import WritePlan
from tilewright.stores.metadata import MetadataError, Node, read_node
from tilewright.stores.patience import Check, allowed
from tilewright.stores.places import public_name, without_secrets
from tilewright.stores.put import get_object, put_object
from tilewright.stores.zarr_api import unwrapped

LABELS = "labels"
"""Name of the group in an image whose groups are labels of it, and of the attribute that lists them."""
_PASSING = re.compile(r"\.partial$|\.replaced-\d+$")
"""Names of groups that are being written or replaced."""
_WINDOW_OF_FLOATS = 0.0, 1.0
"""Window of a channel of floats, whose values are not known when the output is created."""


def group_attributes(
    plan: WritePlan, options: OutputOptions, provenance: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the attributes of the group of an output, with what has made it.

    Without names of its axes, or with samples in one array, it is no image of OME-Zarr.

    Raises
    ------
    GeometryError
        If other channels are named than the output has, or labels are no whole numbers; if there are physical metadata
        of the user, and nothing that has them.
    """
    if options.is_label and np.dtype(plan.dtype).kind not in "iu":
        raise GeometryError(
            f"labels must be whole numbers, and the output is of {plan.dtype}; give dtype='uint32', say"
        )
    marks: dict[str, Any] = {"arrays": [array.name for array in plan.arrays]}
    if (mapped := options.value_range) is not None:
        marks |= {"value_range": [mapped.lower, mapped.upper], "scale": mapped.scale, "offset": mapped.offset}
    if provenance:
        marks["provenance"] = provenance
    own = {OWN_ATTRIBUTE: marks}
    if plan.is_collection:
        marks["samples"] = plan.shape[0]
        return own | _collection(plan, options)[0]
    if plan.stored_axes is not None and (options.given or options.is_label):
        raise GeometryError(
            f"scale, units and channel_names, and labels of an image, need OME-Zarr, which has no image with the axes "
            f"{plan.stored_axes} of the source; leave out output_axes"
        )
    if options.names_dimensions and "S" not in plan.axes and plan.stored_axes is None:
        return own | _image_attributes(plan, options)
    if options.given and options.names_dimensions:
        raise SampleAxisError(
            f"scale, units and channel_names cannot be stored for the axes {plan.axes} with stored objects of "
            f"{plan.arrays[0].stored_extents}, which hold several samples: OME-Zarr has no axis of samples; choose "
            "chunks and shards of one sample"
        )
    return own


def attributes_of_groups(plan: WritePlan, options: OutputOptions) -> dict[str, dict[str, Any]]:
    """Return the attributes of the groups in a collection of samples by their names, of images that of the first."""
    return {COLLECTION: _collection(plan, options)[1], "0": _image_attributes(plan, options)}


def _collection(plan: WritePlan, options: OutputOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    return collection_attributes(str(options.ome_version), [str(sample) for sample in range(plan.shape[0])])


def _image_attributes(plan: WritePlan, options: OutputOptions) -> dict[str, Any]:
    """Return the attributes of an image, or of each sample in a collection."""
    world = _world(plan, options)
    first = int(plan.is_collection)
    return image_attributes(
        str(options.ome_version),
        plan.axes[first:],
        plan.arrays[0].shape[first:],
        [factors[first:] for factors in level_factors(plan)],
        world,
        paths=[array.name for array in plan.arrays],
        # Viewers choose a window that fits what is stored, unless the metadata have one: see `write_windows`.
        windows=[_window(plan.dtype)] * len(world.channel_names) or None,
        is_label=options.is_label or (plan.reduction == "mode" and plan.dtype != "bool"),
        labelled="../../" if options.is_label and not plan.is_collection else None,
        method=plan.reduction if len(plan.arrays) > 1 else None,
    )


def write_windows(
    store: Store,
    group: str,
    plan: WritePlan,
    options: OutputOptions,
    windows: Sequence[Windows],
    check: Check = allowed,
) -> None:
    """Write the windows of each sample into the attributes of its image, once the output is complete.

    All other attributes stay. A document is put once, and not at all where it has these windows, or in a zip file, of
    which no entry can be replaced.

    Raises
    ------
    DestinationError
        If a document is gone, is no JSON, or cannot be written.
    """
    if isinstance(unwrapped(store), ZipStore):
        return
    first, name = int(plan.is_collection), "zarr.json" if options.zarr_format == 3 else ".zattrs"
    for sample, of_sample in enumerate(windows):
        key = posixpath.join(group, str(sample) if plan.is_collection else "", name)
        _write_windows_of_image(store, key, plan.axes[first:], plan.shape[first:], of_sample, check)


def _write_windows_of_image(
    store: Store, key: str, axes: str, shape: Sequence[int], windows: Windows, check: Check
) -> None:
    try:
        document = json.loads(bytes(get_object(store, key)))
        is_attributes = key.endswith(".zattrs")
        found = document if is_attributes else document.get("attributes", {})
        attributes = with_windows(found, axes, shape, windows)
        if attributes == found:
            return
        document = attributes if is_attributes else {**document, "attributes": attributes}
        put_object(store, key, [json.dumps(document, indent=2).encode()], check=check)
    except OutputInUseError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        raise DestinationError(
            f"all objects are stored, but the windows of the channels could not be written to "
            f"{public_name(store, key)}: {without_secrets(error)}; run again with if_exists='resume'"
        ) from error


def labelled_image(folder: Path) -> Path | None:
    """Return the image of OME-Zarr in whose group of labels a folder lies; None without one."""
    image = folder.parent.parent
    if folder.parent.name != LABELS:
        return None
    node = _node(image)
    return None if node is None or node.is_array or not multiscales_of(node.attributes) else image


def list_labels(labels: Path, options: OutputOptions) -> None:
    """List the images in a group of labels in its attributes; several runs may do so at once."""
    version: Any = options.zarr_format
    while True:
        group = zarr.open_group(LocalStore(labels), mode="a", zarr_format=version)
        said = group.attrs.asdict()
        listed = ome_attributes(said).get(LABELS)
        names = list(listed) if isinstance(listed, list) else []
        nodes = {folder.name: _node(folder) for folder in labels.iterdir() if not _PASSING.search(folder.name)}
        found = {name for name, node in nodes.items() if node and "image-label" in ome_attributes(node.attributes)}
        if found <= set(names):
            return
        # Again afterwards: another run may have replaced these attributes by its own.
        names += sorted(found.difference(names))
        ome: Any = said.get("ome", {})
        is_on_top = options.ome_version == "0.4"
        group.update_attributes(
            {LABELS: names} if is_on_top else {"ome": {"version": options.ome_version, **ome, LABELS: names}}
        )


def _node(folder: Path) -> Node | None:
    try:
        return read_node(FolderListing(folder).read) if folder.is_dir() else None
    except (MetadataError, OSError):
        return None


def level_factors(plan: WritePlan) -> list[tuple[int, ...]]:
    """Return how many elements of the full resolution one element of each array stands for, per axis."""
    factors = [(1,) * len(plan.axes)]
    for array in plan.arrays[1:]:
        factors.append(tuple(map(mul, factors[-1], array.factors)))
    return factors


def _world(plan: WritePlan, options: OutputOptions) -> World:
    """Return the physical metadata of an output: those of its source, and over them those that the user gives."""
    given = options.given.on(plan.axes)
    if given.channel_names and len(given.channel_names) != plan.channels:
        raise GeometryError(
            f"channel_names must be one name for each of the {plan.channels} channels of the output, got "
            f"{given.channel_names}"
        )
    world = options.world.updated(given)
    if len(world.channel_names) != plan.channels:
        # The channels of the source: the model returns others.
        world = replace(world, channel_names=())
    return world


def _window(dtype: str) -> tuple[float, float]:
    known = np.dtype(dtype)
    if known.kind not in "iu":
        return _WINDOW_OF_FLOATS
    limits = np.iinfo(known)
    return int(limits.min), int(limits.max)
