"""The image of a Zarr group is the finest array that its metadata name, or else the array 0."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import zarr

from tilewright.errors import SourceError
from tilewright.ome.axis_letters import known_axes_of_names
from tilewright.ome.multiscales import Level, Multiscale, multiscales_of, ome_attributes
from tilewright.ome.world import UNKNOWN_WORLD, World
from tilewright.sources.readers.multiscale_around import multiscale_around
from tilewright.stores.metadata import array_metadata
from tilewright.stores.places import public_name

_LAYOUT = "bioformats2raw.layout"


@dataclass(frozen=True)
class ImageArray:
    """The full-resolution array of an image, what its metadata say of it, and notes on images that are not read.

    Axes of a multiscale image are typed: those that a user gives must be the same.
    """

    array: zarr.Array[Any]
    said_axes: str = ""
    notes: tuple[str, ...] = ()
    world: World = UNKNOWN_WORLD
    is_typed: bool = False

    @classmethod
    def of(cls, array: zarr.Array[Any], notes: tuple[str, ...] = ()) -> "ImageArray":
        """Return an array as an image, with the metadata of the group around it, if it is a level of an image there."""
        around = multiscale_around(array)
        return cls._plain(array, notes) if around is None else cls.of_level(array, *around, notes)

    @classmethod
    def of_level(
        cls, array: zarr.Array[Any], image: Multiscale, level: Level, notes: tuple[str, ...] = ()
    ) -> "ImageArray":
        """Return a level of a multiscale image; its dimension names are its axes where the image names none."""
        if len(image.axes) != array.ndim:
            return replace(cls._plain(array, notes), world=level.world)
        return cls(array, image.axes, notes, level.world, is_typed=True)

    @classmethod
    def _plain(cls, array: zarr.Array[Any], notes: tuple[str, ...]) -> "ImageArray":
        names = array_metadata(array).get("dimension_names") or array.attrs.get("_ARRAY_DIMENSIONS")
        return cls(array, known_axes_of_names(names), notes)


def image_of(node: Any, name: str, series: int = 0) -> ImageArray:
    """Return the image in a Zarr node: the array itself, or an array of a group; raise SourceError without one."""
    if isinstance(node, zarr.Array):
        _check_series(series, 1, name)
        return ImageArray.of(node)
    attributes = node.attrs.asdict()
    if ome_attributes(attributes).get(_LAYOUT) is not None:
        return _image_of_series(node, name, series)
    if multiscales := multiscales_of(attributes):
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
    paths = None if group is None else ome_attributes(group.attrs.asdict()).get("series")
    if not isinstance(paths, Sequence):
        paths = sorted((key for key in root.group_keys() if key.isdecimal()), key=int)
    _check_series(series, len(paths), name)
    image = image_of(root[str(paths[series])], f"{name}/{paths[series]}")
    return replace(image, notes=(*series_notes(series, len(paths), name), *image.notes))


def _image_of_multiscale(group: zarr.Group, images: Sequence[Multiscale], name: str, series: int) -> ImageArray:
    """Return the finest array of a multiscale image."""
    _check_series(series, len(images), name)
    image = images[series]
    finest = image.finest
    array = None if finest is None else group.get(finest.path)
    if finest is None or not isinstance(array, zarr.Array):
        path = None if finest is None else finest.path
        raise SourceError(
            f"{name} names the array {path!r} as its image, which is not there; it holds {sorted(group.keys())}: give "
            "the array itself"
        )
    return ImageArray.of_level(array, image, finest, series_notes(series, len(images), name))


def _check_series(series: int, count: int, name: str) -> None:
    if series >= count:
        raise SourceError(f"{public_name(name)} holds {count} images, counted from 0: none is {series}")
