"""Data types by their NumPy names, so that planning needs no NumPy."""

import re

from tilewright.errors import GeometryError

_NUMERIC = re.compile(r"(?:u?int|float|complex)(\d+)")


def dtype_name(dtype: object) -> str:
    """Return the NumPy name of a data type given as name, NumPy data type or NumPy scalar type.

    Examples
    --------
    >>> dtype_name("float32")
    'float32'
    """
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", "")
    itemsize(str(name))
    return str(name)


def itemsize(name: str) -> int:
    """Return the bytes of one element.

    Examples
    --------
    >>> itemsize("uint16"), itemsize("bool")
    (2, 1)
    """
    if name == "bool":
        return 1
    numeric = _NUMERIC.fullmatch(name)
    if numeric is None or int(numeric[1]) % 8 != 0:
        raise GeometryError(f"unknown data type {name!r}; use a NumPy name such as 'float32' or 'uint16'")
    return int(numeric[1]) // 8
