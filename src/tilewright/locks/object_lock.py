"""Lock object of an output in a store that is no folder: all processes that write there see it.

Where a store has no put that fails for an existing object, the lock is put, and read again after a while: of two
processes that put at the same time the last one has it, and the first one sees that.
"""

from collections.abc import Coroutine
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any, NamedTuple

from zarr.abc.store import Store
from zarr.storage import MemoryStore

from tilewright.locks.guard import lost
from tilewright.locks.holder import Holder
from tilewright.locks.lock import TIMES, Lock, Times
from tilewright.stores.patience import Patience, answer_of
from tilewright.stores.put import get_object
from tilewright.stores.removal import delete_object
from tilewright.stores.zarr_api import Buffer, buffer_of

NAME = "tilewright.lock"
GUARD_SECONDS = 0.1
"""Time between two looks of a task at the lock: each look is a request."""
SETTLE_SECONDS = 1.0
"""Longest time of a put by another process that began before it saw the lock."""
_PATIENCE = Patience(attempts=2)


class _Content(NamedTuple):
    """Content of a lock object: the holder, and a number that changes while it runs."""

    holder: Holder
    beat: int = 0

    def to_buffer(self) -> Buffer:
        return buffer_of([self.holder.to_bytes() + b"\n%d" % self.beat])

    @classmethod
    def read(cls, store: Store, key: str) -> "_Content | None":
        try:
            raw = bytes(get_object(store, key, _PATIENCE))
        except FileNotFoundError:
            return None
        # A torn content may have no second line.
        holder, _, beat = raw.rpartition(b"\n")
        return cls(Holder.from_bytes(holder or raw, f"the object {key}"), int(beat) if beat.isdigit() else 0)


@dataclass
class ObjectGuard:
    """Proof that a lock object still has the token of one run."""

    store: Store
    key: str
    token: str
    _seen: float = float("-inf")

    def check(self) -> None:
        """Raise OutputInUseError where the lock is gone, or of another holder; looks ten times a second at most."""
        if monotonic() - self._seen < GUARD_SECONDS:
            return
        content = _Content.read(self.store, self.key)
        if content is None or content.holder.token != self.token:
            raise lost(self.key)
        self._seen = monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # The clocks of processes differ.
        return {"store": self.store, "key": self.key, "token": self.token}


class ObjectLock(Lock):
    """Lock that is an object of a store, in the group of the output; the group of the root is empty."""

    def __init__(self, store: Store, group: str, output: str, times: Times = TIMES) -> None:
        self._store = store
        self.key = f"{group}/{NAME}" if group else NAME
        super().__init__(output, f"the object {self.key}", times)

    def wait_for_holder(self) -> Holder | None:
        """Return the running holder."""
        found = self._read()
        return None if found is None or self._is_dead(found) else found.holder

    def guard(self) -> ObjectGuard:
        """Return the proof of the lock for tasks."""
        if self._holder is None:
            raise lost(self.key, self._output)
        return ObjectGuard(self._store, self.key, self._holder.token)

    def _take(self, holder: Holder) -> tuple[Holder | None, Holder]:
        found = self._read()
        if found is None:
            self._answer(self._store.set_if_not_exists(self.key, _Content(holder).to_buffer()))
            self._check_is_of(holder)
        elif self._is_dead(found):
            holder = replace(holder, number=max(holder.number, found.holder.number + 1))
            self._put(_Content(holder))
        else:
            raise self._in_use(found.holder)
        if found is not None or not _is_atomic(self._store):
            sleep(SETTLE_SECONDS)
        self._check_is_of(holder)
        return None if found is None else found.holder, holder

    def _check_is_of(self, holder: Holder) -> None:
        """Raise OutputInUseError where the object names another holder."""
        now = self._read_holder()
        if now is None or now.token != holder.token:
            raise self._in_use(now or holder)

    def _give_back(self, holder: Holder) -> None:
        found = self._read_holder()
        if found is not None and found.token == holder.token:
            delete_object(self._store, self.key, _PATIENCE)

    def _touch(self, holder: Holder) -> None:
        found = self._read()
        if found is not None and found.holder.token == holder.token:
            self._put(_Content(holder, found.beat + 1))

    def _is_dead(self, found: _Content) -> bool:
        if found.holder.is_here:
            return not found.holder.is_running
        until = monotonic() + self._times.dead
        while monotonic() < until:
            sleep(self._times.look)
            if self._read() != found:
                return False
        return True

    def _read(self) -> _Content | None:
        return _Content.read(self._store, self.key)

    def _read_holder(self) -> Holder | None:
        found = self._read()
        return None if found is None else found.holder

    def _put(self, content: _Content) -> None:
        self._answer(self._store.set(self.key, content.to_buffer()))

    def _answer(self, request: Coroutine[Any, Any, None]) -> None:
        answer_of(self._store, self.key, request, _PATIENCE.answer_seconds)


def _is_atomic(store: Store) -> bool:
    """Tell whether `Store.set_if_not_exists` lets one of several processes win."""
    return isinstance(store, MemoryStore) or type(store).__name__ == "ObjectStore"
