"""Digest of a unit: one number over every byte and length of its objects, to detect a change on disk.

XXH3 costs a fraction of a write to disk. It is no protection against malice: https://github.com/Cyan4973/xxHash.
"""

from collections.abc import Iterable, Iterator

from xxhash import xxh3_64

PIECE_NBYTES = 2**19
"""Size of a piece: it fits into the cache of a core, and a page cache takes larger pieces more slowly."""

_LENGTH_NBYTES = 8


class ObjectDigest:
    """Digest and length of one object, made piece by piece."""

    def __init__(self) -> None:
        self._hash = xxh3_64()
        self.nbytes = 0

    def update(self, piece: memoryview) -> None:
        """Add the next bytes."""
        self._hash.update(piece)
        self.nbytes += piece.nbytes

    def __bytes__(self) -> bytes:
        return self.nbytes.to_bytes(_LENGTH_NBYTES, "little") + self._hash.digest()


class DigestedObject:
    """Pieces of an object, each of which passes the digest just before it is stored.

    So a piece is read from memory once, and from a cache when it is stored. Each iteration makes a new digest.

    Examples
    --------
    >>> parts, whole = DigestedObject([b"chu", b"nk"]), DigestedObject([b"chunk"])
    >>> b"".join(parts) == b"".join(whole), bytes(parts.digest) == bytes(whole.digest), parts.digest.nbytes
    (True, True, 5)
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
    """Digest of one unit: the sum over its objects of a digest of array, place, length and content of each.

    So the sum over all units is the same, however objects are grouped to units.

    Parameters
    ----------
    array : int
        Number of the array.

    Attributes
    ----------
    value : int
        Digest, a whole number of 64 bits.
    nbytes : int
        Bytes of the objects.
    """

    def __init__(self, array: int) -> None:
        self._array = array
        self.value = 0
        self.nbytes = 0

    def add(self, position: tuple[int, ...], stored: ObjectDigest) -> None:
        """Add the object at a position on the grid of the array."""
        # With the length: no byte can move from one object to the next.
        place = f"{self._array}:{position}:".encode()
        self.value = sum_of_digests((self.value, int(xxh3_64(place + bytes(stored)).intdigest())))
        self.nbytes += stored.nbytes


def sum_of_digests(digests: Iterable[int]) -> int:
    """Return the digest of several units together.

    Examples
    --------
    >>> sum_of_digests([2**64 - 1, 3])
    2
    """
    return sum(digests) % 2**64


def digest_text(digest: int) -> str:
    """Return a digest as a short text.

    Examples
    --------
    >>> digest_text(255)
    '00000000000000ff'
    """
    return f"{digest:016x}"
