"""An output is checked before anything is predicted, and created once, before the first tile."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from tilewright.errors import DestinationError, DestinationExistsError, GeometryError, ResumeError
from tilewright.plan import WritePlan
from tilewright.plan.describe import format_nbytes
from tilewright.plan.dtypes import dtype_name
from tilewright.storage.compressors import default_compressor
from tilewright.storage.fingerprint import array_metadata, differences
from tilewright.storage.ledger import Header, LedgerFolder
from tilewright.storage.objects import remove_partial_files
from tilewright.storage.source import Source

IF_EXISTS = ("fail", "overwrite", "resume")
LEDGER_SUFFIX = ".ledger"
"""The ledger of ``a.zarr`` is the folder ``a.zarr.ledger``."""
FULL_RESOLUTION = "0"
"""The array of the full resolution in its group, as OME-Zarr lays it out."""


@dataclass(frozen=True)
class OutputOptions:
    """How the arrays of an output are stored.

    Parameters
    ----------
    compressors : object
        As in `zarr.create_array`, but for ``"auto"``, which is that of `default_compressor`.
    fill_value : scalar
        What elements that were never written read as.
    zarr_format : {3, 2}
        The version of the format.
    if_exists : {"fail", "overwrite", "resume"}
        What to do where the output exists.
    names_dimensions : bool
        Whether the axes of the plan are stored as the names of the dimensions; format 2 has none.
    """

    compressors: Any = "auto"
    fill_value: Any = 0
    zarr_format: int = 3
    if_exists: str = "fail"
    names_dimensions: bool = True

    def __post_init__(self) -> None:
        if self.zarr_format not in (2, 3):
            raise ValueError(f"zarr_format must be 2 or 3, got {self.zarr_format!r}")
        if self.if_exists not in IF_EXISTS:
            raise ValueError(f"if_exists must be one of {IF_EXISTS}, got {self.if_exists!r}")


@dataclass(frozen=True)
class Output:
    """One group of one store, which holds the prediction of one image.

    Parameters
    ----------
    store : zarr store
        Where it lies.
    group : str
        The path of the group in the store; empty for its root.
    ledger_path : Path, optional
        The folder of its ledger; beside the store where not given.
    """

    store: Store
    group: str = ""
    ledger_path: Path | None = None

    @classmethod
    def at(
        cls,
        destination: str | os.PathLike[str] | Store,
        group: str = "",
        ledger: str | os.PathLike[str] | None = None,
        *,
        may_be_read_only: bool = False,
    ) -> "Output":
        """Return the output at a path or in a store."""
        ledger_path = None if ledger is None else Path(ledger).expanduser().resolve()
        if isinstance(destination, Store):
            if destination.read_only and not may_be_read_only:
                raise DestinationError(f"the store {destination} is read-only; open it for writing")
            if type(destination) is LocalStore:
                # Workers may have another working folder, and one output has one name.
                destination = LocalStore(destination.root.resolve(), read_only=destination.read_only)
            return cls(destination, group, ledger_path)
        if "://" in os.fspath(destination):
            raise DestinationError(
                f"the destination {os.fspath(destination)!r} is a URL; pass a local path, or a zarr store that is "
                "opened for it, such as zarr.storage.FsspecStore.from_url(...)"
            )
        return cls(LocalStore(Path(destination).expanduser().resolve()), group, ledger_path)

    def __str__(self) -> str:
        return f"{self._folder or self.store}"

    @property
    def is_only_here(self) -> bool:
        """Whether other processes cannot write it: it lies in the memory of this one."""
        return isinstance(self.store, MemoryStore)

    @property
    def ledger(self) -> LedgerFolder | None:
        """Its ledger, or None where it has no place: beside a store that is no folder."""
        if self.ledger_path is not None:
            return LedgerFolder(self.ledger_path)
        if not isinstance(self.store, LocalStore):
            return None
        return LedgerFolder(self.store.root.with_name(f"{self.store.root.name}{LEDGER_SUFFIX}") / self.group)

    @property
    def _folder(self) -> Path | None:
        return self.store.root / self.group if isinstance(self.store, LocalStore) else None

    def check(self, options: OutputOptions, source: Source | None = None) -> None:
        """Raise where the output cannot be created, before anything is done.

        Raises
        ------
        DestinationExistsError
            If something is there that must not be touched.
        ResumeError
            If something is there that was begun without a ledger, and that is to be completed.
        DestinationError
            If the place cannot be written, or is the source itself.
        """
        if source is not None and source.stored_at is not None:
            self._check_store(*source.stored_at)
        if self._folder is not None:
            self._check_folder(self._folder, source.path if source is not None else None)
        if self._folder is not None and self.ledger_path is not None and self.ledger_path.is_relative_to(self._folder):
            raise DestinationError(f"the ledger {self.ledger_path} lies in the output {self}; choose another folder")
        if options.if_exists == "resume" and self.ledger is None:
            raise ResumeError(
                f"the output {self} is in no local folder, so that there is no place beside it for the ledger, which "
                "says what is complete; pass ledger='a/local/folder', also to the run that begins it"
            )
        if not self._exists():
            return
        if options.if_exists == "resume":
            self.header()
            return
        if options.if_exists == "fail":
            raise DestinationExistsError(
                f"the output {self} exists and is left as it is; choose another destination, or if_exists='overwrite' "
                "to replace it"
            )
        if self._folder is not None and not is_zarr(self._folder):
            raise DestinationExistsError(
                f"{self} exists and is no Zarr group or array, so it is not overwritten; choose another destination "
                "or remove it yourself"
            )

    @staticmethod
    def check_shards(shards: object, options: OutputOptions) -> None:
        """Raise GeometryError for what no plan can make right."""
        if shards is not None and options.zarr_format == 2:
            raise GeometryError(f"Zarr format 2 has no shards, got shards={shards!r}; use zarr_format=3 or shards=None")

    def header(self) -> Header | None:
        """Return what the output was begun from, or None where it was not begun.

        Raises
        ------
        ResumeError
            If it exists, and nobody knows what it was begun from.
        """
        if not self._exists():
            return None
        header = None if self.ledger is None else self.ledger.header()
        if header is None:
            raise ResumeError(
                f"the output {self} exists, but its ledger {self.ledger} does not, so that nobody knows what of it is "
                "complete; use if_exists='overwrite' to write it anew"
            )
        return header

    def check_space(self, options: OutputOptions, nbytes: int) -> None:
        """Raise DestinationError where the disk cannot take as much; what is compressed may fit in less."""
        if self._folder is None or options.compressors == "auto" or options.compressors:
            return
        free = shutil.disk_usage(_nearest_existing(self._folder)).free
        if free < nbytes:
            raise DestinationError(
                f"the output {self} takes {format_nbytes(nbytes)} ({nbytes} bytes), "
                f"but the disk has {format_nbytes(free)} ({free} bytes) left; free some, choose another disk, or "
                "compressors='auto'"
            )

    def create(self, plan: WritePlan, options: OutputOptions) -> zarr.Array[Any]:
        """Create the group and its array, and return the array.

        Raises
        ------
        DestinationError
            If that fails.
        """
        # In memory first: what zarr does not take must not cost what is there.
        self.template(plan, options)
        try:
            if options.if_exists == "overwrite" and self._exists():
                sync(self.store.delete_dir(self.group))
            group = zarr.open_group(self.store, path=self.group, mode="a", zarr_format=_version(options))
            return self._create_array(group, plan, options)
        except OSError as error:
            raise DestinationError(f"the output {self} could not be created: {error}") from error

    @classmethod
    def template(cls, plan: WritePlan, options: OutputOptions) -> zarr.Array[Any]:
        """Return an empty array in memory, which is what `create` would create."""
        return cls._create_array(zarr.open_group(MemoryStore(), mode="w", zarr_format=_version(options)), plan, options)

    def open(self, plan: WritePlan, options: OutputOptions) -> zarr.Array[Any]:
        """Return the array that an earlier run has created, or create it where it did not come to that.

        Raises
        ------
        ResumeError
            If it is another array than that run would have created.
        """
        self.existing_group(options)
        try:
            array = self.existing_array()
        except FileNotFoundError:
            return self.create(plan, options)
        wanted, found = array_metadata(self.template(plan, options)), array_metadata(array)
        if differing := differences(wanted, found):
            raise ResumeError(
                f"the array {self}/{FULL_RESOLUTION} is not the one that its ledger {self.ledger} is about: "
                f"{'; '.join(differing)}; use if_exists='overwrite' to write it anew"
            )
        return array

    def existing_array(self) -> zarr.Array[Any]:
        """Return the array as it is.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        ResumeError
            If its metadata cannot be read.
        """
        path = f"{self.group}/{FULL_RESOLUTION}" if self.group else FULL_RESOLUTION
        try:
            return zarr.open_array(self.store, path=path, mode="r" if self.store.read_only else "r+")
        except FileNotFoundError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreadable(f"{self}/{FULL_RESOLUTION}", error) from error

    def existing_group(self, options: OutputOptions | None = None) -> None:
        """Open the group around the array; with options it is created where it is not there.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        ResumeError
            If its metadata cannot be read.
        """
        try:
            if options is None:
                zarr.open_group(self.store, path=self.group, mode="r")
            else:
                zarr.open_group(self.store, path=self.group, mode="a", zarr_format=_version(options))
        except FileNotFoundError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreadable(str(self), error) from error

    def _unreadable(self, node: str, error: Exception) -> ResumeError:
        return ResumeError(
            f"the metadata of {node} cannot be read: {error!r}; remove them (zarr.json, or .zgroup and .zarray), then "
            "a run with if_exists='resume' writes them again"
        )

    def remove_partial_files(self) -> None:
        """Remove what killed processes have left half-written."""
        if self._folder is not None:
            remove_partial_files(self._folder)

    @staticmethod
    def _create_array(group: zarr.Group, plan: WritePlan, options: OutputOptions) -> zarr.Array[Any]:
        compressors = options.compressors
        if isinstance(compressors, str) and compressors == "auto":
            compressors = default_compressor(plan.dtype, options.zarr_format)
        return group.create_array(
            FULL_RESOLUTION,
            shape=plan.shape,
            dtype=plan.dtype,
            chunks=plan.chunks,
            shards=plan.shards,
            compressors=compressors,
            fill_value=options.fill_value,
            dimension_names=list(plan.axes.lower()) if options.names_dimensions and options.zarr_format == 3 else None,
            chunk_key_encoding={"name": "v2", "separator": "/"} if options.zarr_format == 2 else None,
        )

    def _exists(self) -> bool:
        if self._folder is not None:
            return self._folder.is_dir() and any(self._folder.iterdir())
        return not sync(self.store.is_empty(self.group))

    def _check_store(self, store: Store, path: str) -> None:
        """Compare with a source that is no file too: a store in memory, or behind a URL."""
        inside = not self.group or path == self.group or path.startswith(f"{self.group}/")
        # Not ==: the same store, opened to read only, is another object.
        if str(store) == str(self.store) and inside:
            raise DestinationError(f"the destination {self} holds the source, {store}/{path}; choose another one")

    def _check_folder(self, folder: Path, source_path: Path | None) -> None:
        if source_path is not None:
            source = source_path.resolve()
            if source == folder.resolve() or folder.resolve() in source.parents:
                raise DestinationError(f"the destination {folder} holds the source {source}; choose another one")
            if source in folder.resolve().parents:
                raise DestinationError(f"the destination {folder} lies inside the source {source}; choose another one")
        existing = _nearest_existing(folder)
        if not existing.is_dir():
            raise DestinationError(f"the output {folder} cannot be created: {existing} is a file, not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise DestinationError(f"the output {folder} cannot be created: no permission to write in {existing}")


def output_dtype(dtype: Any) -> str:
    """Return the NumPy name of whatever names a data type.

    Raises
    ------
    GeometryError
        If it names none that can be stored.

    Examples
    --------
    >>> output_dtype("<f4"), output_dtype(float)
    ('float32', 'float64')
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        # What is not NumPy's, such as torch.float16, may have the same name.
        name = str(dtype).rpartition(".")[2]
    return dtype_name(name)


def _version(options: OutputOptions) -> Any:
    return options.zarr_format


def is_zarr(folder: Path) -> bool:
    """Tell whether a folder is a Zarr group or array."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def _nearest_existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
