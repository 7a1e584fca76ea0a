"""Axes that metadata say are heard: where a user exchanges two of them, one of both is wrong."""

from tilewright.errors import GeometryError

UNKNOWN = "?"
_NAMES = {"t": "T", "time": "T", "c": "C", "channel": "C", "z": "Z", "y": "Y", "x": "X"}
_PLANES = frozenset("STCZ")
"""Axes along which planes follow each other."""


def known_axes_of_tiff(axes: str) -> str:
    """Return the axes that a TIFF file says, a letter each; "?" for one that it does not say.

    Parameters
    ----------
    axes : str
        Letters as tifffile has them, where S are the samples of a pixel, such as red, green and blue.

    Examples
    --------
    >>> known_axes_of_tiff("ZCYX"), known_axes_of_tiff("QYXS")
    ('ZCYX', '?YXC')
    """
    samples = UNKNOWN if "C" in axes else "C"
    return "".join(samples if letter == "S" else letter if letter in "TCZYX" else UNKNOWN for letter in axes)


def known_axes_of_names(names: object) -> str:
    """Return the axes that names of dimensions say.

    Examples
    --------
    >>> known_axes_of_names(["time", "z", "y", "x"]), known_axes_of_names([None, "y", "x"]), known_axes_of_names(None)
    ('TZYX', '?YX', '')
    """
    if not isinstance(names, list | tuple):
        return ""
    return "".join(_NAMES.get(str(name).lower(), UNKNOWN) for name in names)


def note_on_said_axes(given: str, said: str) -> str:
    """Return how the axes that are given differ from those that the metadata of a source say; empty where they do not.

    Planes that follow each other may have another name: programs write channels, frames and slices for one another.

    Raises
    ------
    GeometryError
        If both name the same axis, at different places.

    Examples
    --------
    >>> note_on_said_axes("ZYX", "TYX")
    "its metadata say 'TYX'; it is taken as 'ZYX', as was asked for"
    >>> note_on_said_axes("CZYX", "ZCYX")
    Traceback (most recent call last):
    tilewright.errors.GeometryError: axes 'CZYX' contradict the source, whose metadata say 'ZCYX'; ...
    """
    if len(given) != len(said):
        return ""
    differing = [(own, other) for own, other in zip(given, said, strict=True) if other not in (UNKNOWN, own)]
    for own, other in differing:
        if own in said or other in given or not {own, other} <= _PLANES:
            raise GeometryError(
                f"axes {given!r} contradict the source, whose metadata say {said!r}; pass these, or, if the metadata "
                "are wrong, read the source yourself and pass the array"
            )
    return f"its metadata say {said!r}; it is taken as {given!r}, as was asked for" if differing else ""
