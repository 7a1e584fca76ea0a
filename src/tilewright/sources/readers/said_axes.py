"""The axes in the metadata of a source agree with the axes that the user passes, or the source is refused."""

from tilewright.errors import GeometryError

UNKNOWN = "?"
"""Letter of an axis that the metadata do not name."""
_NAMES = {"t": "T", "time": "T", "c": "C", "channel": "C", "z": "Z", "y": "Y", "x": "X"}
_PLANES = frozenset("STCZ")
"""Axes along which planes are stacked."""


def known_axes_of_tiff(axes: str) -> str:
    """Return the axes in the metadata of a TIFF file, one letter each; "?" for an unknown one.

    In the letters of tifffile, S are the samples of a pixel, such as red, green and blue.

    Examples
    --------
    >>> known_axes_of_tiff("ZCYX"), known_axes_of_tiff("QYXS")
    ('ZCYX', '?YXC')
    """
    samples = UNKNOWN if "C" in axes else "C"
    return "".join(samples if letter == "S" else letter if letter in "TCZYX" else UNKNOWN for letter in axes)


def known_axes_of_names(names: object) -> str:
    """Return the axes of dimension names, one letter each; "?" for an unknown one.

    Examples
    --------
    >>> known_axes_of_names(["time", "z", "y", "x"]), known_axes_of_names([None, "y", "x"]), known_axes_of_names(None)
    ('TZYX', '?YX', '')
    """
    if not isinstance(names, list | tuple):
        return ""
    return "".join(_NAMES.get(str(name).lower(), UNKNOWN) for name in names)


def note_on_said_axes(given: str, said: str) -> str:
    """Return a note on the difference between the given axes and those of the metadata; empty if there is none.

    Axes of stacked planes may differ in name: programs write channels, frames and slices for one another. The same axis
    at different places is a GeometryError.

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
