"""Physical metadata of TIFF files, as OME-XML and ImageJ write them; what they do not say is left out."""

from collections.abc import Mapping
from math import isfinite
from typing import Any
from xml.etree import ElementTree as ET

from tilewright.ome.axis_letters import PHYSICAL
from tilewright.ome.units import unit_name
from tilewright.ome.world import UNKNOWN_WORLD, World

_OME_NAMES = {"T": "TimeIncrement", "Z": "PhysicalSizeZ", "Y": "PhysicalSizeY", "X": "PhysicalSizeX"}


def world_of_ome_xml(text: str, series: int, count: int) -> World:
    """Return the world of one of the images of a file, which holds so many.

    Examples
    --------
    >>> text = '<OME><Image><Pixels PhysicalSizeX="0.5" PhysicalSizeZ="500" PhysicalSizeZUnit="nm"/></Image></OME>'
    >>> world_of_ome_xml(text, 0, 1).units
    {'Z': 'nanometer', 'X': 'micrometer'}
    """
    try:
        root = ET.fromstring(text)
    except ET.ParseError:
        return UNKNOWN_WORLD
    images = [element for element in root.iter() if _tag(element) == "Pixels"]
    if len(images) != count:
        # Files of which not all images are there.
        return UNKNOWN_WORLD
    said = images[series].attrib
    scale = {axis: value for axis, name in _OME_NAMES.items() if (value := _positive(said.get(name))) is not None}
    # The schema names what holds where no unit is given.
    texts = {axis: said.get(f"{_OME_NAMES[axis]}Unit", "s" if axis == "T" else "um") for axis in scale}
    units = {axis: unit for axis, text in texts.items() if (unit := unit_name(axis, text)) is not None}
    names = [child.get("Name") for child in images[series] if _tag(child) == "Channel"]
    known = tuple(name for name in names if name)
    return World(scale, units, channel_names=known if len(known) == len(names) else ())


def world_of_imagej(said: Mapping[str, Any], resolution: tuple[Any, Any]) -> World:
    """Return the world of a file of ImageJ: its metadata, and the elements per unit along Y and X.

    Examples
    --------
    >>> world_of_imagej({"unit": "micron", "spacing": 2.0, "finterval": 5}, ((4, 1), (4, 1))).scale
    {'T': 5.0, 'Z': 2.0, 'Y': 0.25, 'X': 0.25}
    """
    interval = said.get("finterval")
    found: dict[str, Any] = {"T": interval}
    units = {"T": said.get("tunit") or "s"}
    unit = said.get("unit")
    if unit_name("X", unit) is not None:
        # Without a unit these are pixels.
        found |= {"Z": said.get("spacing"), "Y": _inverse(resolution[0]), "X": _inverse(resolution[1])}
        units |= {"Z": said.get("zunit") or unit, "Y": said.get("yunit") or unit, "X": unit}
    scale = {axis: value for axis in PHYSICAL if (value := _positive(found.get(axis))) is not None}
    named = {axis: name for axis in scale if (name := unit_name(axis, units[axis])) is not None}
    labels = said.get("Labels")
    names: tuple[str, ...] = ()
    # One label per plane: these are names of channels where the planes are the channels.
    if isinstance(labels, list) and len(labels) == said.get("channels") == said.get("images"):
        names = tuple(labels) if all(isinstance(name, str) and name for name in labels) else ()
    return World(scale, named, channel_names=names)


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _inverse(ratio: Any) -> float | None:
    try:
        return float(ratio[1]) / float(ratio[0])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if isfinite(number) and number > 0 else None
