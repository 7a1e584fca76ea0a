"""Axes have one letter each, whatever a file calls them; "?" for an axis that it does not name."""

UNKNOWN = "?"
"""Letter of an axis that the metadata do not name."""
PHYSICAL = "TZYX"
"""Axes along which elements have a distance."""
KINDS = {"S": None, "T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
"""Type of each axis in OME-Zarr; it has none for samples."""
_NAMES = {"t": "T", "time": "T", "c": "C", "channel": "C", "z": "Z", "y": "Y", "x": "X"}


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
