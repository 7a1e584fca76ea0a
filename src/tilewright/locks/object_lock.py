"""A lock in a store that is no folder is an object of the store, so that all who write there see it.

A store may lack a put that fails where an object exists. Then the lock is put, and read again after a while: of two
processes that put at the same time, the last one has it, and the other one sees that.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any

from zarr.abc.store import Store
from zarr.storage import MemoryStore

from tilewright.errors import OutputInUseError
from tilewright.locks import lock as beats
from tilewright.locks.guard import lost
from tilewright.locks.holder import Holder
from tilewright.locks.lock import beating
from tilewright.stores.patience import Patience, answer_of
from tilewright.stores.put import get_object
from tilewright.stores.removal import delete_object
from tilewright.stores.zarr_api import buffer_of

NAME = "tilewright.lock"
GUARD_SECONDS = 0.1
"""How long a task relies on its last look at the lock: each look is a request."""
SETTLE_SECONDS = 1.0
"""How long a put of another process may take that began before a lock was seen."""
_PATIENCE = Patience(attempts=2)


@dataclass(frozen=True)
class _Content:
    """What a lock object holds: its holder, and a number that changes while the holder lives."""

    holder: Holder
    beat: int = 0

    def to_bytes(self) -> bytes:
        return self.holder.to_bytes() + b"\n%d" % self.beat

    @classmethod
    def read(cls, store: Store, key: str) -> "_Content | None":
        try:
            raw = bytes(get_object(store, key, _PATIENCE))
        except FileNotFoundError:
            return None
        holder, _, beat = raw.rpartition(b"\n")
        if not holder:
            return cls(Holder.from_bytes(raw, f"the object {key}"))
        return cls(Holder.from_bytes(holder, f"the object {key}"), int(beat) if beat.isdigit() else 0)


@dataclass
class ObjectGuard:
    """The proof that a lock object is still that of one holder.

    Parameters
    ----------
    store : zarr store
        The store.
    key : str
        The lock.
    token : str
        That of the run.
    """

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


class ObjectLock:
    """A lock that is an object of a store, held from `acquire` to `release`.

    Parameters
    ----------
    store : zarr store
        The store.
    group : str
        The group of the output in it; empty for the root.
    output : str
        The output, for messages.
    """

    def __init__(self, store: Store, group: str, output: str) -> None:
        self._store = store
        self.key = f"{group}/{NAME}" if group else NAME
        self._output = output
        self._content: _Content | None = None
        self.taken_from: Holder | None = None

    def acquire(self, number: int = 1, *, has_workers: bool = False) -> None:
        """Take the lock; as `WriterLock.acquire`."""
        content = _Content(Holder.me(number, has_workers=has_workers))
        found = self._read()
        if found is not None:
            if not self._is_dead(found):
                raise self._in_use(found.holder)
            content = replace(content, holder=replace(content.holder, number=max(number, found.holder.number + 1)))
            self._put(content)
        elif not self._create(content):
            raise self._in_use((self._read() or content).holder)
        if found is not None or not _is_atomic(self._store):
            sleep(SETTLE_SECONDS)
        now = self._read()
        if now is None or now.holder.token != content.holder.token:
            raise self._in_use((now or content).holder)
        self.taken_from = None if found is None else found.holder
        self._content = content
        beating.add(self)

    def holder(self) -> Holder | None:
        """Return the holder, as far as can be told at once; None where there is none."""
        found = self._read()
        if found is None or (found.holder.is_here and not found.holder.is_running):
            return None
        return found.holder

    def wait_for_holder(self) -> Holder | None:
        """Return the holder where it lives."""
        found = self._read()
        return None if found is None or self._is_dead(found) else found.holder

    @property
    def number(self) -> int:
        """The fencing number; 0 where the lock is not held."""
        return 0 if self._content is None else self._content.holder.number

    def guard(self) -> ObjectGuard:
        """Return what tells tasks whether the lock is still held."""
        if self._content is None:
            raise lost(self.key, self._output)
        return ObjectGuard(self._store, self.key, self._content.holder.token)

    def check(self) -> None:
        """Raise OutputInUseError where the lock is gone: it was removed, or another process has taken it."""
        self.guard().check()

    def release(self) -> None:
        """Give the lock back; a second call does nothing. A lock of another holder is left alone."""
        beating.discard(self)
        content, self._content = self._content, None
        if content is None:
            return
        with suppress(OSError):
            found = self._read()
            if found is not None and found.holder.token == content.holder.token:
                delete_object(self._store, self.key, _PATIENCE)

    def beat(self) -> None:
        """Show that the holder lives; a lock of another holder is left alone."""
        content = self._content
        with suppress(OSError):
            found = self._read()
            if content is not None and found is not None and found.holder.token == content.holder.token:
                self._put(replace(content, beat=found.beat + 1))

    def _is_dead(self, found: _Content) -> bool:
        if found.holder.is_here:
            return not found.holder.is_running
        until = monotonic() + beats.DEAD_SECONDS
        while monotonic() < until:
            sleep(min(1.0, beats.DEAD_SECONDS / 4))
            if self._read() != found:
                return False
        return True

    def _in_use(self, holder: Holder) -> OutputInUseError:
        return OutputInUseError(
            f"the output {self._output} is being written by process {holder.process} on {holder.host}; let it end, or "
            f"end it. Its lock is the object {self.key}"
        )

    def _read(self) -> _Content | None:
        return _Content.read(self._store, self.key)

    def _create(self, content: _Content) -> bool:
        """Put the lock where there is none; return whether it is there and is this one, as far as can be told."""
        request = self._store.set_if_not_exists(self.key, buffer_of([content.to_bytes()]))
        answer_of(self._store, self.key, request, _PATIENCE.answer_seconds)
        now = self._read()
        return now is not None and now.holder.token == content.holder.token

    def _put(self, content: _Content) -> None:
        request = self._store.set(self.key, buffer_of([content.to_bytes()]))
        answer_of(self._store, self.key, request, _PATIENCE.answer_seconds)


def _is_atomic(store: Store) -> bool:
    """Tell whether `Store.set_if_not_exists` lets one of several processes win."""
    return isinstance(store, MemoryStore) or type(store).__name__ == "ObjectStore"
