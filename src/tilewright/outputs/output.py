"""An output is checked before anything is predicted, and created once, before the first tile."""

import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import LocalStore, ZipStore

from tilewright.errors import DestinationError, DestinationExistsError, ResumeError, TilewrightError
from tilewright.ledger.header import Header
from tilewright.ledger.ledger import LedgerFolder
from tilewright.locks.output_lock import OutputLock, folder_beside
from tilewright.outputs.apart import Target
from tilewright.outputs.inventory import OWN_ATTRIBUTE, FolderListing, Inventory, Listing, StoreListing, shown
from tilewright.outputs.options import OutputOptions
from tilewright.plan.describe import format_nbytes
from tilewright.sources.readers.zarr import make_absolute
from tilewright.stores.local_paths import local_path, nearest_existing
from tilewright.stores.metadata import GROUP_NAMES, MetadataError, Node, array_node, is_zarr, read_node
from tilewright.stores.places import (
    IN_MEMORY,
    Place,
    folder_of,
    gives_other_names,
    opened_store,
    path_of,
    place_of_path,
    place_of_store,
    public_name,
    without_secrets,
)
from tilewright.stores.removal import remove_partial_files, remove_partial_files_in
from tilewright.stores.zarr_api import ensure_open, is_unopened_zip, unwrapped

FULL_RESOLUTION = "0"
"""The array of the full resolution in its group, as OME-Zarr lays it out."""


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
        """Return the output at a path or in a store.

        Raises
        ------
        DestinationError
            If the destination, or the ledger, is no place of a kind that can be written.
        """
        ledger_path = None if ledger is None else local_path(ledger, "ledger")
        store, inner = opened_store(destination)
        if store is None:
            return cls(LocalStore(local_path(destination, "destination")), group, ledger_path)
        if store.read_only and not may_be_read_only:
            raise DestinationError(f"the store {public_name(store)} is read-only; open it for writing")
        make_absolute(store)
        if type(store) is LocalStore:
            # Workers may have another working folder, and the folder around a node becomes no group.
            store = LocalStore((store.root / inner).resolve(), read_only=store.read_only)
            inner = ""
        return cls(store, "/".join(filter(None, (inner, group))), ledger_path)

    def __str__(self) -> str:
        return f"{self.folder or public_name(self.store)}"

    @property
    def array_path(self) -> str:
        """The path of its array in the store."""
        return f"{self.group}/{FULL_RESOLUTION}" if self.group else FULL_RESOLUTION

    @property
    def is_only_here(self) -> str:
        """Why other processes cannot write it; empty where they may."""
        if self.place is not None and self.place.is_memory:
            return IN_MEMORY
        if isinstance(unwrapped(self.store), ZipStore):
            return "is a zip file, which one process alone can write, and the workers cannot reach; use a folder"
        return ""

    @property
    def ledger(self) -> LedgerFolder | None:
        """Its ledger, or None where it has no place: beside a store that is no folder."""
        if self.ledger_path is not None:
            return LedgerFolder(self.ledger_path)
        # What lies in a zip file is not written again, so that there is nothing to complete.
        return None if self.folder is None or self._folder_beside is None else LedgerFolder(self._folder_beside)

    @cached_property
    def folder(self) -> Path | None:
        """The folder that it is, where its store lies in one."""
        root = folder_of(self.store)
        return None if root is None else root / self.group

    @cached_property
    def _folder_beside(self) -> Path | None:
        """The folder beside its store where its lock lies, and its ledger where no other place was chosen."""
        root = path_of(self.store)
        return None if root is None else folder_beside(root, self.group)

    @property
    def place(self) -> Place | None:
        """Where it lies; None where that cannot be known."""
        return place_of_store(self.store, self.group)

    def targets(self, options: OutputOptions) -> list[Target]:
        """Return what a run of it writes, to be compared with its sources."""
        ledgers = [] if self.ledger is None else [Target(f"ledger {self.ledger}", place_of_path(self.ledger.path))]
        is_replaced = options.overwrites and self.exists
        within = place_of_store(self.store) if gives_other_names(self.store) else None
        # The array, too: it may be a link.
        array = place_of_store(self.store, f"{self.group}/{FULL_RESOLUTION}")
        own = [Target(str(self), place, is_replaced, within) for place in dict.fromkeys((self.place, array))]
        return [*own, *ledgers]

    @property
    def is_fenced(self) -> bool:
        """Whether a task that outlives its run cannot replace what the next run has written; see `put_object`."""
        return type(self.store) is LocalStore

    def lock(self) -> OutputLock:
        """Return its lock, which is not held yet."""
        return OutputLock(self.store, self.group, self.folder, self._folder_beside, self.ledger_path)

    @property
    def listing(self) -> Listing:
        """The objects in its place."""
        return StoreListing(self.store, self.group) if self.folder is None else FolderListing(self.folder)

    def inventory(self) -> Inventory:
        """Return what lies in its place."""
        return Inventory(self.listing, FULL_RESOLUTION, self.recorded_nodes())

    def recorded_nodes(self) -> list[Node]:
        """Return what its array may be, as the files of its ledger say: the last run comes last."""
        try:
            files = [] if self.ledger is None else self.ledger.files()
            headers = [file.header for file in files if file.header is not None]
        except ResumeError:
            return []
        # A ledger that was chosen may be that of another output.
        named = [header for header in headers if self.ledger_path is None or header.output == str(self)]
        return [node for header in named if (node := array_node(header.array)) is not None]

    @property
    def exists(self) -> bool:
        """Whether something lies in its place, or was moved aside from there by a run that did not get to its end."""
        try:
            return not self.is_vacant or bool(self.asides())
        except TilewrightError:
            raise
        except Exception as error:
            # Whatever the client of an object store raises where it gets no answer.
            raise DestinationError(
                f"the output {self} cannot be looked at: {without_secrets(repr(error)):.300}"
            ) from error

    @property
    def is_vacant(self) -> bool:
        """Whether nothing lies in its place but, at most, a Zarr group that holds nothing: it is used as it is."""
        if is_unopened_zip(self.store):
            return not self._is_zip_there()
        if self.listing.is_empty:
            return True
        few = list(islice(self.listing.keys(), len(GROUP_NAMES) + 1))
        if not set(few) <= set(GROUP_NAMES):
            return False
        try:
            node = read_node(self.listing.read)
        except MetadataError:
            return False
        return node is not None and not node.is_array and OWN_ATTRIBUTE not in node.attributes

    def _is_zip_there(self) -> bool:
        """Tell whether a zip file exists that nothing has opened; opening it to be written would empty it."""
        zip_store = unwrapped(self.store)
        if not zip_store.path.exists():
            return False
        if zip_store._zmode != "r":
            raise DestinationExistsError(
                f"the zip file {zip_store.path} exists and is left as it is; choose another destination, or open the "
                "store yourself, in the mode that you want"
            )
        ensure_open(self.store)
        return not self.listing.is_empty

    def asides(self) -> list[Path]:
        """Return the folders to which runs that replace this output, as its ledger says, have moved what was there."""
        files = [] if self.ledger is None or self.folder is None else self.ledger.files()
        numbers = [file.number for file in files if file.header is not None and file.header.replaces]
        return [aside for number in numbers if (aside := self.aside(number)) is not None and aside.is_dir()]

    def aside(self, number: int) -> Path | None:
        """Return where a run moves what is there: beside it. None where it is no folder."""
        return None if self.folder is None else self.folder.with_name(f"{self.folder.name}.replaced-{number:06d}")

    def check(self, options: OutputOptions) -> None:
        """Raise where the output cannot be created, before anything is done.

        Raises
        ------
        DestinationExistsError
            If something is there that must not be touched.
        ResumeError
            If something is there that was begun without a ledger, and that is to be completed.
        DestinationError
            If the place cannot be written.
        """
        if self.folder is not None:
            self._check_folder(self.folder)
        if self.folder is not None and self.ledger_path is not None and self.ledger_path.is_relative_to(self.folder):
            raise DestinationError(f"the ledger {self.ledger_path} lies in the output {self}; choose another folder")
        if options.if_exists == "resume" and self.ledger is None:
            raise ResumeError(
                f"the output {self} is in no local folder, so that there is no place beside it for the ledger, which "
                "says what is complete; pass ledger='a/local/folder', also to the run that begins it"
            )
        if not self.exists:
            return
        if options.if_exists == "resume":
            self.header()
            return
        if options.if_exists == "fail":
            raise DestinationExistsError(
                f"the output {self} exists and is left as it is; choose another destination, or if_exists='overwrite' "
                "to replace it"
            )
        self.check_replaceable(options)

    def check_ledger(self) -> None:
        """Raise DestinationExistsError where the folder of the ledger holds another ledger, or files of others."""
        ledger = self.ledger
        for file in [] if ledger is None else ledger.files():
            if not file.is_ours:
                raise DestinationExistsError(
                    f"{file.path} has the name of a file of a ledger, and is none of tilewright; move it away, or "
                    "choose another folder for the ledger"
                )
            # A user may have named it by mistake.
            if self.ledger_path is not None and (file.header is None or file.header.output != str(self)):
                other = "unknown" if file.header is None else file.header.output
                raise DestinationExistsError(
                    f"the ledger {ledger} is that of the output {other}; choose another folder for that of {self}"
                )

    def check_replaceable(self, options: OutputOptions) -> None:
        """Raise DestinationExistsError where something is in the way that is not to be replaced."""
        inventory = self.inventory()
        others = inventory.in_the_way(also_zarr=True)
        if others:
            what = "is no Zarr group or array" if not inventory.nodes else "holds what is no part of a Zarr array"
            raise DestinationExistsError(
                f"{self} exists and {what}, so it is not overwritten; in the way: {shown(others)}. Choose another "
                "destination, or move these away yourself"
            )
        if options.overwrites_foreign:
            return
        foreign = inventory.in_the_way()
        if foreign:
            raise DestinationExistsError(
                f"{self} exists and holds Zarr groups or arrays that are no output of tilewright, so it is not "
                f"overwritten; in the way: {shown(foreign)}. Choose another destination, or if_exists="
                "'overwrite-foreign' to replace all of it, these too"
            )

    def header(self) -> Header | None:
        """Return what the output was begun from, or None where it was not begun.

        Raises
        ------
        ResumeError
            If it exists, and nobody knows what it was begun from.
        """
        if not self.exists:
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
        if self.folder is None or options.compressors == "auto" or options.compressors:
            return
        free = shutil.disk_usage(nearest_existing(self.folder)).free
        if free < nbytes:
            raise DestinationError(
                f"the output {self} takes {format_nbytes(nbytes)} ({nbytes} bytes), "
                f"but the disk has {format_nbytes(free)} ({free} bytes) left; free some, choose another disk, or "
                "compressors='auto'"
            )

    def remove_partial_files_around(self) -> None:
        """Remove what killed processes have left of the metadata of the groups around this one, up to its store.

        Their metadata are there, so that no process is writing them now.
        """
        if self.folder is None:
            return
        for folder in self.folder.parents[: len(Path(self.group).parts)]:
            if is_zarr(folder):
                remove_partial_files_in(folder)

    def remove_partial_files(self) -> None:
        """Remove what killed processes have left half-written."""
        if self.folder is not None:
            remove_partial_files(self.folder)

    def _check_folder(self, folder: Path) -> None:
        existing = nearest_existing(folder)
        if not existing.is_dir():
            raise DestinationError(f"the output {folder} cannot be created: {existing} is a file, not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise DestinationError(f"the output {folder} cannot be created: no permission to write in {existing}")
