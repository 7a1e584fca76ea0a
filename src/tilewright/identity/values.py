"""The identity of a value is a digest of its content: short, and without secrets.

The identity of a function covers its bytecode, its closure, and the functions and constants of its module that it uses.
A worker has the bytecode, but perhaps not the source text. Bytecode differs between versions of Python.
"""

from collections.abc import Callable, Iterator, Mapping
from dis import get_instructions
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from xxhash import xxh3_64

from tilewright.assemble import AnyArray

Known = Callable[[Any], str | None]
"""Identity of a value that this module does not know, such as a model with weights; None for other values."""

_DIGESTED_NBYTES = 2**26
"""Largest array that is digested as a whole."""
_PIECE_NBYTES = 2**20
_MOST_PARTS = 16
_DEEPEST = 8
"""Deepest nesting; of deeper values only the type counts."""


def digest_of(text: str | bytes | bytearray) -> str:
    """Return the digest of a text.

    Examples
    --------
    >>> digest_of("a") == digest_of(b"a") != digest_of("b")
    True
    """
    return xxh3_64(text.encode() if isinstance(text, str) else text).hexdigest()


def name_of(value: Any) -> str:
    """Return the full name of a function or class; for other values, that of their class.

    Examples
    --------
    >>> name_of(len), name_of(3)
    ('builtins.len', 'builtins.int')
    """
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"


def code_digest(code: CodeType) -> str:
    """Return a digest of the bytecode of a function, without its closure, comments and line numbers.

    Examples
    --------
    >>> code_digest((lambda x: x + 1).__code__) == code_digest((lambda x: x + 2).__code__)
    False
    """
    return digest_of(" ".join(_Identity(lambda value: None).parts_of_code(code)))


def value_identity(value: Any, known: Known = lambda value: None) -> str:
    """Return the identity of a number, text, array or function, or of a collection of these.

    For other values only the type counts, unless `known` returns their identity.

    Examples
    --------
    >>> value_identity(partial(max, 3)) == value_identity(partial(max, 3)) != value_identity(partial(max, 4))
    True
    >>> "secret" in value_identity(partial(max, "secret"))
    False
    """
    return _Identity(known).of(value)


class _Identity:
    """Computes the identity of one value and of the values in it."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._seen: set[int] = set()
        self._depth = 0

    def of(self, value: Any) -> str:
        known = self._known(value)
        if known is not None:
            return known
        if self._depth >= _DEEPEST or id(value) in self._seen:
            return name_of(value)
        self._depth += 1
        try:
            return self._of(value)
        finally:
            self._depth -= 1

    def _of(self, value: Any) -> str:
        match value:
            case None | bool() | int() | float() | complex():
                identity = repr(value)
            case str() | bytes() | bytearray():
                identity = f"{type(value).__name__} {digest_of(value)}"
            case np.ndarray():
                identity = f"array {array_digest(value)}"
            case np.generic() | np.dtype() | slice() | range():
                identity = repr(value)
            case tuple() | list():
                identity = f"{type(value).__name__} {digest_of(' '.join(map(self.of, value)))}"
            case set() | frozenset():
                identity = f"set {digest_of(' '.join(sorted(map(self.of, value))))}"
            case Mapping():
                items = sorted(f"{self.of(key)}: {self.of(item)}" for key, item in value.items())
                identity = f"{type(value).__name__} {digest_of(' '.join(items))}"
            case partial():
                identity = f"{self.of(value.func)}, arguments {digest_of(self.of((value.args, value.keywords)))}"
            case MethodType():
                identity = f"{self.of(value.__func__)} of {self.of(value.__self__)}"
            case FunctionType():
                self._seen.add(id(value))
                identity = f"{name_of(value)}, code {digest_of(' '.join(self._parts_of(value)))}"
            case BuiltinFunctionType() | type():
                identity = name_of(value)
            case _:
                identity = self._of_object(value)
        return identity

    def _of_object(self, value: Any) -> str:
        """Return the class name of an object, and the code of its `__call__`."""
        name = name_of(value)
        own = getattr(value, "__name__", None)
        if isinstance(own, str):
            # Such as a ufunc, which has no `__qualname__` in older NumPy.
            return name if name.endswith(f".{own}") else f"{name} {own}"
        call = vars(type(value)).get("__call__")
        if isinstance(call, FunctionType):
            return f"{name}, code {digest_of(' '.join(self._parts_of(call)))}, attributes not compared"
        return f"{name}, not compared"

    def _parts_of(self, function: FunctionType) -> Iterator[str]:
        yield from self.parts_of_code(function.__code__)
        yield self.of(function.__defaults__)
        yield self.of(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                yield self.of(cell.cell_contents)
            except ValueError:
                # A variable without a value so far.
                yield "empty"
        for name, value in globals_of(function).items():
            is_own = isinstance(value, FunctionType) and value.__module__ == function.__module__
            if is_own or isinstance(value, bool | int | float | complex | str | bytes | tuple):
                yield f"{name} {self.of(value)}"

    def parts_of_code(self, code: CodeType) -> Iterator[str]:
        """Yield the instructions of a function."""
        # Not the raw bytes: a docstring shifts the numbers of the constants in them.
        for step in get_instructions(code):
            if isinstance(step.argval, CodeType):
                yield from self.parts_of_code(step.argval)
            else:
                yield f"{step.opname} {self.of(step.argval) if step.opname == 'LOAD_CONST' else step.argrepr}"


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """Iterate over the code of a function and of the functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_of(constant)


def names_in(code: CodeType) -> set[str]:
    """Return the global names and the attributes that a function uses."""
    return {name for inner in codes_of(code) for name in inner.co_names}


def globals_of(function: FunctionType) -> dict[str, Any]:
    """Return what a function uses of its module, by name."""
    used = names_in(function.__code__) & function.__globals__.keys()
    return {name: function.__globals__[name] for name in sorted(used)}


def array_digest(array: AnyArray, most_nbytes: int = _DIGESTED_NBYTES) -> str:
    """Return a digest of an array: of all elements, or of pieces spread evenly over a large array.

    Examples
    --------
    >>> array = np.arange(12).reshape(3, 4)
    >>> array_digest(array) == array_digest(np.asfortranarray(array)) != array_digest(array[::-1])
    True
    """
    digest = xxh3_64(repr(array.shape).encode())
    if array.dtype.hasobject:
        digest.update(repr(array.dtype).encode())
    else:
        for piece in _pieces(array, most_nbytes):
            digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _pieces(array: AnyArray, most_nbytes: int) -> Iterator[AnyArray]:
    """Iterate over parts spread evenly over an array, of at most `most_nbytes` bytes together."""
    if array.nbytes <= max(most_nbytes, array.itemsize) and array.nbytes <= _PIECE_NBYTES:
        yield array
    elif array.ndim == 1:
        length = max(1, min(most_nbytes, _PIECE_NBYTES) // array.itemsize)
        count = max(1, min(most_nbytes // (length * array.itemsize), -(-len(array) // length)))
        for start in np.linspace(0, len(array) - length, count).astype(int):
            yield array[start : start + length]
    elif array.nbytes <= most_nbytes and array.nbytes // len(array) <= _PIECE_NBYTES:
        length = max(1, _PIECE_NBYTES * len(array) // array.nbytes)
        for start in range(0, len(array), length):
            yield array[start : start + length]
    else:
        count = len(array) if array.nbytes <= most_nbytes else min(len(array), _MOST_PARTS)
        for index in np.linspace(0, len(array) - 1, count).astype(int):
            yield from _pieces(array[index], most_nbytes // count)
