"""A dataset of an N5 container is read window by window, by TensorStore.

N5 lists the dimensions of a dataset from the fastest to the slowest: ``[X, Y, Z]`` where X is contiguous. The axes here
are the reverse, ZYX, in C order as those of Zarr, HDF5 and NumPy.
"""

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.errors import SourceElsewhereError, SourceError
from tilewright.sources.readers.blocks import BlockReader, library, listed
from tilewright.sources.readers.reader import Slices, owned
from tilewright.stores.metadata import is_zarr

SUFFIX = ".n5"
_NAMES = ("dimensions", "blockSize", "dataType", "compression", "compressionType")
"""Attributes that say how a dataset is stored; others are of the user."""
_processes: set[int] = set()
"""The process in which TensorStore has started its threads, which a fork does not have."""


def is_n5(path: Path) -> bool:
    """Tell whether a path is a folder of an N5 container: ``.n5``, or below one, and no node of Zarr."""
    return any(part.lower().endswith(SUFFIX) for part in path.parts) and path.is_dir() and not is_zarr(path)


@dataclass
class N5Array:
    """A dataset whose axes are in C order; TensorStore opens it at the first read."""

    filename: str
    metadata: dict[str, Any]
    _stores: dict[bool, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the axes."""
        return tuple(reversed(self.metadata["dimensions"]))

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extents of a block."""
        return tuple(reversed(self.metadata["blockSize"]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the elements."""
        named: np.dtype[Any] = np.dtype(self.metadata["dataType"])
        return named

    def key(self, position: tuple[int, ...]) -> str:
        """Return the name of the file of a block, relative to the dataset."""
        return "/".join(map(str, reversed(position)))

    def __getitem__(self, slices: Slices) -> AnyArray:
        return self.read(slices)

    def read(self, slices: Slices, *, is_filled: bool = True) -> AnyArray:
        """Return a window; a missing block is read as zeros, or is a ValueError that begins with NOT_FOUND."""
        if _processes and os.getpid() not in _processes:
            raise SourceError(
                f"N5 cannot be read in a process that was forked from one that has read it, of {self.filename}; let "
                "a data loader start its workers with multiprocessing_context='spawn'"
            )
        _processes.add(os.getpid())
        if is_filled not in self._stores:
            spec = {
                "driver": "n5",
                "kvstore": {"driver": "file", "path": self.filename},
                "fill_missing_data_reads": is_filled,
            }
            tensorstore = library("tensorstore", "N5", "n5")
            self._stores[is_filled] = tensorstore.open(spec, open=True, read=True).result().T
        return owned(self._stores[is_filled][slices].read().result())


@dataclass
class N5Reader(BlockReader):
    """Reader of one dataset; its metadata must be the same in every process."""

    metadata: dict[str, Any]

    @classmethod
    def of(cls, path: str) -> "N5Reader":
        """Return the reader of a dataset; raise SourceError, which lists the datasets, where the path is none."""
        metadata = _metadata_of(Path(path))
        if "dimensions" not in metadata:
            raise SourceError(
                f"{path} is a group of an N5 container, not a dataset: {listed(_datasets_below(Path(path)))}; pass the "
                "path of a dataset"
            )
        return cls(path, metadata)

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""
        array: N5Array = self.open()
        try:
            return array.read(slices, is_filled=False)
        except ValueError as error:
            if not str(error).startswith("NOT_FOUND"):
                raise
        self._note_missing(slices, array.chunks, lambda position: Path(self.path, array.key(position)).exists())
        return array.read(slices)

    def _open(self) -> N5Array:
        library("tensorstore", "N5", "n5")
        if _metadata_of(Path(self.path)) != self.metadata:
            raise SourceElsewhereError(
                f"the metadata of the N5 dataset {self.path}, seen from process {os.getpid()} on the host "
                f"{socket.gethostname()}, are not those of the dataset that was opened first"
            )
        return N5Array(self.path, self.metadata)


def _metadata_of(folder: Path) -> dict[str, Any]:
    """Return how a dataset is stored; empty where the folder is a group."""
    file = folder / "attributes.json"
    attributes = json.loads(file.read_text()) if file.is_file() else {}
    return {name: attributes[name] for name in _NAMES if name in attributes}


def _datasets_below(root: Path) -> Iterator[str]:
    """Yield the datasets below a group, with their shapes and data types; the folders of their blocks are left out."""
    for folder, inner, files in os.walk(root):
        found = _metadata_of(Path(folder)) if "attributes.json" in files else {}
        if "dimensions" in found:
            inner.clear()
            shape = tuple(reversed(found["dimensions"]))
            yield f"{Path(folder).relative_to(root).as_posix()} {shape} {found.get('dataType')}"
        inner.sort()
