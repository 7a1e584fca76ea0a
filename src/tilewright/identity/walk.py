"""Any object is a label, which is the same in every process, and parts, which are objects again.

A walk through the parts finds the places that a source is read from; a digest of the labels compares two graphs.
Neither copies arrays, reads stored data, or runs code of the user beyond what `pickle` runs.
"""

import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from dask.highlevelgraph import HighLevelGraph, Layer

from tilewright.identity.values import code_digest, globals_of, name_of

PLAIN = (int, float, complex, bool, slice, range, type(None), type(...), type(NotImplemented), np.generic, np.dtype)
"""Types that their `repr` describes in full."""
NUMBERS = frozenset((int, float, bool, type(None), slice))
"""Types of the many small values in a large graph, for a quick check."""
MOST_OBJECTS = 5_000_000
"""Objects of one graph that are looked at, at most."""
_OF_ONE_PROCESS = (type(threading.Lock()), type(threading.RLock()), weakref.ref, threading.local)
"""Types that belong to one process and do not influence results."""
_NOT_OF_LAYERS = {"annotations", "collection_annotations", "token"}
"""Attributes of a graph layer that do not influence results."""


class Parts(NamedTuple):
    """An object without its parts, as a label; the objects in it; and whether their order matters."""

    label: str
    parts: list[Any]
    is_ordered: bool = True


class UnknownPartsError(TypeError):
    """An object whose parts cannot be found."""


def parts_of(thing: Any) -> Parts:
    """Return the label and the parts of an object, or raise UnknownPartsError where they cannot be found.

    Examples
    --------
    >>> parts_of([1, "a"])
    Parts(label='list', parts=[1, 'a'], is_ordered=True)
    """
    found = _parts_of_values(thing) or _parts_of_code(thing) or _parts_of_graph(thing)
    return found or _parts_of_object(thing)


def walk(
    things: Iterable[Any],
    look: Callable[[Any], Iterable[Any]],
    text: Callable[[str], object] | None = None,
    seen: dict[int, Any] | None = None,
) -> bool:
    """Look at all objects that are reached from `things`, each once; return False if there are too many.

    `look` returns the objects in an object that is no tuple, number or text; `text` is called with each text. Objects
    in `seen`, by `id`, are from earlier walks and are skipped.
    """
    seen = {} if seen is None else seen
    waiting = list(things)
    while waiting:
        thing = waiting.pop()
        kind = type(thing)
        if kind is tuple:
            waiting.extend(thing)
        elif isinstance(thing, str):
            if text is not None:
                text(str(thing))
        elif kind not in NUMBERS and id(thing) not in seen and not isinstance(thing, PLAIN):
            # The object is kept: otherwise another one could get its `id`.
            seen[id(thing)] = thing
            if len(seen) > MOST_OBJECTS:
                return False
            waiting.extend(look(thing))
    return True


def _parts_of_values(thing: Any) -> Parts | None:
    kind = type(thing)
    if issubclass(kind, PLAIN) or kind in (str, bytes, bytearray):
        return Parts(f"{kind.__name__} {thing!r}", [])
    if issubclass(kind, _OF_ONE_PROCESS):
        return Parts(kind.__name__, [])
    if kind in (list, tuple, set, frozenset):
        return Parts(kind.__name__, list(thing), is_ordered=kind in (list, tuple))
    if isinstance(thing, Mapping) and not isinstance(thing, Layer | HighLevelGraph):
        return Parts("dict", list(thing.items()), is_ordered=False)
    return None


def _parts_of_graph(thing: Any) -> Parts | None:
    kind = type(thing)
    if isinstance(thing, HighLevelGraph):
        return Parts("graph", list(thing.layers.values()))
    if isinstance(thing, Layer):
        held = {name: value for name, value in vars(thing).items() if not name.startswith("_cached")}
        return Parts(name_of(kind), [held[name] for name in sorted(held.keys() - _NOT_OF_LAYERS)])
    if kind.__module__ != "dask._task_spec":
        return None
    # A task is described without its key.
    if kind.__name__ in ("TaskRef", "Alias"):
        return Parts("reference", [thing.key if kind.__name__ == "TaskRef" else thing.target])
    if kind.__name__ == "DataNode":
        return Parts("data", [thing.value])
    is_call = hasattr(thing, "func") and hasattr(thing, "args")
    return Parts(kind.__name__, [thing.func, thing.args, thing.kwargs]) if is_call else None


def package_of(thing: Any) -> str:
    """Return the name of the package of a class or function; some built-in ones have no module."""
    return thing.__module__.partition(".")[0] if isinstance(thing.__module__, str) else "builtins"


def is_tensor(thing: Any) -> bool:
    """Tell whether an object is a tensor of torch, which is perhaps not imported."""
    return package_of(type(thing)) == "torch" and hasattr(thing, "untyped_storage")


def is_on_cluster(thing: Any) -> bool:
    """Tell whether an object stands for something that a cluster holds."""
    return package_of(type(thing)) == "distributed" and type(thing).__name__ in {"Future", "Actor"}


def is_library(thing: Any) -> bool:
    """Tell whether a class or function belongs to Python, to tilewright or to an installed package.

    Examples
    --------
    >>> is_library(sys.exit), is_library(np.ndarray)
    (True, True)
    """
    root = package_of(thing)
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
        return Parts(f"class {name}", [] if is_library(thing) else [_methods_of(thing), *thing.__bases__])
    bound = getattr(thing, "__self__", None)
    return Parts(f"function {name}", [] if bound is None or isinstance(bound, ModuleType | type) else [bound])


def _parts_of_function(thing: FunctionType) -> Parts:
    closure: dict[str, Any] = {}
    for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
        # A variable without a value so far.
        with suppress(ValueError):
            closure[name] = cell.cell_contents
    held = [thing.__defaults__, thing.__kwdefaults__, closure]
    if is_library(thing):
        # The name stands for the code of a package; defaults and closures still count.
        return Parts(f"function {name_of(thing)}", held)
    used = {name: value for name, value in globals_of(thing).items() if not isinstance(value, ModuleType)}
    # Without the module name: it is `__main__` in one process, and another name in others.
    return Parts(f"function {thing.__qualname__} {code_digest(thing.__code__)}", [*held, used])


def _methods_of(kind: type) -> dict[str, Any]:
    """Return the methods and the constants of a class, by name."""
    found: dict[str, Any] = {}
    for name, value in vars(kind).items():
        inner = getattr(value, "__func__", getattr(value, "func", None))
        if isinstance(value, property):
            found[name] = [value.fget, value.fset]
        elif isinstance(inner, FunctionType):
            found[name] = inner
        elif isinstance(value, FunctionType) or (not name.startswith("_") and not inspect.isdatadescriptor(value)):
            found[name] = value
    return found


def _parts_of_object(thing: Any) -> Parts:
    kind = type(thing)
    try:
        # What pickle sends describes most objects in full, without anything that only this process knows.
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
