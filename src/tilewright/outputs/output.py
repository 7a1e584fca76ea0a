"""An output is checked before the first tile is predicted: its place, its ledger, and the free space."""

import os
import posixpath
import shutil
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import LocalStore, ZipStore

from tilewright.errors import DestinationError, DestinationExistsError, ResumeError, TilewrightError
from tilewright.ledger.header import Header
from tilewright.ledger.ledger import LedgerFile, LedgerFolder
from tilewright.locks.output_lock import OutputLock, folder_beside
from tilewright.outputs.apart import Target
from tilewright.outputs.group_attributes import labelled_image
from tilewright.outputs.inventory import OWN_ATTRIBUTE, FolderListing, Inventory, Listing, StoreListing, shown
from tilewright.outputs.options import OutputOptions
from tilewright.plan import FULL_RESOLUTION
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
from tilewright.stores.removal import remove_partial_files
from tilewright.stores.zarr_api import ensure_open, is_unopened_zip, unwrapped


@dataclass(frozen=True)
class Output:
    """The Zarr group with the prediction of one image.

    Parameters
    ----------
    store, group
        The store, and the path of the group in it; empty for its root.
    ledger_path : Path, optional
        Folder of its ledger; by default beside the store.
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
        """Return the output at a path or in a store; raise DestinationError where it or its ledger cannot be there."""
        ledger_path = None if ledger is None else local_path(ledger, "ledger")
        store, inner = opened_store(destination)
        if store is None:
            return cls._in_folder(local_path(destination, "destination"), group, ledger_path)
        if store.read_only and not may_be_read_only:
            raise DestinationError(f"the store {public_name(store)} is read-only; open it for writing")
        make_absolute(store)
        if type(store) is LocalStore:
            # Workers may have another working folder. The folders around a node must not become groups.
            store = LocalStore((store.root / inner).resolve(), read_only=store.read_only)
            inner = ""
        return cls(store, "/".join(filter(None, (inner, group))), ledger_path)

    @classmethod
    def _in_folder(cls, folder: Path, group: str, ledger_path: Path | None) -> "Output":
        """Return the output in a folder; labels of an image are a group of its store, with their ledger beside that."""
        image = None if group else labelled_image(folder)
        if image is not None:
            folder, group = image, folder.relative_to(image).as_posix()
        return cls(LocalStore(folder), group, ledger_path)

    @property
    def is_label(self) -> bool:
        """Whether it labels the image in whose store it is."""
        return self.folder is not None and bool(self.group) and labelled_image(self.folder) == folder_of(self.store)

    def __str__(self) -> str:
        return f"{self.folder or public_name(self.store)}"

    def path_of(self, inner: str) -> str:
        """Return the path in the store of what has a path in its group."""
        return posixpath.join(self.group, inner)

    @property
    def is_only_here(self) -> str:
        """The reason that other processes cannot write it; empty if they can."""
        if self.place is not None and self.place.is_memory:
            return IN_MEMORY
        if isinstance(unwrapped(self.store), ZipStore):
            return "is a zip file, which one process alone can write, and the workers cannot reach; use a folder"
        return ""

    @property
    def ledger(self) -> LedgerFolder | None:
        """Its ledger; None if the store has no local folder and no ledger was chosen."""
        if self.ledger_path is not None:
            return LedgerFolder(self.ledger_path)
        # A zip file cannot be completed: its entries cannot be written again.
        return None if self.folder is None or self._folder_beside is None else LedgerFolder(self._folder_beside)

    @cached_property
    def folder(self) -> Path | None:
        """Folder of the group; None if its store is no local folder."""
        root = folder_of(self.store)
        return None if root is None else root / self.group

    @cached_property
    def _folder_beside(self) -> Path | None:
        """Folder beside its store with its lock, and its ledger unless another place was chosen."""
        root = path_of(self.store)
        return None if root is None else folder_beside(root, self.group)

    @property
    def place(self) -> Place | None:
        """Its place; None if unknown."""
        return place_of_store(self.store, self.group)

    def targets(self, options: OutputOptions) -> list[Target]:
        """Return all that a run writes, to be compared with its sources."""
        ledgers = [] if self.ledger is None else [Target(f"ledger {self.ledger}", place_of_path(self.ledger.path))]
        is_replaced = options.overwrites and self.exists
        within = place_of_store(self.store) if gives_other_names(self.store) else None
        # The arrays too: each may be a link.
        arrays = [place_of_store(self.store, self.path_of(path)) for path in (FULL_RESOLUTION, *self.recorded_nodes())]
        own = [Target(str(self), place, is_replaced, within) for place in dict.fromkeys((self.place, *arrays))]
        return [*own, *ledgers]

    @property
    def is_fenced(self) -> bool:
        """Whether a task that outlives its run cannot overwrite objects of the next run; see `put_object`."""
        return type(self.store) is LocalStore

    def lock(self) -> OutputLock:
        """Return its lock, not yet acquired."""
        return OutputLock(self.store, self.group, self.folder, self._folder_beside, self.ledger_path)

    @property
    def listing(self) -> Listing:
        """The objects in its place."""
        return StoreListing(self.store, self.group) if self.folder is None else FolderListing(self.folder)

    def inventory(self) -> Inventory:
        """Return the Zarr nodes and other objects in its place."""
        return Inventory(self.listing, self.recorded_nodes())

    def _ledger_files(self) -> list[LedgerFile]:
        return [] if self.ledger is None else self.ledger.files()

    def recorded_nodes(self) -> dict[str, list[Node]]:
        """Return the array metadata in its ledger by the paths of the arrays, those of the last run at the end."""
        try:
            headers = [file.header for file in self._ledger_files() if file.header is not None]
        except (ResumeError, DestinationError):
            # `check` says so, where the place of the output is none.
            return {}
        # A ledger that the user chose may belong to another output.
        named = [header for header in headers if self.ledger_path is None or header.output == str(self)]
        nodes: dict[str, list[Node]] = {}
        for header in named:
            for number, array in enumerate(header.plan.arrays):
                if (node := array_node(header.arrays.get(array.name, {}))) is not None:
                    for path in header.plan.stored_paths(number):
                        nodes.setdefault(path, []).append(node)
        return nodes

    @property
    def exists(self) -> bool:
        """Whether its place is not vacant, or an unfinished run has moved an output aside."""
        try:
            return not self.is_vacant or bool(self.asides())
        except TilewrightError:
            raise
        except Exception as error:
            # Clients of object stores raise errors of any class.
            reason = f"the output {self} cannot be looked at: {without_secrets(repr(error)):.300}"
            raise DestinationError(reason) from error

    @property
    def is_vacant(self) -> bool:
        """Whether its place is empty, or holds only an empty Zarr group, which is used as it is."""
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
        """Tell whether a zip file has content; raise if it exists in write mode, where opening would empty it."""
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
        """Return the folders with earlier outputs that runs have moved aside, as the ledger says."""
        files = [] if self.folder is None else self._ledger_files()
        numbers = [file.number for file in files if file.header is not None and file.header.replaces]
        return [aside for number in numbers if (aside := self.aside(number)) is not None and aside.is_dir()]

    def aside(self, number: int) -> Path | None:
        """Return the folder to which a run moves an earlier output; None if the output is no folder."""
        return None if self.folder is None else self.folder.with_name(f"{self.folder.name}.replaced-{number:06d}")

    def check(self, options: OutputOptions) -> None:
        """Check that the output can be created, replaced or completed, as the options say.

        It raises as `check_replaceable` and `header`, and DestinationError if the place cannot be written.
        """
        if self.folder is not None:
            existing = nearest_existing(self.folder)
            if not existing.is_dir():
                raise DestinationError(f"the output {self} cannot be created: {existing} is a file, not a folder")
            if not os.access(existing, os.W_OK | os.X_OK):
                raise DestinationError(f"the output {self} cannot be created: no permission to write in {existing}")
            around = self.folder.parent.parent if self.is_label else self.folder
            if self.ledger_path is not None and self.ledger_path.is_relative_to(around):
                reason = f"the ledger {self.ledger_path} lies in {around}, of the output {self}; choose another folder"
                raise DestinationError(reason)
            if self.is_label and (around / "zarr.json").is_file() != (options.zarr_format == 3):
                raise DestinationError(
                    f"the labels {self} must have the Zarr format of their image {around}; give "
                    f"zarr_format={5 - options.zarr_format}"
                )
        if options.if_exists == "resume" and self.ledger is None:
            raise ResumeError(
                f"the output {self} is in no local folder, so that there is no place beside it for the ledger, which "
                "says what is complete; pass ledger='a/local/folder', also to the run that begins it"
            )
        if not self.exists:
            return
        if options.if_exists == "resume":
            self.header()
        elif options.if_exists == "fail":
            raise DestinationExistsError(
                f"the output {self} exists and is left as it is; choose another destination, or if_exists='overwrite' "
                "to replace it"
            )
        else:
            self.check_replaceable(options)

    def check_ledger(self) -> None:
        """Raise DestinationExistsError if the ledger folder holds the ledger of another output, or foreign files."""
        for file in self._ledger_files():
            if not file.is_ours:
                raise DestinationExistsError(
                    f"{file.path} has the name of a file of a ledger, but is none of tilewright; move it away, or "
                    "choose another folder for the ledger"
                )
            # The user may have chosen the folder by mistake.
            if self.ledger_path is not None and (file.header is None or file.header.output != str(self)):
                other = "unknown" if file.header is None else file.header.output
                raise DestinationExistsError(
                    f"the ledger {self.ledger} is that of the output {other}; choose another folder for that of {self}"
                )

    def check_replaceable(self, options: OutputOptions) -> None:
        """Raise DestinationExistsError if something in the place must not be replaced."""
        inventory = self.inventory()
        others = inventory.in_the_way(also_zarr=True)
        if others:
            what = "holds files that are no part of a Zarr array" if inventory.nodes else "is no Zarr group or array"
            raise DestinationExistsError(
                f"{self} exists and {what}, so it is not overwritten; in the way: {shown(others)}. Choose another "
                "destination, or move these away yourself"
            )
        if not options.overwrites_foreign and (foreign := inventory.in_the_way()):
            raise DestinationExistsError(
                f"{self} exists and holds Zarr groups or arrays that are no output of tilewright, so it is not "
                f"overwritten; in the way: {shown(foreign)}. Choose another destination, or if_exists="
                "'overwrite-foreign' to replace all of it, these too"
            )

    def header(self) -> Header | None:
        """Return the header of the output, or None if there is no output; raise ResumeError if it has no ledger."""
        if not self.exists:
            return None
        header = None if self.ledger is None else self.ledger.header()
        if header is None:
            raise ResumeError(
                f"the output {self} exists, but its ledger {self.ledger} does not, so it is unknown which units are "
                "stored; use if_exists='overwrite' to write it anew"
            )
        return header

    def check_space(self, options: OutputOptions, nbytes: int) -> None:
        """Raise DestinationError if the disk has less free space than an uncompressed output takes."""
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
        """Remove partial metadata files of killed processes in the groups around this one, up to its store.

        Only in groups that have metadata: others may be written at this moment.
        """
        if self.folder is None or self.is_label:
            # Other programs may write into an image.
            return
        for folder in self.folder.parents[: len(Path(self.group).parts)]:
            if is_zarr(folder):
                remove_partial_files(folder, also_below=False)

    def remove_partial_files(self) -> None:
        """Remove partial files of killed processes."""
        if self.folder is not None:
            remove_partial_files(self.folder)
