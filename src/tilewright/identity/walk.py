"""Any object is what it is made of: a label, which is the same in every process, and parts, which are objects again.

What is stored is found by walking through parts; what is compared is a digest of labels. Neither copies an array, runs
code of a user but for what `pickle` would run, nor reads what is stored.
"""

import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from dask.highlevelgraph import HighLevelGraph, Layer

from tilewright.identity.values import code_digest, name_of

PLAIN = (int, float, complex, bool, slice, range, type(None), type(...), type(NotImplemented), np.generic, np.dtype)
"""Types of which the text says all."""
_OF_ONE_PROCESS = (type(threading.Lock()), type(threading.RLock()), weakref.ref, threading.local)
"""Types of what no result follows from, and that each process has for itself."""
_NOT_OF_LAYERS = {"annotations", "collection_annotations", "token"}
"""What a layer of a graph has, and no result follows from."""


class Parts(NamedTuple):
    """What an object is made of.

    Parameters
    ----------
    label : str
        What it is, but for its parts.
    parts : list
        The objects in it.
    is_ordered : bool
        Whether the order of the parts means something.
    """

    label: str
    parts: list[Any]
    is_ordered: bool = True


class UnknownPartsError(TypeError):
    """An object of which it cannot be known what it is made of."""


def parts_of(thing: Any) -> Parts:
    """Return what an object is made of.

    Raises
    ------
    UnknownPartsError
        If that cannot be known.

    Examples
    --------
    >>> parts_of([1, "a"])
    Parts(label='list', parts=[1, 'a'], is_ordered=True)
    """
    found = _parts_of_values(thing) or _parts_of_code(thing) or _parts_of_graph(thing)
    return found or _parts_of_object(thing)


def _parts_of_values(thing: Any) -> Parts | None:
    kind = type(thing)
    if issubclass(kind, PLAIN) or kind in (str, bytes, bytearray):
        return Parts(f"{kind.__name__} {thing!r}", [])
    if issubclass(kind, _OF_ONE_PROCESS):
        return Parts(kind.__name__, [])
    if kind in (list, tuple):
        return Parts(kind.__name__, list(thing))
    if kind in (set, frozenset):
        return Parts(kind.__name__, list(thing), is_ordered=False)
    if isinstance(thing, Mapping) and not isinstance(thing, Layer | HighLevelGraph):
        return Parts("dict", list(thing.items()), is_ordered=False)
    return None


def _parts_of_graph(thing: Any) -> Parts | None:
    kind = type(thing)
    if kind.__module__ == "dask._task_spec":
        return _parts_of_task(thing)
    if isinstance(thing, HighLevelGraph):
        return Parts("graph", list(thing.layers.values()))
    if isinstance(thing, Layer):
        held = {name: value for name, value in vars(thing).items() if not name.startswith("_cached")}
        return Parts(name_of(kind), [held[name] for name in sorted(held.keys() - _NOT_OF_LAYERS)])
    return None


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """Iterate over the code of a function and of the functions that are defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_of(constant)


def is_library(module: object) -> bool:
    """Tell whether a module is of Python itself, of tilewright, or of an installed package.

    Examples
    --------
    >>> is_library("os.path"), is_library("numpy"), is_library("__main__")
    (True, True, False)
    """
    # Methods of built-in types have no module.
    root = module.partition(".")[0] if isinstance(module, str) else "builtins"
    if root in sys.stdlib_module_names or root == "tilewright":
        return True
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return root != "__main__" and ("site-packages" in file or "dist-packages" in file)


def _parts_of_code(thing: Any) -> Parts | None:
    if isinstance(thing, functools.partial):
        return Parts("partial", [thing.func, thing.args, thing.keywords])
    if not isinstance(thing, FunctionType | MethodType | BuiltinFunctionType | type | ModuleType | np.ufunc):
        return None
    name = name_of(thing)
    if isinstance(thing, MethodType):
        return Parts(f"method {name}", [thing.__self__, thing.__func__])
    if isinstance(thing, FunctionType):
        return _parts_of_function(thing)
    if isinstance(thing, type):
        is_known = is_library(thing.__module__)
        return Parts(f"class {name}", [] if is_known else [_methods_of(thing), *thing.__bases__])
    bound = getattr(thing, "__self__", None)
    return Parts(f"function {name}", [] if bound is None or isinstance(bound, ModuleType | type) else [bound])


def _parts_of_function(thing: FunctionType) -> Parts:
    held = [thing.__defaults__, thing.__kwdefaults__, _closure_of(thing)]
    if is_library(thing.__module__):
        # Functions of a package are known by their names; what is bound to them is not.
        return Parts(f"function {name_of(thing)}", held)
    # The module says nothing: it has another name where it is the main one.
    label = f"function {thing.__qualname__} {code_digest(thing.__code__)}"
    return Parts(label, [*held, _globals_of(thing)])


def _globals_of(function: FunctionType) -> dict[str, Any]:
    """Return what a function uses of its module, by name, but for modules."""
    names = sorted({name for code in codes_of(function.__code__) for name in code.co_names})
    used = {name: function.__globals__[name] for name in names if name in function.__globals__}
    return {name: value for name, value in used.items() if not isinstance(value, ModuleType)}


def _closure_of(function: FunctionType) -> dict[str, Any]:
    """Return what a function uses of the functions around it, by name."""
    closed: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        # A name that has no value yet.
        with suppress(ValueError):
            closed[name] = cell.cell_contents
    return closed


def _methods_of(kind: type) -> dict[str, Any]:
    """Return the code and the constants of a class, by name."""
    found: dict[str, Any] = {}
    for name, value in vars(kind).items():
        inner = getattr(value, "__func__", getattr(value, "func", None))
        if isinstance(value, property):
            found[name] = [value.fget, value.fset]
        elif isinstance(inner, FunctionType):
            found[name] = inner
        elif isinstance(value, FunctionType):
            # A data class makes functions that have no text of their own.
            found[name] = value
        elif not name.startswith("_") and not inspect.isdatadescriptor(value):
            found[name] = value
    return found


def _parts_of_task(thing: Any) -> Parts:
    """Return the parts of a task of Dask; its key is no part of it."""
    kind = type(thing).__name__
    if kind == "TaskRef":
        return Parts("reference", [thing.key])
    if kind == "Alias":
        return Parts("reference", [thing.target])
    if kind == "DataNode":
        return Parts("data", [thing.value])
    if hasattr(thing, "func") and hasattr(thing, "args"):
        return Parts(kind, [thing.func, thing.args, thing.kwargs])
    return _parts_of_object(thing)


def _parts_of_object(thing: Any) -> Parts:
    kind = type(thing)
    try:
        # What would travel with it says all of it, mostly, and nothing that only this process knows.
        reduced = thing.__reduce_ex__(4)
    except Exception as error:
        state = _state_of(thing)
        if state is None:
            raise UnknownPartsError(f"{name_of(kind)}: {error}") from error
        return Parts(f"object {name_of(kind)}", [kind, state])
    if isinstance(reduced, str):
        return Parts(f"object {reduced}", [kind])
    made_by, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    return Parts(f"object {name_of(kind)}", [kind, made_by, arguments, state, list(items or ()), dict(pairs or ())])


def _state_of(thing: Any) -> dict[str, Any] | None:
    state: dict[str, Any] = {}
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                state[name] = getattr(thing, name)
    state |= getattr(thing, "__dict__", {})
    return state or None
