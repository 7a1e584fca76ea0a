"""A call is known by its function and the keywords that were given, or by its command line: short, without secrets."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from inspect import signature
from shlex import join
from typing import Any

import numpy as np

from tilewright.identity.values import name_of
from tilewright.stores.places import without_secrets

EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"
"""Environment variable with the date of all outputs, in seconds since 1970, as reproducible-builds.org has it."""
_OF_ONE_RUN = {
    "client",
    "grace_seconds",
    "if_exists",
    "ledger",
    "memory_nbytes",
    "on_plan",
    "plan",
    "progress",
    "report",
    "window_nbytes",
}
"""Keywords that say how a run is carried out: another run may complete the same output with others."""
_MOST_ELEMENTS = 64
_DEEPEST = 4


@dataclass(frozen=True)
class Call:
    """A call that makes outputs.

    Parameters
    ----------
    function : str
        Full name of the function.
    keywords : dict
        Its given keywords, as values that JSON has, but for those that say how a run is carried out.
    command : str
        The command line; empty for a call in Python.
    model_file : str
        File that a command has its model from; empty without one.
    """

    function: str = ""
    keywords: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    model_file: str = ""

    @classmethod
    def of(cls, function: Callable[..., Any], values: Mapping[str, Any]) -> "Call":
        """Return the call of a function or class by the values of its parameters; in a command, that command.

        Examples
        --------
        >>> def predict(image, *, axes=None, layout="auto"): ...
        >>> Call.of(predict, {"image": 1, "axes": "YX", "layout": "auto"}).keywords
        {'axes': 'YX'}
        """
        if (command := _COMMAND.get()) is not None:
            return command
        given = {
            name: as_json(values[name])
            for name, parameter in signature(function).parameters.items()
            if name not in _OF_ONE_RUN
            and parameter.default is not parameter.empty
            and not _is_same(values[name], parameter.default)
        }
        return cls(f"tilewright.{function.__name__}", given)

    def to_dict(self) -> dict[str, Any]:
        """Return the call as JSON has it."""
        return {"command": self.command} if self.command else {"function": self.function, "keywords": self.keywords}


_COMMAND: ContextVar[Call | None] = ContextVar("command", default=None)


@contextmanager
def by_command(arguments: tuple[str, ...], model_file: str = "") -> Iterator[None]:
    """Take the calls in this context as those of a command line."""
    called = Call(command=join(map(without_secrets, arguments)), model_file=model_file)
    token = _COMMAND.set(called)
    try:
        yield
    finally:
        _COMMAND.reset(token)


def date_of_run() -> str:
    """Return the date of now in UTC, as ISO 8601 has it, or that of the environment variable SOURCE_DATE_EPOCH."""
    text = os.environ.get(EPOCH_VARIABLE)
    if not text:
        return _iso(datetime.now(UTC))
    try:
        return _iso(datetime.fromtimestamp(int(text), UTC))
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"the environment variable {EPOCH_VARIABLE} must be whole seconds since 1970, got {text!r:.80}; correct "
            "or unset it"
        ) from None


def as_json(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it; of an object that JSON has not, the name of its class or its own.

    Examples
    --------
    >>> as_json({"tile": (64, np.int64(32)), "source": "https://me:word@host/a?key=1", "read": len})
    {'tile': [64, 32], 'source': 'https://host/a', 'read': 'builtins.len'}
    """
    match value:
        case None | bool() | int():
            found: Any = value
        case float():
            found = value if np.isfinite(value) else repr(value)
        case str() | os.PathLike():
            found = without_secrets(os.fspath(value))
        case np.generic():
            found = as_json(value.item(), depth)
        case np.dtype():
            found = value.name
        case np.ndarray() if value.size <= _MOST_ELEMENTS and not value.dtype.hasobject:
            found = as_json(value.tolist(), depth)
        case Mapping() if depth < _DEEPEST:
            found = {without_secrets(name): as_json(item, depth + 1) for name, item in value.items()}
        case list() | tuple() if depth < _DEEPEST:
            found = [as_json(item, depth + 1) for item in value]
        case _:
            # Its text may hold a key, and the address of this process.
            found = name_of(value)
    return found


def _is_same(value: Any, default: Any) -> bool:
    """Tell whether a value is the default of its parameter; arrays are not compared."""
    return value is default or (
        type(value) is type(default) and isinstance(value, str | int | float) and value == default
    )


def _iso(date: datetime) -> str:
    return f"{date:%Y-%m-%dT%H:%M:%SZ}"
