"""What a model has predicted does not change while it waits, also where the model uses its memory again."""

import threading
import weakref
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Self

from tilewright.assemble import AnyArray
from tilewright.errors import ReusedMemoryError

SHORT_SECONDS = 0.001
"""Time of a short batch, from reading to placing, at most."""
TURN_SECONDS = 0.005
"""Time for which a thread keeps the model while its batches are short."""
LOOKED_AT = 2
"""So many predictions are copied before it is believed that each comes in memory of its own."""


class Turn:
    """The turn of a thread, in which it calls a model again and again where each call is short.

    Handing the model over to another thread for each of such calls would take longer than they do. The lock is held
    during a call; the same thread may take it several times.
    """

    def __init__(self, lock: "threading.RLock") -> None:
        self._lock = lock
        self._is_held = False
        self._begun = self._until = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._end()

    def go_on(self) -> None:
        """Begin with the next batch: keep the model where the last one was short, and the turn is not over."""
        now = perf_counter()
        was_short = now - self._begun < SHORT_SECONDS
        if self._is_held and (not was_short or now > self._until):
            self._end()
        elif was_short and not self._is_held:
            self._lock.acquire()
            self._is_held = True
            self._until = now + TURN_SECONDS
        self._begun = now

    def _end(self) -> None:
        if self._is_held:
            self._is_held = False
            self._lock.release()


class OwnMemory:
    """Predictions of one model, in memory that it does not write to again.

    A model may give the same memory for each prediction, or two memories in turn. So the first predictions are to be
    copied, and kept until a further one has come: memory that is given again while it is kept was used again, and then
    all are to be copied.

    A thread holds `lock` from the call of the model until the prediction is copied, or is known
    to be left alone: the batch of another thread may be written to the same memory.

    Examples
    --------
    >>> import numpy as np
    >>> memory, same = OwnMemory(), np.zeros(2)
    >>> any(memory.is_left_alone(same) for _ in range(5))
    False
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._kept: list[AnyArray] = []
        self._is_known = False
        self._is_used_again = False
        # By the address of a prediction, what is held of it.
        self._held: dict[int, list[weakref.ref[AnyArray]]] = {}

    def __reduce__(self) -> tuple[type["OwnMemory"], tuple[()]]:
        return OwnMemory, ()

    def is_left_alone(self, prediction: AnyArray) -> bool:
        """Tell whether this prediction may be held as it is, since the model does not write to it again.

        ReusedMemoryError is raised if the model has written to a prediction that is held.
        """
        if not self._is_known:
            # As soon as it is known whether memory is used again, nothing more is kept.
            self._is_used_again = any(_address_of(prediction) == _address_of(kept) for kept in self._kept)
            self._is_known = self._is_used_again or len(self._kept) == LOOKED_AT
            self._kept = [] if self._is_known else [*self._kept, prediction]
        held = self._held.pop(_address_of(prediction), ())
        if any(reference() is not None for reference in held):
            raise ReusedMemoryError(
                "the model has written to the memory of an earlier prediction, after it had returned new memory for "
                "the first ones; let it return a new array each time, or the same one from the beginning"
            )
        return self._is_known and not self._is_used_again

    def hold(self, prediction: AnyArray, regions: Sequence[AnyArray]) -> None:
        """Remember that regions of a prediction are held as they are."""
        address = _address_of(prediction)

        def forget(_: Any) -> None:
            if all(reference() is None for reference in self._held.get(address, ())):
                self._held.pop(address, None)

        references = [weakref.ref(region, forget) for region in regions if region.base is not None]
        self._held.setdefault(address, []).extend(references)


def _address_of(array: AnyArray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
