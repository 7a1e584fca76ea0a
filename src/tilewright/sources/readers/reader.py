"""A reader gives windows of one image as arrays of their own, and is opened anew in each process that reads.

What it opens there is what the source was when it was described: a file of the same size and time, or the same array.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.conversion import is_array
from tilewright.errors import SourceElsewhereError, SourceError
from tilewright.identity.values import value_identity

Slices = tuple[slice, ...]

ReadFunction = Callable[[Path, str], Any]
"""What reads a file that is neither TIFF nor Zarr: from its path and its axes to an array, of NumPy, Zarr or Dask."""


class Reader(Protocol):
    """What gives the elements of a source."""

    def open(self) -> Any:
        """Return something with a shape and a dtype that can be sliced."""

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""

    def close(self) -> None:
        """Let go of what was opened; reading opens it again."""

    @property
    def is_open(self) -> bool:
        """Whether something is opened."""


def owned(window: Any) -> AnyArray:
    """Return an array that a model may change: no view of the source, and no read-only memory.

    Raises
    ------
    ValueError
        If elements of it are masked.
    """
    array = np.asarray(unmasked(window))
    return array if array.flags.owndata and array.flags.writeable else array.copy()


def unmasked(values: Any) -> Any:
    """Return the values of a masked array of which nothing is masked, and anything else as it is.

    Raises
    ------
    ValueError
        If elements are masked: their values mean nothing.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return values
    if np.ma.is_masked(values):
        raise ValueError(
            f"{int(np.ma.getmaskarray(values).sum())} elements of {values.size} are masked, and a mask would be "
            "dropped; fill them with a value first: masked.filled(0)"
        )
    return values.data


@dataclass
class ArrayReader:
    """An array in the memory of this process, or one that knows itself how to travel."""

    array: Any

    def open(self) -> Any:
        """Return what is sliced, opened where it is not open."""
        return self.array

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""
        return owned(self.array[slices])

    def close(self) -> None:
        """Leave it: it belongs to the caller."""

    @property
    def is_open(self) -> bool:
        """Whether something is opened."""
        return True


@dataclass
class FileReader:
    """A file that each process opens for itself, and that must be the same one in all of them."""

    path: str
    _opened: Any = field(default=None, kw_only=True)
    _described_as: tuple[int, int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._described_as = self._status()

    def open(self) -> Any:
        """Return what is sliced, opened where it is not open."""
        if self._opened is None:
            self._check_same()
            self._opened = self._open()
        return self._opened

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""
        return owned(self.open()[slices])

    def close(self) -> None:
        """Let go of what was opened."""
        self._opened = None

    @property
    def is_open(self) -> bool:
        """Whether something is opened."""
        return self._opened is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _open(self) -> Any:
        raise TypeError("a file reader must know how to open its file")

    def _status(self) -> tuple[int, int] | None:
        """Return size and time of a file; None of a folder, of which they say little."""
        path = Path(self.path)
        if not path.is_file():
            return None
        status = path.stat()
        return status.st_size, status.st_mtime_ns

    def _check_same(self) -> None:
        """Raise SourceElsewhereError where the file is not there, or is another one than was described."""
        if not os.path.lexists(self.path):
            raise SourceElsewhereError(
                f"the source {self.path} does not exist on the host {socket.gethostname()}; put it where all workers "
                "see it"
            )
        found = self._status()
        if found != self._described_as:
            raise SourceElsewhereError(
                f"could not read {self.path}: it is another file on the host {socket.gethostname()} than where the run "
                f"began, or has changed since then: (bytes, time in nanoseconds) was {self._described_as}, is {found}"
            )


@dataclass
class FunctionReader(FileReader):
    """A file that a function of the user reads: whole, unless what it returns is lazy."""

    axes: str = ""
    function: ReadFunction | None = None
    reader_of: "Callable[[Any], Reader] | None" = None

    def open(self) -> Any:
        """Return what is sliced, opened where it is not open."""
        return self._reader().open()

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""
        return self._reader().read(slices)

    def _reader(self) -> Reader:
        reader: Reader = super().open()
        return reader

    @property
    def view(self) -> str:
        """What is read of it where that is not all."""
        return f", read by {value_identity(self.function)}"

    def _open(self) -> Reader:
        if self.function is None or self.reader_of is None:
            raise TypeError("there is no function that reads the file")
        array = self.function(Path(self.path), self.axes)
        if not is_array(array):
            raise SourceError(
                f"read_source_func must return an array of NumPy, Zarr or Dask, but for {self.path} it returned "
                f"{type(array).__name__}"
            )
        return self.reader_of(array)


@dataclass
class MemmapReader(FileReader):
    """A part of a file of bare numbers."""

    dtype: str = ""
    shape: tuple[int, ...] = ()
    offset: int = 0
    order: Any = "C"

    @property
    def view(self) -> str:
        """What is read of it where that is not all."""
        return f", from byte {self.offset} in {self.order} order"

    def _open(self) -> Any:
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)
