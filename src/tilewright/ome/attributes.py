"""Attributes of an OME-Zarr group say where each element of each level lies, and which level is which array.

Axes become: T type time; C type channel; Z, Y and X type space. S, samples, has no type there and cannot stand beside
the others: each sample is an image of its own, in a collection of images.
"""

from collections.abc import Sequence
from typing import Any

from tilewright.errors import GeometryError
from tilewright.ome.axis_letters import KINDS
from tilewright.ome.world import World

VERSIONS = {2: ("0.4",), 3: ("0.5", "0.6")}
"""Versions of OME-Zarr by version of the Zarr format, the default first."""
_COLORS = ("FF0000", "00FF00", "0000FF", "FFFF00", "FF00FF", "00FFFF")
_LAYOUT = {"bioformats2raw.layout": 3}
_SYSTEM = "physical"
"""Name of the coordinate system of an image in version 0.6."""


class SampleAxisError(GeometryError):
    """An array with an axis of samples, which OME-Zarr cannot describe."""


def image_attributes(
    version: str,
    axes: str,
    shape: Sequence[int],
    factors: Sequence[Sequence[int]],
    world: World,
    *,
    paths: Sequence[str] | None = None,
    name: str | None = None,
    method: str | None = None,
    windows: Sequence[tuple[float, float]] | None = None,
    is_label: bool = False,
    labelled: str | None = None,
) -> dict[str, Any]:
    """Return the attributes of the group of an image.

    Parameters
    ----------
    version : {"0.4", "0.5", "0.6"}
        Version of OME-Zarr.
    axes, shape : str, sequence of int
        Axes of the arrays, letters of ``TCZYX`` in that order, and extents of level 0.
    factors : sequence of sequence of int
        Per level and axis, how many elements of level 0 one element stands for; ones for level 0.
    world : World
        Physical metadata of level 0. An unknown scale is one, as the format asks for.
    paths : sequence of str, optional
        Path of the array of each level; ``"0"``, ``"1"``, ... by default.
    name : str, optional
        Name of the image.
    method : {"mean", "mode"}, optional
        How a coarser level follows from the one before it.
    windows : sequence of (float, float), optional
        Least and largest value of each channel. Without these no channel is described, since each has to have one.
    is_label : bool, default=False
        Whether elements are labels.
    labelled : str, optional
        Path from an image of labels to the image that it labels.

    Returns
    -------
    dict
        JSON values. Elements of a coarser level are centred on the block that they stand for.

    Raises
    ------
    SampleAxisError
        If the axes name S: store each sample as an image of its own.
    GeometryError
        If something else does not fit.

    Examples
    --------
    >>> world = World({"Y": 0.5, "X": 0.5}, {"Y": "um", "X": "um"})
    >>> said = image_attributes("0.5", "YX", (64, 64), [(1, 1), (2, 2)], world)["ome"]["multiscales"][0]
    >>> said["datasets"][1]["coordinateTransformations"]
    [{'type': 'scale', 'scale': [1.0, 1.0]}, {'type': 'translation', 'translation': [0.25, 0.25]}]
    """
    if "S" in axes:
        raise SampleAxisError(
            f"OME-Zarr has no axis of samples, and the axes are {axes} with the extents {tuple(shape)}; store each "
            "sample as an image of its own"
        )
    _check(version, axes, shape, factors, paths)
    names = [str(level) for level in range(len(factors))] if paths is None else list(paths)
    said_axes = [_axis(axis, world) for axis in axes]
    transforms = [_transforms(axes, level, world) for level in factors]
    multiscale: dict[str, Any] = {} if name is None else {"name": name}
    if version == "0.6":
        multiscale["coordinateSystems"] = [{"name": _SYSTEM, "axes": said_axes}]
        transforms = [_sequence(path, steps) for path, steps in zip(names, transforms, strict=True)]
    else:
        multiscale["axes"] = said_axes
    pairs = zip(names, transforms, strict=True)
    multiscale["datasets"] = [{"path": path, "coordinateTransformations": steps} for path, steps in pairs]
    if method is not None:
        multiscale |= {"type": method, "metadata": {"description": f"{method} of the block that an element stands for"}}
    said: dict[str, Any] = {"multiscales": [multiscale]}
    if is_label:
        said["image-label"] = {"version": version} | ({} if labelled is None else {"source": {"image": labelled}})
    elif windows is not None:
        said["omero"] = omero_attributes(version, axes, shape, world, windows)
    if version != "0.4":
        return {"ome": {"version": version, **said}}
    multiscale["version"] = version
    return said


def omero_attributes(
    version: str, axes: str, shape: Sequence[int], world: World, windows: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """Return how the channels of an image are shown; parameters as in `image_attributes`.

    Raises
    ------
    GeometryError
        If there are other channels than windows or names.

    Examples
    --------
    >>> channels = omero_attributes("0.5", "YX", (8, 8), World(channel_names=("nuclei",)), [(2, 7)])["channels"]
    >>> channels[0]["label"], channels[0]["window"]
    ('nuclei', {'start': 2, 'end': 7, 'min': 2, 'max': 7})
    """
    extents = dict(zip(axes, shape, strict=True))
    count, names = extents.get("C", 1), world.channel_names
    for what, values in (("channel names", names), ("windows", windows)):
        if values and len(values) != count:
            raise GeometryError(f"there are {len(values)} {what}, and the image has {count} channels: {values}")
    channels = []
    for number, (least, most) in enumerate(windows):
        label = {"label": names[number]} if names else {}
        color = "FFFFFF" if count == 1 else _COLORS[number % len(_COLORS)]
        window = {"start": least, "end": most, "min": least, "max": most}
        channels.append({**label, "color": color, "window": window, "active": True})
    model = "greyscale" if count == 1 else "color"
    said = {"channels": channels, "rdefs": {"defaultT": 0, "defaultZ": extents.get("Z", 1) // 2, "model": model}}
    return said | ({"version": version} if version == "0.4" else {})


def collection_attributes(version: str, paths: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes of a group of images, and of the group ``OME`` in it, which lists their paths.

    Examples
    --------
    >>> collection_attributes("0.4", ["0", "1"])
    ({'bioformats2raw.layout': 3}, {'series': ['0', '1']})
    """
    series = {"series": list(paths)}
    if version == "0.4":
        return dict(_LAYOUT), series
    return {"ome": {"version": version, **_LAYOUT}}, {"ome": {"version": version, **series}}


def _check(
    version: str, axes: str, shape: Sequence[int], factors: Sequence[Sequence[int]], paths: Sequence[str] | None
) -> None:
    if version not in sum(VERSIONS.values(), ()):
        raise GeometryError(f"the version of OME-Zarr must be 0.4, 0.5 or 0.6, got {version!r}")
    if "".join(axis for axis in "TCZYX" if axis in axes) != axes or not {"Y", "X"} <= set(axes):
        raise GeometryError(f"axes must be letters of TCZYX in that order, with Y and X, got {axes!r}")
    if any(len(extents) != len(axes) for extents in (shape, *factors)):
        raise GeometryError(f"shape {tuple(shape)} and factors {factors} must have one number per axis of {axes}")
    if not factors or any(factor != 1 for factor in factors[0]):
        raise GeometryError(f"the factors of level 0 must be ones, got {factors}")
    if paths is not None and len(paths) != len(factors):
        raise GeometryError(f"{len(factors)} levels must have one path each, got {paths}")


def _axis(axis: str, world: World) -> dict[str, Any]:
    unit = {"unit": world.units[axis]} if axis in world.units else {}
    return {"name": axis.lower(), "type": KINDS[axis], **unit}


def _transforms(axes: str, factors: Sequence[int], world: World) -> Any:
    scale, translation = [], []
    for axis, factor in zip(axes, factors, strict=True):
        step = world.scale.get(axis, 1.0)
        scale.append(step * factor)
        translation.append(world.translation.get(axis, 0.0) + (factor - 1) / 2 * step)
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]


def _sequence(path: str, steps: Any) -> Any:
    ends = {"input": {"path": path}, "output": {"name": _SYSTEM}}
    return [{"type": "sequence", **ends, "transformations": steps}]
