"""Errors that arrive in another process as what they are."""

import pickle
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import cloudpickle
import tblib.pickling_support

from tilewright.identity.values import name_of

Arguments = ParamSpec("Arguments")


Result = TypeVar("Result")


def failure_of_journey(value: Any) -> str:
    """Return why a value cannot be sent to another process; empty where it can."""
    try:
        pickle.loads(cloudpickle.dumps(value))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"
    return ""


def sendable_errors(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function that runs on a worker raise errors that arrive as what they are.

    Where what has caused an error cannot be sent, it is left out, and its text is a note.
    """

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            # As Dask sends errors: with what has caused them.
            tblib.pickling_support.install(*_chain_of(error))
            if not failure_of_journey(error):
                raise
            note = "".join(traceback.format_exception(error))
            error.__cause__ = error.__context__ = None
            if not failure_of_journey(error):
                error.add_note(note)
                raise error from None
            text = f"{name_of(type(error))}: {error}"
        unlike = RuntimeError(text)
        unlike.add_note(note)
        raise unlike

    return call


def _chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Iterate over an error, what has caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
