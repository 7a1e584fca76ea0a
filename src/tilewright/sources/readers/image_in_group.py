"""Of the arrays of a group one is the image: the one that its metadata name, or the one called 0."""

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
    """The array of an image, at full resolution.

    Parameters
    ----------
    array : zarr.Array
        The array.
    said_axes : str
        The axes that the metadata say; "?" for each that they do not.
    notes : tuple of str
        Which images and arrays there are beside it.
    """

    array: zarr.Array[Any]
    said_axes: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, array: zarr.Array[Any], said_axes: str = "", notes: tuple[str, ...] = ()) -> "ImageArray":
        """Return an array as an image; names of its dimensions are axes."""
        names = array_metadata(array).get("dimension_names") or array.attrs.get("_ARRAY_DIMENSIONS")
        return cls(array, said_axes or known_axes_of_names(names), notes)


def image_of(node: Any, name: str, series: int = 0) -> ImageArray:
    """Return the image in a node: the array itself, or one of a group.

    Parameters
    ----------
    node : zarr.Array or zarr.Group
        The node.
    name : str
        How to name it in messages.
    series : int
        Which of several images of a group.

    Raises
    ------
    SourceError
        If there is no such image.
    """
    if isinstance(node, zarr.Array):
        _check_series(series, 1, name)
        return ImageArray.of(node)
    said: Mapping[str, Any] = _mapping(node.attrs.asdict())
    # Since version 0.5 OME-Zarr has a key for all that it says.
    said = {**said, **_mapping(said.get("ome"))}
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
    note = f"the array '0' of {name} was taken; it holds {len(others)} more, of which each has a path of its own: "
    return ImageArray.of(array, notes=(f"{note}{', '.join(others[:5])}",) if others else ())


def _image_of_series(root: zarr.Group, name: str, series: int) -> ImageArray:
    """Return one of the images that a converter has put into groups of one store."""
    said = _mapping(root.get("OME") and root["OME"].attrs.asdict())
    said = {**said, **_mapping(said.get("ome"))}
    paths = said.get("series")
    if not isinstance(paths, Sequence):
        paths = sorted((key for key in root.group_keys() if key.isdecimal()), key=int)
    _check_series(series, len(paths), name)
    image = image_of(root[str(paths[series])], f"{name}/{paths[series]}")
    note = f"series {series} of the {len(paths)} of {name} was taken; series= takes another one"
    return ImageArray(image.array, image.said_axes, (note, *image.notes) if len(paths) > 1 else image.notes)


def _image_of_multiscale(group: zarr.Group, multiscales: Sequence[Any], name: str, series: int) -> ImageArray:
    """Return the first, and largest, array of an image that is there in several resolutions."""
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
    notes: tuple[str, ...] = ()
    if len(multiscales) > 1:
        notes = (f"image {series} of the {len(multiscales)} of {name} was taken; series= takes another one",)
    return ImageArray.of(array, known_axes_of_names(names), notes)


def _check_series(series: int, count: int, name: str) -> None:
    if series >= count:
        raise SourceError(f"{public_name(name)} holds {count} images, counted from 0: none is {series}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
