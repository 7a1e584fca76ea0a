"""A tile that was sent away can be sent again: it is kept here, in memory, or in a file where that is too much."""

import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from tilewright.assemble import AnyArray


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

    def __init__(self, folder: Path, memory_nbytes: int) -> None:
        self._folder = folder
        self._free_nbytes = memory_nbytes
        self._file: IO[bytes] | None = None
        self._end = 0
        self._count_in_file = 0

    def add(self, array: AnyArray) -> Copy:
        """Keep an array that nobody changes."""
        if array.nbytes <= self._free_nbytes:
            self._free_nbytes -= array.nbytes
            return Copy(array.nbytes, array.shape, array.dtype, array, 0)
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        offset, self._end = self._end, self._end + array.nbytes
        self._file.seek(offset)
        array.tofile(self._file)
        self._count_in_file += 1
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
        self._count_in_file -= 1
        if self._count_in_file == 0 and self._file is not None:
            self._file.truncate(0)
            self._end = 0

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
