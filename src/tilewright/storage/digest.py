"""What was stored is told from what is stored now by one number per unit, over every byte and length of its objects.

XXH3 is no protection against malice. It is against disks, and costs a fraction of writing to one:
https://github.com/Cyan4973/xxHash.
"""

from collections.abc import Iterable
from typing import Any

from xxhash import xxh3_64

_LENGTH_NBYTES = 8
_STEP_NBYTES = 2**15
"""xxhash lets go of the interpreter for more than this, and to get it back takes longer than the digest."""


class UnitDigest:
    """The digest of the objects of one unit, in C order.

    Examples
    --------
    >>> whole, parts = UnitDigest(), UnitDigest()
    >>> whole.add_object([b"chunk"])
    5
    >>> parts.add_object([b"chu", b"nk"])
    5
    >>> whole.value == parts.value
    True
    """

    def __init__(self) -> None:
        self._hash = xxh3_64()

    def add_object(self, parts: Iterable[Any]) -> int:
        """Add the next object, given as one or more bytes-like parts, and return its length in bytes."""
        nbytes = 0
        for part in parts:
            view = memoryview(part).cast("B")
            for start in range(0, view.nbytes, _STEP_NBYTES):
                self._hash.update(view[start : start + _STEP_NBYTES])
            nbytes += view.nbytes
        # So that no byte can move from one object to the next.
        self._hash.update(nbytes.to_bytes(_LENGTH_NBYTES, "little"))
        return nbytes

    @property
    def value(self) -> int:
        """The digest, a whole number of 64 bits."""
        return int(self._hash.intdigest())
