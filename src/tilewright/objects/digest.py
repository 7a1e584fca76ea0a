"""What was stored is told from what is stored now by one number per unit, over every byte and length of its objects.

XXH3 is no protection against malice. It is against disks, and costs a fraction of writing to one:
https://github.com/Cyan4973/xxHash.
"""

from collections.abc import Iterable, Iterator

from xxhash import xxh3_64

PIECE_NBYTES = 2**19
"""What is read, and then stored, at once: it fits into a cache, and a page cache takes larger pieces more slowly."""

_LENGTH_NBYTES = 8


class ObjectDigest:
    """The digest of one object, of which one piece comes after the other.

    Attributes
    ----------
    nbytes : int
        The length so far.

    Examples
    --------
    >>> whole, parts = ObjectDigest(), ObjectDigest()
    >>> whole.update(memoryview(b"chunk"))
    >>> parts.update(memoryview(b"chu"))
    >>> parts.update(memoryview(b"nk"))
    >>> bytes(whole) == bytes(parts), whole.nbytes
    (True, 5)
    """

    def __init__(self) -> None:
        self._hash = xxh3_64()
        self.nbytes = 0

    def update(self, piece: memoryview) -> None:
        """Take in the next bytes."""
        self._hash.update(piece)
        self.nbytes += piece.nbytes

    def __bytes__(self) -> bytes:
        return self.nbytes.to_bytes(_LENGTH_NBYTES, "little") + self._hash.digest()


class DigestedObject:
    """The pieces of an object, each of which passes the digest when somebody takes it: just before it is stored.

    So it is read from memory once, and from a cache when it is stored. Whoever begins again gets all pieces again,
    and a new digest.

    Parameters
    ----------
    parts : iterable of bytes-like
        What the object is made of, in order.

    Attributes
    ----------
    digest : ObjectDigest
        The digest of what was taken since the last beginning.

    Examples
    --------
    >>> digested = DigestedObject([b"chu", b"nk"])
    >>> b"".join(digested), digested.digest.nbytes
    (b'chunk', 5)
    """

    def __init__(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        self._parts = parts
        self.digest = ObjectDigest()

    def __iter__(self) -> Iterator[memoryview]:
        self.digest = ObjectDigest()
        for part in self._parts:
            view = memoryview(part).cast("B")
            for start in range(0, view.nbytes, PIECE_NBYTES):
                piece = view[start : start + PIECE_NBYTES]
                self.digest.update(piece)
                yield piece


class UnitDigest:
    """The digest of the objects of one unit, in C order: of the length and digest of each.

    Examples
    --------
    >>> digested = DigestedObject([b"chunk"])
    >>> written = b"".join(digested)
    >>> digest = UnitDigest()
    >>> digest.add(digested.digest)
    >>> digest.nbytes, digest.value > 0
    (5, True)
    """

    def __init__(self) -> None:
        self._hash = xxh3_64()
        self.nbytes = 0

    def add(self, stored: ObjectDigest) -> None:
        """Add the next object."""
        # With its length, so that no byte can move from one object to the next.
        self._hash.update(bytes(stored))
        self.nbytes += stored.nbytes

    @property
    def value(self) -> int:
        """The digest, a whole number of 64 bits."""
        return int(self._hash.intdigest())
