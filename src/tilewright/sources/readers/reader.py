"""A reader gives windows of one image as new arrays, and reads the same file or array in every process."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

from tilewright.assemble import AnyArray
from tilewright.conversion import is_array
from tilewright.errors import SourceElsewhereError, SourceError
from tilewright.identity.values import value_identity

Slices = tuple[slice, ...]

ReadFunction = Callable[[Path, str], Any]
"""Function of a user that reads a file: takes its path and its axes, returns an array of NumPy, Zarr or Dask."""


class Reader:
    """Base class of the readers; each process opens the image for itself."""

    def open(self) -> Any:
        """Return the open image: an object with a shape and a dtype that can be sliced."""
        raise NotImplementedError

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""
        return owned(self.open()[slices])

    def close(self) -> None:
        """Close a file of this process; the next read opens it again."""
        return

    @property
    def is_open(self) -> bool:
        """Whether the image is open."""
        return True

    @property
    def view(self) -> str:
        """The part of the file that is read, for the identity of the source; empty for all of it."""
        return ""

    @property
    def content(self) -> str:
        """Digest of the content, where neither a file nor a known array tells it; empty elsewhere."""
        return ""

    @property
    def inside(self) -> str:
        """The part of the file that is read, as it follows the path of the file; empty where the path names it."""
        return ""

    def take_missing(self) -> frozenset[int]:
        """Return the stored objects that were read as the fill value since the last call, as digests of their keys."""
        return frozenset()

    @contextmanager
    def held_by(self, client: Client, look: Callable[[], None]) -> Iterator[None]:
        """Let the workers of a cluster find the persisted parts of the image."""
        yield


def owned(window: Any) -> AnyArray:
    """Return an array that a model may change: no view of the source, no read-only memory; raises as `unmasked`."""
    array = np.asarray(unmasked(window))
    return array if array.flags.owndata and array.flags.writeable else array.copy()


def unmasked(values: Any) -> Any:
    """Return the data of a masked array, and other values unchanged; raise ValueError where elements are masked."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    if np.ma.is_masked(values):
        raise ValueError(
            f"{int(np.ma.getmaskarray(values).sum())} elements of {values.size} are masked, and a mask would be "
            "dropped; fill them with a value first: masked.filled(0)"
        )
    return values.data


@dataclass
class ArrayReader(Reader):
    """Reader of an array in memory, or of an array that can be pickled."""

    array: Any

    def open(self) -> Any:
        """Return the array."""
        return self.array


@dataclass
class FileReader(Reader):
    """Reader of a file, which must be the same one in all processes."""

    path: str
    _opened: Any = field(default=None, kw_only=True)
    _described_as: tuple[int, int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._described_as = self._status()

    def open(self) -> Any:
        """Return the open image."""
        if self._opened is None:
            self._check_same()
            self._opened = self._open()
        return self._opened

    def close(self) -> None:
        """Close the file."""
        self._opened = None

    @property
    def is_open(self) -> bool:
        """Whether this process has opened the file."""
        return self._opened is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _open(self) -> Any:
        raise NotImplementedError

    def _status(self) -> tuple[int, int] | None:
        """Return bytes and time of a file; None for a folder, where they change without its content."""
        path = Path(self.path)
        if not path.is_file():
            return None
        status = path.stat()
        return status.st_size, status.st_mtime_ns

    def _check_same(self) -> None:
        """Raise SourceElsewhereError if the file is missing, or is not the described one."""
        host = socket.gethostname()
        if not os.path.lexists(self.path):
            reason = f"the source {self.path} does not exist on the host {host}; put it where all workers see it"
            raise SourceElsewhereError(reason)
        found = self._status()
        if found != self._described_as:
            raise SourceElsewhereError(
                f"could not read {self.path}: on the host {host} it is another file, or has changed since the run "
                f"began: (bytes, time in nanoseconds) was {self._described_as}, is {found}"
            )


@dataclass
class FunctionReader(FileReader):
    """Reader of a file through a function of the user: the whole file, unless the function returns a lazy array."""

    axes: str
    function: ReadFunction
    reader_of: Callable[[Any], Reader]
    _lock: threading.Lock = field(default_factory=threading.Lock, kw_only=True, repr=False, compare=False)
    # Shape and data type of what the function has returned first, in whichever process.
    _returned: tuple[Any, Any] | None = field(default=None, kw_only=True)

    def open(self) -> Any:
        """Return the open image."""
        return self._reader().open()

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""
        return self._reader().read(slices)

    def _reader(self) -> Reader:
        """Return the reader of what the function returns; of several threads that ask, one calls it."""
        with self._lock:
            reader: Reader = super().open()
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def view(self) -> str:
        """The function that reads the file."""
        return f", read by {value_identity(self.function)}"

    def _open(self) -> Reader:
        array = self.function(Path(self.path), self.axes)
        if not is_array(array):
            raise SourceError(
                f"read_source_func must return an array of NumPy, Zarr or Dask, but for {self.path} it returned "
                f"{type(array).__name__}"
            )
        returned = tuple(array.shape), np.dtype(array.dtype).str
        self._returned = self._returned or returned
        if returned != self._returned:
            raise SourceElsewhereError(
                f"read_source_func returned (shape, data type) {self._returned} for {self.path} at first, and "
                f"{returned} on the host {socket.gethostname()}; it must return the same array everywhere"
            )
        return self.reader_of(array)


@dataclass
class MemmapReader(FileReader):
    """Reader of a memory map: a part of a file of bare numbers."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    order: Any

    @property
    def view(self) -> str:
        """The part of the file that is read."""
        return f", from byte {self.offset} in {self.order} order"

    def _open(self) -> Any:
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)
