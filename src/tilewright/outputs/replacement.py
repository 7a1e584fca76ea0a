"""A replaced output stays whole until the first unit of the new output is stored.

1. The new run writes its intent: the header of its ledger file. Before that, nothing changes.
2. The old output is moved aside with one system call, and the new output is created in its place.
3. When the first unit of the new output is in the ledger, the old output and then its ledger files are removed.

A run that finds an unfinished replacement continues after the last finished step. Without a recorded unit, nothing that
was moved aside has been removed: if nothing lies aside, the place still holds the old output. A store without folders
cannot move aside: there the old output is removed after step 1, its metadata last, since they prove whose it is.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

from tilewright.errors import DestinationError, DestinationExistsError, ResumeError
from tilewright.ledger.header import EVERYTHING
from tilewright.outputs.inventory import FolderListing, Inventory, shown
from tilewright.outputs.output import Output
from tilewright.stores.removal import move

_log = logging.getLogger(__name__)


class Replacement:
    """The replacement of an earlier output; `check` raises OutputInUseError if this run no longer holds the lock."""

    def __init__(self, output: Output, check: Callable[[], None]) -> None:
        self._output = output
        self._check = check

    @property
    def is_pending(self) -> bool:
        """Whether an earlier output still lies aside, or has files in the ledger."""
        ledger = self._output.ledger
        return bool(self._output.asides()) or (ledger is not None and bool(ledger.replaced()))

    @property
    def has_stored_unit(self) -> bool:
        """Whether the ledger has a stored unit of the new output."""
        ledger = self._output.ledger
        return ledger is not None and ledger.records().written_count > 0

    def go_on(self) -> None:
        """Continue an unfinished replacement, so that its output can be resumed."""
        ledger = self._output.ledger
        if not self.is_pending or ledger is None:
            return
        begun = ledger.current()[0]
        if self.has_stored_unit:
            self.finish()
        elif not self._output.asides() and begun.header is not None:
            self.make_room(begun.number, also_zarr=begun.header.replaces == EVERYTHING)

    def settle(self) -> None:
        """Bring an unfinished replacement to a state that another run can replace.

        A whole output that lies aside stays there; its unfinished successor without units is removed.
        """
        if not self.is_pending:
            return
        # The ledger may be damaged; then the output that lies aside stays.
        has_unit = False
        with suppress(ResumeError):
            has_unit = self._output.ledger is None or self.has_stored_unit
        if has_unit:
            self.finish()
        elif self._output.asides():
            self._remove_place()

    def make_room(self, number: int, *, also_zarr: bool) -> None:
        """Move the earlier output aside, under the fencing number of this run; in a store without folders, remove it.

        With `also_zarr`, Zarr nodes of other programs are replaced too. DestinationError is raised where it cannot be
        moved, and DestinationExistsError where something in the place must not be replaced.
        """
        if self._output.listing.is_empty:
            return
        folder, aside = self._output.folder, self._output.aside(number)
        if folder is None or aside is None:
            self._remove_place(also_zarr=also_zarr)
            return
        self._proven_inventory(also_zarr=also_zarr)
        self._check()
        try:
            move(folder, aside)
        except OSError as error:
            raise DestinationError(
                error.errno,
                f"the output {self._output} cannot be moved aside to {aside}: {error.strerror}; it is whole. Choose "
                "another destination, or move it away yourself",
            ) from error
        try:
            self._check()
        except DestinationError:
            # The next run has begun between the check and the move: the moved output is that of the next run.
            with suppress(OSError):
                move(aside, folder)
            raise

    def finish(self) -> None:
        """Remove the earlier output, after a unit of the new output is stored."""
        for aside in self._output.asides():
            listing = FolderListing(aside)
            inventory = Inventory(listing, self._output.recorded_nodes())
            listing.remove(inventory.removable(also_zarr=True), self._check)
            if aside.exists():
                _log.warning("%s holds files that are no part of a Zarr array, and stays: move it away yourself", aside)
        ledger = self._output.ledger
        if ledger is not None:
            ledger.remove(ledger.replaced(), self._check)

    def roll_back(self, number: int) -> None:
        """Move the earlier output back, if the run with this fencing number has failed without a stored unit."""
        folder, ledger = self._output.folder, self._output.ledger
        if folder is None or ledger is None or self.has_stored_unit:
            return
        if asides := self._output.asides():
            self._remove_place()
            if folder.exists():
                return
            own = self._output.aside(number)
            self._check()
            move(own if own in asides else asides[-1], folder)
        ledger.remove(ledger.current(), self._check)

    def _proven_inventory(self, *, also_zarr: bool) -> Inventory:
        """Return the inventory of the place; raise DestinationExistsError if something in it must not be removed."""
        inventory = self._output.inventory()
        if in_the_way := inventory.in_the_way(also_zarr=also_zarr):
            raise DestinationExistsError(f"{self._output} is not replaced; in the way: {shown(in_the_way)}")
        return inventory

    def _remove_place(self, *, also_zarr: bool = False) -> None:
        """Remove the parts of the output that lies in the place."""
        inventory = self._proven_inventory(also_zarr=also_zarr)
        self._check()
        inventory.listing.remove(inventory.removable(also_zarr=also_zarr), self._check)
