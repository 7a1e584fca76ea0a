"""The window of a channel says which values it has; what others have added to the attributes around it stays."""

from collections.abc import Mapping, Sequence
from typing import Any

from tilewright.ome.attributes import omero_attributes
from tilewright.ome.world import UNKNOWN_WORLD

Windows = Sequence[tuple[float, float]]
"""The least and the greatest value of each channel."""
_SIDES = (("start", "min"), ("end", "max"))
"""The ends of what is shown, and those of what there is."""


def with_windows(attributes: Mapping[str, Any], axes: str, shape: Sequence[int], windows: Windows) -> dict[str, Any]:
    """Return the attributes of the group of an image with windows of its channels.

    Parameters
    ----------
    attributes : mapping
        The attributes. Those that describe no image, or labels, are returned as they are.
    axes, shape : str, sequence of int
        Axes and extents of level 0, as in `image_attributes`.
    windows : sequence of (float, float)
        Least and greatest value of each channel: ``min`` and ``max`` of its window. They are ``start`` and ``end`` too,
        unless these were set apart from ``min`` and ``max``.

    Returns
    -------
    dict
        JSON values. All other attributes are as they were, also those of a channel.

    Examples
    --------
    >>> said = {"multiscales": [{}], "mine": 1}
    >>> with_windows(said, "YX", (8, 8), [(2, 7)])["omero"]["channels"][0]["window"]
    {'start': 2, 'end': 7, 'min': 2, 'max': 7}
    """
    inner: Any = attributes.get("ome")
    is_nested = isinstance(inner, Mapping) and "multiscales" in inner
    said: Mapping[str, Any] = inner if is_nested else attributes
    if "multiscales" not in said or "image-label" in said:
        return dict(attributes)
    omero = omero_attributes("0.5" if is_nested else "0.4", axes, shape, UNKNOWN_WORLD, windows)
    found = said.get("omero")
    if isinstance(found, Mapping):
        omero |= {**found, "channels": _channels(found.get("channels"), omero["channels"])}
    described = {**said, "omero": omero}
    return {**attributes, "ome": described} if is_nested else described


def _channels(found: Any, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the channels that were found, with the windows of those that were made; else the latter."""
    is_same = isinstance(found, list) and len(found) == len(made) and all(isinstance(one, Mapping) for one in found)
    return [_channel(*pair) for pair in zip(found, made, strict=True)] if is_same else made


def _channel(found: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    before, window = found.get("window"), dict(made["window"])
    if isinstance(before, Mapping):
        chosen = {side: before[side] for side, limit in _SIDES if side in before and before[side] != before.get(limit)}
        window = {**before, **window, **chosen}
    return {**found, "window": window}
