"""A unit has the name of UDUNITS that OME-Zarr lists for its axis, however a file or a user spells it."""

_PREFIXES = {
    "y": "yocto", "z": "zepto", "a": "atto", "f": "femto", "p": "pico", "n": "nano", "u": "micro", "m": "milli",
    "c": "centi", "d": "deci", "": "", "h": "hecto", "k": "kilo", "M": "mega", "G": "giga", "T": "tera", "P": "peta",
    "E": "exa", "Z": "zetta", "Y": "yotta",
}  # fmt: skip
_LENGTHS = {f"{short}m": f"{prefix}meter" for short, prefix in _PREFIXES.items()}
_LENGTHS |= {"Å": "angstrom", "ft": "foot", "in": "inch", "mi": "mile", "pc": "parsec", "yd": "yard"}
_TIMES = {f"{short}s": f"{prefix}second" for short, prefix in _PREFIXES.items()}
_TIMES |= {"min": "minute", "h": "hour", "hr": "hour", "d": "day", "sec": "second", "msec": "millisecond"}
_OTHER_SPELLINGS = {"micron": "micrometer", "metre": "meter", "inche": "inch", "feet": "foot"}


def unit_name(axis: str, text: object) -> str | None:
    """Return the name of a unit of an axis; None for what is no unit that OME-Zarr lists for it.

    Examples
    --------
    >>> unit_name("X", "µm"), unit_name("Z", "microns"), unit_name("T", "ms"), unit_name("X", "second")
    ('micrometer', 'micrometer', 'millisecond', None)
    """
    if not isinstance(text, str):
        return None
    names = _TIMES if axis == "T" else _LENGTHS
    # Both the micro sign and the Greek letter; ImageJ escapes the first one.
    short = (
        text.strip().replace("\\u00B5", "u").replace("\u00b5", "u").replace("\u03bc", "u").replace("\u212b", "\u00c5")
    )
    if short in names:
        return names[short]
    singular = short.lower().removesuffix("s")
    for other, usual in _OTHER_SPELLINGS.items():
        singular = usual if singular == other else singular.replace("metre", "meter")
    return singular if singular in names.values() else None
