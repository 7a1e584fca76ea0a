"""Proof that two processes share a store: each has seen what the other one has put there."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from zarr.abc.store import Store

from tilewright.errors import NotSharedError, OutputInUseError
from tilewright.locks.guard import Guard
from tilewright.stores.places import public_name
from tilewright.stores.put import get_object, put_object, write_file
from tilewright.stores.removal import delete_object, remove_file

SEEN_SECONDS = 10.0
"""Longest delay until a network file system shows what another host has written."""
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Reach:
    """Proof that a worker reads and writes the store of an output that its client sees.

    The lock of the client is the file ``key`` in a folder, or without a folder the object ``key`` of the store.
    """

    guard: Guard
    store: Store
    key: str
    folder: Path | None
    output: str

    def look(self) -> None:
        """Raise NotSharedError where this process does not see what the client has put there."""
        try:
            if self.folder is None or self.folder.is_dir():
                self.guard.check()
                return
        except OutputInUseError as error:
            raise self._unshared("does not see the lock that the client has put there") from error
        raise self._unshared(f"does not see the folder {self.folder}")

    def show(self, token: str) -> None:
        """Look, and put a token of 32 hexadecimal digits there for the client."""
        self.look()
        name, content = self._name_of(token), [token.encode()]
        try:
            if self.folder is not None:
                write_file(self.folder / name, content)
            else:
                put_object(self.store, name, content)
        except OSError as error:
            raise self._unshared(f"cannot write there: {error}") from error

    def take(self, token: str) -> bool:
        """Wait some seconds for the token of a worker, remove it, and return whether it came."""
        until = monotonic() + SEEN_SECONDS
        while not self._is_seen(token):
            if monotonic() > until:
                return False
            sleep(_PAUSE_SECONDS)
        if self.folder is not None:
            remove_file(self.folder / self._name_of(token))
        else:
            delete_object(self.store, self._name_of(token))
        return True

    def unseen(self, worker: str) -> NotSharedError:
        """Return the error of a worker that writes to a store of its own."""
        return NotSharedError(
            f"what the worker {worker} writes to the output {self.output} is not seen by the client: each has a store "
            f"of its own, {public_name(self.store)}; choose a folder, or an object store, that all of them share"
        )

    def _unshared(self, reason: str) -> NotSharedError:
        return NotSharedError(
            f"the output {self.output} is not shared: the process {os.getpid()} on the host {socket.gethostname()} "
            f"{reason}; choose a folder, or an object store, that all workers share"
        )

    def _is_seen(self, token: str) -> bool:
        name = self._name_of(token)
        try:
            found = get_object(self.store, name) if self.folder is None else (self.folder / name).read_bytes()
        except FileNotFoundError:
            return False
        return bytes(found) == token.encode()

    def _name_of(self, token: str) -> str:
        return f"{self.key}.{token}.partial"
