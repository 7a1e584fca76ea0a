"""The axes in the metadata of a source agree with the axes that the user passes, or the source is refused."""

from tilewright.errors import GeometryError
from tilewright.ome.axis_letters import UNKNOWN

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


def chosen_axes(given: str | None, said: str) -> str:
    """Return the axes that a user gives, or else those of the metadata.

    Raises
    ------
    GeometryError
        If the user gives none, and the metadata do not name all.

    Examples
    --------
    >>> chosen_axes("ZYX", ""), chosen_axes(None, "TYX")
    ('ZYX', 'TYX')
    >>> chosen_axes(None, "?YX")
    Traceback (most recent call last):
    tilewright.errors.GeometryError: axes must be given, such as 'ZYX', since the metadata of the source name only '?YX'
    """
    if given is not None:
        return given
    if not said or UNKNOWN in said:
        named = f"only {said!r}" if said.strip(UNKNOWN) else "none"
        raise GeometryError(f"axes must be given, such as 'ZYX', since the metadata of the source name {named}")
    return said


def note_on_said_axes(given: str, said: str, *, is_typed: bool = False) -> str:
    """Return a note on the difference between the given axes and those of the metadata; empty if there is none.

    Axes of stacked planes may differ in name: programs write channels, frames and slices for one another; not so where
    each axis has a type. The same axis at different places is a GeometryError.

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
        if is_typed or own in said or other in given or not {own, other} <= _PLANES:
            raise GeometryError(
                f"axes {given!r} contradict the source, whose metadata say {said!r}; pass these, or, if the metadata "
                "are wrong, read the source yourself and pass the array"
            )
    return f"its metadata say {said!r}; it is taken as {given!r}, as was asked for" if differing else ""
