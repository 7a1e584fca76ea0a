"""Look of the client at what workers report as stored: presence and length of objects, never the data."""

import os
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore

from tilewright.errors import DestinationError, NotSharedError
from tilewright.ledger.receipts import UnitReceipt, process_name
from tilewright.locks.reach import SEEN_SECONDS
from tilewright.objects.encoding import ObjectEncoder
from tilewright.outputs.arrays import metadata_faults
from tilewright.outputs.output import Output
from tilewright.plan import WritePlan
from tilewright.stores.metadata import array_metadata
from tilewright.stores.patience import Check, Patience, answer_of
from tilewright.stores.places import public_name

LOOKED_AT = 8
"""Units, spread over the image, that the client looks at when a run ends."""
OBJECTS_OF_UNIT = 4
"""Objects that the client looks at, per unit."""
_PAUSE_SECONDS = 0.05


class Witness:
    """Look at a unit of each worker when it comes, and at some units at the end.

    Parameters
    ----------
    plan : WritePlan
        Which unit has which objects.
    output : Output
        The output.
    encoders : sequence of ObjectEncoder
        Encoder of each array, as the client has opened it.
    check : callable
        Raises OutputInUseError where another run has the output: it may have removed what this one has stored.
    """

    def __init__(self, plan: WritePlan, output: Output, encoders: Sequence[ObjectEncoder], check: Check) -> None:
        self._plan = plan
        self._output = output
        self._encoders = encoders
        self._check = check
        self._chosen = {number * plan.unit_count // LOOKED_AT for number in range(LOOKED_AT)}
        self._receipts: dict[int, UnitReceipt] = {}
        self._processes = {process_name()}

    def hear(self, receipt: UnitReceipt) -> None:
        """Take in that a unit is stored, and look where a process says so for the first time; as `look_again`."""
        if receipt.process not in self._processes:
            self._look(receipt)
            self._processes.add(receipt.process)
        if receipt.unit in self._chosen:
            self._receipts[receipt.unit] = receipt

    def look_again(self) -> None:
        """Look at some of the units that were heard of, and at the metadata of the arrays.

        Raises
        ------
        NotSharedError, DestinationError
            If objects of the units are missing or have another length; if the metadata are gone, or others.
        """
        for receipt in self._receipts.values():
            self._look(receipt)
        self._check()
        for number, encoder in enumerate(self._encoders):
            self._check_metadata(number, array_metadata(encoder.array))

    def _check_metadata(self, number: int, wanted: dict[str, Any]) -> None:
        for path, differing in metadata_faults(self._output, self._plan, number, wanted):
            name = f"{self._output}/{path}"
            if not differing:
                raise DestinationError(
                    f"the metadata of {name} are gone: another program has removed them; run again with "
                    "if_exists='resume'"
                )
            raise DestinationError(
                f"the metadata of {name} were changed during the run by another program: {'; '.join(differing)}; run "
                "again with if_exists='resume' or 'overwrite'"
            )

    def _look(self, receipt: UnitReceipt) -> None:
        until = monotonic() + SEEN_SECONDS
        while reason := self._fault(receipt):
            self._check()
            if monotonic() > until:
                raise NotSharedError(
                    f"the process {receipt.process} says that it has stored unit {receipt.unit}, but {reason}, seen "
                    f"from {process_name()}; choose a folder, or an object store, that all workers share"
                )
            # A network file system may take some time until it shows what another host has written.
            sleep(_PAUSE_SECONDS)

    def _fault(self, receipt: UnitReceipt) -> str:
        """Return what is wrong with the objects of a unit; empty where nothing is."""
        encoder, positions = self._encoders[receipt.array], self._plan.objects_of_unit(receipt.unit)
        store = encoder.array.store
        step = -(-len(positions) // OBJECTS_OF_UNIT)
        lengths = []
        for position in positions[::step]:
            key = encoder.key(position)
            nbytes = _length_of(store, key)
            if nbytes is None:
                return f"the object {public_name(store)}/{key} is not there"
            lengths.append(nbytes)
        is_known = step == 1 and -1 not in lengths
        if is_known and sum(lengths) != receipt.stored_nbytes:
            return f"its objects have {sum(lengths)} bytes, not {receipt.stored_nbytes}"
        return ""


def _length_of(store: Store, key: str) -> int | None:
    """Return the bytes of an object; None where it is not there, -1 where only reading it would tell."""
    if type(store) is LocalStore:
        try:
            return os.stat(f"{store.root}/{key}").st_size  # noqa: PTH116
        except FileNotFoundError:
            return None
    seconds = Patience().answer_seconds
    if not answer_of(store, key, store.exists(key), seconds):
        return None
    if type(store).getsize is Store.getsize:
        return -1
    return answer_of(store, key, store.getsize(key), seconds)
