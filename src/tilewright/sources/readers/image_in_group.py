"""The image of a Zarr group is the array that its metadata name, or else the array 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zarr

from tilewright.errors import SourceError
from tilewright.sources.readers.said_axes import known_axes_of_names
from tilewright.stores.metadata import array_metadata
from tilewright.stores.places import public_name

_LAYOUT = "bioformats2raw.layout"


@dataclass(frozen=True)
class ImageArray:
    """The full-resolution array of an image, the axes in its metadata, and notes on images that are not read."""

    array: zarr.Array[Any]
    said_axes: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, array: zarr.Array[Any], said_axes: str = "", notes: tuple[str, ...] = ()) -> "ImageArray":
        """Return an array as an image; its dimension names are its axes."""
        names = array_metadata(array).get("dimension_names") or array.attrs.get("_ARRAY_DIMENSIONS")
        return cls(array, said_axes or known_axes_of_names(names), notes)


def image_of(node: Any, name: str, series: int = 0) -> ImageArray:
    """Return the image in a Zarr node: the array itself, or an array of a group; raise SourceError without one."""
    if isinstance(node, zarr.Array):
        _check_series(series, 1, name)
        return ImageArray.of(node)
    said = _metadata_of(node)
    if said.get(_LAYOUT) is not None:
        return _image_of_series(node, name, series)
    multiscales = said.get("multiscales")
    if isinstance(multiscales, Sequence) and not isinstance(multiscales, str) and multiscales:
        return _image_of_multiscale(node, multiscales, name, series)
    _check_series(series, 1, name)
    array = node.get("0")
    if not isinstance(array, zarr.Array):
        raise SourceError(
            f"{name} is a Zarr group whose metadata name no image, with no array '0'; it holds "
            f"{sorted(node.keys())}: give the array itself"
        )
    others = sorted(set(node.array_keys()) - {"0"})
    note = f"the array '0' of {name} is read; {len(others)} more in it can be read by paths of their own: "
    return ImageArray.of(array, notes=(f"{note}{', '.join(others[:5])}",) if others else ())


def series_notes(series: int, count: int, name: object) -> tuple[str, ...]:
    """Return a note on the images of a file or group that are not read; empty if it holds one image."""
    return (f"series {series} of the {count} of {name} is read; series= chooses another one",) if count > 1 else ()


def _image_of_series(root: zarr.Group, name: str, series: int) -> ImageArray:
    """Return one image of a store in the layout of bioformats2raw: a group for each image."""
    group = root.get("OME")
    paths = None if group is None else _metadata_of(group).get("series")
    if not isinstance(paths, Sequence):
        paths = sorted((key for key in root.group_keys() if key.isdecimal()), key=int)
    _check_series(series, len(paths), name)
    image = image_of(root[str(paths[series])], f"{name}/{paths[series]}")
    return ImageArray(image.array, image.said_axes, (*series_notes(series, len(paths), name), *image.notes))


def _image_of_multiscale(group: zarr.Group, multiscales: Sequence[Any], name: str, series: int) -> ImageArray:
    """Return the first array of a multiscale image: the largest one."""
    _check_series(series, len(multiscales), name)
    said = _mapping(multiscales[series])
    datasets = said.get("datasets")
    first = _mapping(datasets[0] if isinstance(datasets, Sequence) and datasets else None).get("path")
    array = group.get(first) if isinstance(first, str) else None
    if not isinstance(array, zarr.Array):
        raise SourceError(
            f"{name} names the array {first!r} as its image, which is not there; it holds {sorted(group.keys())}: give "
            "the array itself"
        )
    axes = said.get("axes")
    names = [axis.get("name") if isinstance(axis, Mapping) else axis for axis in axes] if axes else None
    return ImageArray.of(array, known_axes_of_names(names), series_notes(series, len(multiscales), name))


def _check_series(series: int, count: int, name: str) -> None:
    if series >= count:
        raise SourceError(f"{public_name(name)} holds {count} images, counted from 0: none is {series}")


def _metadata_of(node: Any) -> Mapping[str, Any]:
    """Return the attributes of a node, with those that OME-Zarr puts under "ome" since version 0.5."""
    attributes = _mapping(node.attrs.asdict())
    return {**attributes, **_mapping(attributes.get("ome"))}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
