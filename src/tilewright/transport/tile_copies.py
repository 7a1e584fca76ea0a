"""A tile that was sent away can be sent again: it is kept here, in memory, or in a file where that is too much."""

import tempfile
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.errors import DestinationError


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """One array that is kept: itself, or where it lies in the file."""

    nbytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: AnyArray | None
    offset: int


class TileCopies:
    """Keep arrays, the first so many bytes of them in memory.

    Parameters
    ----------
    folder : Path
        Where the file is made, if one is needed. It has no name, so that nothing of it stays.
    memory_nbytes : int
        What may be kept in memory.
    """

    def __init__(self, folder: Path = Path(), memory_nbytes: int = 2**63) -> None:
        self._folder = folder
        self._free_nbytes = memory_nbytes
        self._file: IO[bytes] | None = None
        self._end = 0
        self._free_places: dict[int, list[int]] = defaultdict(list)

    def add(self, array: AnyArray) -> Copy:
        """Keep an array, which must not change."""
        if array.nbytes <= self._free_nbytes:
            self._free_nbytes -= array.nbytes
            return Copy(array.nbytes, array.shape, array.dtype, array, 0)
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        free = self._free_places[array.nbytes]
        offset = free.pop() if free else self._end
        try:
            self._file.seek(offset)
            array.tofile(self._file)
        except OSError as error:
            raise DestinationError(
                f"tiles that wait for the rest of their image could not be kept in a file in {self._folder}: {error}; "
                "make space there, or let more of them be kept in memory with memory_nbytes"
            ) from error
        self._end = max(self._end, offset + array.nbytes)
        return Copy(array.nbytes, array.shape, array.dtype, None, offset)

    def read(self, copy: Copy) -> AnyArray:
        """Return an array that is kept."""
        if copy.array is not None:
            return copy.array
        if self._file is None:
            raise ValueError("the copies are closed")
        self._file.seek(copy.offset)
        return np.fromfile(self._file, copy.dtype, prod(copy.shape)).reshape(copy.shape)

    def release(self, copy: Copy) -> None:
        """Let go of an array."""
        if copy.array is not None:
            self._free_nbytes += copy.nbytes
            return
        self._free_places[copy.nbytes].append(copy.offset)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
