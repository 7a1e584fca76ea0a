"""Data types by their NumPy names, so that planning needs no NumPy."""

from tilewright.errors import GeometryError

_ITEMSIZES = {
    "bool": 1,
    **{f"{kind}{bits}": bits // 8 for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": bits // 8 for bits in (16, 32, 64)},
    **{f"complex{bits}": bits // 8 for bits in (64, 128)},
}


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
    if name not in _ITEMSIZES:
        raise GeometryError(f"unknown data type {name!r}; use one of {', '.join(_ITEMSIZES)}")
    return _ITEMSIZES[name]
