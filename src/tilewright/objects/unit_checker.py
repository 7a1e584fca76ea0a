"""Check of a unit: its stored objects against the digest in the ledger, byte for byte, without decoding."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from zarr.abc.store import Store
from zarr.storage import LocalStore

from tilewright.ledger.records import Record, Status
from tilewright.objects.digest import ObjectDigest, UnitDigest
from tilewright.objects.encoding import ObjectEncoder
from tilewright.plan import WritePlan
from tilewright.stores.put import get_object


class Condition(Enum):
    """State of a stored unit."""

    INTACT = "intact"
    MISSING = "missing"
    SHORT = "short"
    DAMAGED = "damaged"
    GIVEN_UP = "given up"


@dataclass(frozen=True)
class UnitChecker:
    """Check of the units of one output against the ledger, with an encoder for each array that exists, by number."""

    plan: WritePlan
    encoders: Mapping[int, ObjectEncoder]
    # A piece of a file stays in the cache until its digest is made.
    piece_nbytes: int = 2**20

    def check(self, record: Record) -> Condition:
        """Return the state of the unit of a record; an unreadable object counts as damaged."""
        if record.status is Status.GIVEN_UP:
            return Condition.GIVEN_UP
        digest = UnitDigest(record.array)
        encoder = self.encoders.get(record.array)
        if encoder is None:
            # Without metadata, readers find no object.
            return Condition.MISSING
        for position in self.plan.objects_of_unit(record.unit):
            found = ObjectDigest()
            try:
                for piece in self._pieces(encoder.array.store, encoder.key(position)):
                    found.update(piece)
            except FileNotFoundError:
                return Condition.MISSING
            except Exception:
                # A store may raise anything.
                return Condition.DAMAGED
            digest.add(position, found)
        if digest.nbytes < record.stored_nbytes:
            return Condition.SHORT
        return Condition.INTACT if digest.value == record.digest else Condition.DAMAGED

    def _pieces(self, store: Store, key: str) -> Iterator[memoryview]:
        if type(store) is not LocalStore:
            yield get_object(store, key)
            return
        memory = memoryview(bytearray(self.piece_nbytes))
        # Without O_NONBLOCK a pipe at this path would block.
        descriptor = os.open(store.root / key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(f"{store.root / key} is no regular file")
            while nbytes := file.readinto(memory):
                yield memory[:nbytes]
