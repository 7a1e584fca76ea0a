"""A dataset of an HDF5 file is read window by window, and each process opens the file for itself.

The address of a dataset is ``raw.h5:/path/of/the/dataset``. Its axes are in C order: the last one is contiguous.
"""

import importlib
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilewright.assemble import AnyArray
from tilewright.errors import SourceError
from tilewright.identity.values import digest_of
from tilewright.ome.axis_letters import known_axes_of_names
from tilewright.sources.readers.blocks import MOST_LISTED, BlockReader, library, listed
from tilewright.sources.readers.reader import Slices

_SUFFIX = r"\.(?:h5|hdf5)"
_ADDRESS = re.compile(rf"(?P<file>.*{_SUFFIX}):(?P<dataset>.*)", re.IGNORECASE | re.DOTALL)


def split_address(path: Path) -> tuple[Path, str | None]:
    """Return the file and the dataset of an address, "" where it names none, and None for a path of another kind.

    Examples
    --------
    >>> file, dataset = split_address(Path("a/raw.h5:/volumes/raw"))
    >>> file.as_posix(), dataset
    ('a/raw.h5', '/volumes/raw')
    >>> split_address(Path("raw.HDF5"))[1], split_address(Path("raw.tif:/0"))[1]
    ('', None)
    """
    if re.fullmatch(_SUFFIX, path.suffix, re.IGNORECASE) and not path.is_dir():
        return path, ""
    address = None if path.exists() else _ADDRESS.fullmatch(str(path))
    if address is None:
        return path, None
    dataset = address["dataset"].strip("/")
    return Path(address["file"]), f"/{dataset}" if dataset else ""


@dataclass
class Hdf5Reader(BlockReader):
    """Reader of one dataset of an HDF5 file."""

    dataset: str
    _is_whole: bool = field(default=True, kw_only=True)

    @property
    def inside(self) -> str:
        """The dataset, as it follows the path of the file."""
        return f":{self.dataset}"

    @property
    def view(self) -> str:
        """The dataset that is read, and the sizes and times of other files that it lies in."""
        others = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in _other_files(self.open())]
        return f", dataset {self.dataset}{f', in other files {digest_of(repr(others))}' if others else ''}"

    @property
    def said_axes(self) -> str:
        """The axes that the labels of the dimensions name; empty without labels."""
        labels = [dimension.label for dimension in self.open().dims]
        return known_axes_of_names(labels) if any(labels) else ""

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""
        window = super().read(slices)
        if not self._is_whole:
            dataset = self.open()
            extents = dataset.chunks or dataset.shape
            self._note_missing(slices, extents, lambda position: _is_stored(dataset, position))
        return window

    def _open(self) -> Any:
        h5py = library("h5py", "HDF5", "hdf5")
        with suppress(ImportError):
            # Its import makes more compressors known to HDF5, in this process alone.
            importlib.import_module("hdf5plugin")
        # A file system without locks is no reason to refuse to read.
        file = h5py.File(self.path, "r", locking="best-effort")
        try:
            return self._dataset_in(file, h5py)
        except BaseException:
            file.close()
            raise

    def _dataset_in(self, file: Any, h5py: Any) -> Any:
        node = file.get(self.dataset) if self.dataset else file
        if not isinstance(node, h5py.Dataset):
            wrong = f"holds no dataset {self.dataset!r}" if self.dataset else "is a file of datasets, and none is named"
            raise SourceError(
                f"the HDF5 file {self.path} {wrong}: {listed(_datasets_of(file, h5py))}; pass file and dataset, such "
                f"as {Path(self.path).name}:/volumes/raw"
            )
        _other_files(node)
        # All that is in memory, or in other files, counts as stored.
        status = node.id.get_space_status()
        self._is_whole = node.is_virtual or node.external or status == h5py.h5d.SPACE_STATUS_ALLOCATED
        return node


def _is_stored(dataset: Any, position: tuple[int, ...]) -> bool:
    """Return whether a chunk is stored; a dataset without chunks, of which nothing is, has none."""
    if dataset.chunks is None:
        return False
    start = tuple(index * extent for index, extent in zip(position, dataset.chunks, strict=True))
    return dataset.id.get_chunk_info_by_coord(start).byte_offset is not None


def _other_files(dataset: Any) -> list[Path]:
    """Return the files that parts of a dataset lie in; raise SourceError if one is missing: it would read as zeros."""
    folder = Path(dataset.file.filename).parent
    names = {part.file_name for part in dataset.virtual_sources()} if dataset.is_virtual else set()
    names |= {name for name, _, _ in dataset.external or ()}
    files: set[Path] = set()
    # "." is the file itself.
    for name in names - {"."}:
        # A pattern such as "%b" stands for any number of files.
        found = list(folder.glob(re.sub(r"%\d*b", "*", name))) if "%" in name else [folder / name]
        files.update(found)
        if not all(file.is_file() for file in found):
            raise SourceError(
                f"the dataset {dataset.name} of {dataset.file.filename} has a part in {name}, which is not there: it "
                "would read as the fill value; put it there"
            )
    return sorted(files)


def _datasets_of(file: Any, h5py: Any) -> list[str]:
    """Return the first datasets of a file, with their shapes and data types."""
    found: list[str] = []

    def note(name: str, node: Any) -> bool | None:
        if isinstance(node, h5py.Dataset):
            found.append(f"/{name} {node.shape} {node.dtype}")
        # Anything but None ends the visit.
        return True if len(found) > MOST_LISTED else None

    file.visititems(note)
    return found
