"""A block of a dataset that was never written is counted: libraries read it as the fill value."""

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from xxhash import xxh3_64_intdigest

from tilewright.errors import SourceError
from tilewright.sources.readers.reader import FileReader, Slices
from tilewright.sources.readers.zarr import MOST_NOTED

MOST_LISTED = 10
"""Datasets that a message lists, at most."""


@dataclass
class BlockReader(FileReader):
    """Reader of a dataset that is stored in blocks; each process remembers which of them are missing."""

    _missing: set[int] = field(default_factory=set, kw_only=True)
    _told: set[int] = field(default_factory=set, kw_only=True)

    def take_missing(self) -> frozenset[int]:
        """Return the blocks found missing since the last call, as digests of their positions."""
        missing, self._missing = self._missing, set()
        new = frozenset(missing - self._told)
        self._told |= new
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_missing": set(), "_told": set()}

    def _note_missing(
        self, slices: Slices, extents: Sequence[int], is_stored: Callable[[tuple[int, ...]], bool]
    ) -> None:
        """Remember the blocks of these extents that a window touches and that are not stored."""
        touched = (
            range(part.start // extent, -(-part.stop // extent)) for part, extent in zip(slices, extents, strict=True)
        )
        for position in product(*touched):
            if len(self._missing) < MOST_NOTED and not is_stored(position):
                self._missing.add(xxh3_64_intdigest(repr(position).encode()))


def library(name: str, kind: str, extra: str) -> Any:
    """Return a module that reads a kind of file; raise SourceError with the extra where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SourceError(
            f"{kind} is read by {name}, which cannot be imported ({error}); install it where the run and its workers "
            f'are: pip install "tilewright[{extra}]"'
        ) from error


def listed(datasets: Iterable[str]) -> str:
    """Return the first datasets of a file in one line.

    Examples
    --------
    >>> listed([]), listed(f"/{number}" for number in range(12))
    ('it holds no dataset', 'it holds /0, /1, /2, /3, /4, /5, /6, /7, /8, /9 and more')
    """
    found = [name for name, _ in zip(datasets, range(MOST_LISTED + 1), strict=False)]
    more = " and more" if len(found) > MOST_LISTED else ""
    return f"it holds {', '.join(found[:MOST_LISTED])}{more}" if found else "it holds no dataset"
