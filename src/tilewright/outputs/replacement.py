"""What is replaced stays whole until the first unit of the new output is stored, and a crash in between has one way on.

1. The intent is the header of the new run in the ledger; until it is there, nothing has changed.
2. What lies in the place is moved aside, with one call of the system, and the new output is created in its place.
3. When the first unit of the new output is in the ledger, what was moved aside is removed, and then the earlier files
   of the ledger.

A run that finds a replacement without an end goes on after the last step that is done. Where no unit is recorded,
nothing that was moved aside is removed yet: so a place from which nothing was moved still holds what is to be replaced.
A store that is no folder has no way to move aside; there the old output goes after the intent, its metadata last, since
they prove whose it is.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

from tilewright.errors import DestinationError, DestinationExistsError, ResumeError
from tilewright.ledger.header import EVERYTHING
from tilewright.outputs.inventory import FolderListing, Inventory, StoreListing, shown
from tilewright.outputs.output import FULL_RESOLUTION, Output
from tilewright.stores.removal import delete_object, move, remove_files

_log = logging.getLogger(__name__)


class Replacement:
    """Make room for an output, and keep what was there until it is not needed any more.

    Parameters
    ----------
    output : Output
        The output, of which the lock is held.
    check : callable
        Raises OutputInUseError where the lock is not held any more.
    """

    def __init__(self, output: Output, check: Callable[[], None]) -> None:
        self._output = output
        self._check = check

    @property
    def is_pending(self) -> bool:
        """Whether something of an earlier output is still there, aside or in the ledger."""
        ledger = self._output.ledger
        return bool(self._output.asides()) or (ledger is not None and bool(ledger.replaced()))

    @property
    def has_stored_unit(self) -> bool:
        """Whether a unit of the new output is in the ledger."""
        ledger = self._output.ledger
        return ledger is not None and ledger.records().written_count > 0

    def go_on(self) -> None:
        """Go on with a replacement that did not get to its end, as the ledger says, so that it may be resumed."""
        ledger = self._output.ledger
        if not self.is_pending or ledger is None:
            return
        begun = ledger.current()[0]
        if self.has_stored_unit:
            self.finish()
        elif not self._output.asides() and begun.header is not None:
            self.make_room(begun.number, also_zarr=begun.header.replaces == EVERYTHING)

    def settle(self) -> None:
        """Bring a replacement that did not get to its end to a state that another run may replace in turn.

        What was moved aside and is still whole stays aside; what has replaced it, and holds no unit, is removed.
        """
        if not self.is_pending:
            return
        if self._has_unit_or_no_ledger():
            self.finish()
        elif self._output.asides():
            self._remove_place()

    def make_room(self, number: int, *, also_zarr: bool) -> None:
        """Move aside what lies in the place; remove it where the store is no folder.

        Parameters
        ----------
        number : int
            The fencing number of this run.
        also_zarr : bool
            Whether Zarr nodes may go that are no output of tilewright.

        Raises
        ------
        DestinationExistsError
            If something is in the way that is not to be replaced.
        DestinationError
            If it cannot be moved.
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
            # Between the look at the lock and the move, the next run has begun, and this was its output.
            with suppress(OSError):
                move(aside, folder)
            raise

    def finish(self) -> None:
        """Remove what was replaced: a unit of the new output is stored."""
        for aside in self._output.asides():
            inventory = Inventory(FolderListing(aside), FULL_RESOLUTION, self._output.recorded_nodes())
            remove_files(aside, inventory.removable(also_zarr=True), self._check)
            if aside.exists():
                _log.warning("%s holds what is no part of a Zarr array, and stays: move it away yourself", aside)
        ledger = self._output.ledger
        if ledger is not None:
            ledger.remove(ledger.replaced(), self._check)

    def roll_back(self, number: int) -> None:
        """Give the place back to what was moved aside, where a run has failed before a unit of it was stored.

        Parameters
        ----------
        number : int
            The fencing number of this run.
        """
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

    def _has_unit_or_no_ledger(self) -> bool:
        try:
            return self._output.ledger is None or self.has_stored_unit
        except ResumeError:
            # A damaged ledger: what was moved aside stays.
            return False

    def _proven_inventory(self, *, also_zarr: bool) -> Inventory:
        """Return what lies in the place, all of which may go; raise DestinationExistsError where something may not."""
        inventory = self._output.inventory()
        if in_the_way := inventory.in_the_way(also_zarr=also_zarr):
            raise DestinationExistsError(f"{self._output} is not replaced; in the way: {shown(in_the_way)}")
        return inventory

    def _remove_place(self, *, also_zarr: bool = False) -> None:
        """Remove what lies in the place, as far as it is proven to be ours."""
        inventory = self._proven_inventory(also_zarr=also_zarr)
        self._check()
        removable = inventory.removable(also_zarr=also_zarr)
        listing = inventory.listing
        if isinstance(listing, FolderListing):
            remove_files(listing.folder, removable, self._check)
        elif isinstance(listing, StoreListing):
            for key in removable:
                delete_object(listing.store, listing.full_key(key), check=self._check)
