"""Units that workers have stored: receipts come here, and what a coarser level needs of a unit stays on its worker."""

from collections.abc import Hashable, Mapping
from typing import Any

from distributed import Client, Future

from tilewright.coordinator import DeliverTiles, Instruction, UnitPlan, UnitWritten
from tilewright.executors.remote.tasks import COARSER, receipt_of
from tilewright.ledger.receipts import UnitReceipt
from tilewright.transport.remote_tiles import RemoteTiles
from tilewright.transport.watch import Watch


class StoredUnits:
    """Receipts of units, and tiles of coarser levels.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    plan : UnitPlan
        The plan.
    tiles : RemoteTiles
        Takes the tiles.
    """

    def __init__(self, client: Client, plan: UnitPlan, tiles: RemoteTiles) -> None:
        self._client = client
        self._watch = Watch(client)
        self._plan = plan
        self._tiles = tiles
        # Futures of units, by those of their receipts.
        self._stored: dict[Future[Any], Future[Any]] = {}

    def ask_for_receipt(self, unit: int, future: Future[Any], key: Hashable) -> Future[Any] | None:
        """Return a future of the receipt of a unit that is also a tile; None for other units, and for receipts."""
        if self._plan.tile_of_unit(unit) is None or future in self._stored or future.status != "finished":
            return None
        receipt = self._client.submit(receipt_of, future, key=key, priority=20, pure=False)
        self._stored[receipt] = future
        return receipt

    def receipts_of(self, running: Mapping[Future[Any], Instruction]) -> dict[Future[Any], UnitReceipt]:
        """Fetch the receipts of all units that were written, in one message."""
        written = [f for f, step in running.items() if f.status == "finished" and not isinstance(step, DeliverTiles)]
        # A receipt that died with its worker is missing here: that unit is written again.
        receipts: dict[str, UnitReceipt] = {}
        if written:
            with self._watch.talking():
                receipts = self._client.gather({str(i): f for i, f in enumerate(written)}, errors="skip")
        return {written[int(number)]: receipt for number, receipt in receipts.items()}

    def written(self, unit: int, future: Future[Any], receipt: UnitReceipt) -> UnitWritten:
        """Return that a unit is stored, and where it is as a tile."""
        tile, stored = self._plan.tile_of_unit(unit), self._stored.get(future)
        if tile is None or stored is None:
            return UnitWritten(unit, receipt)
        handle = stored.key, COARSER
        self._tiles.add(handle, tile, stored, COARSER)
        return UnitWritten(unit, receipt, handle)

    def forget(self, future: Future[Any]) -> None:
        """Let go of the unit of a receipt."""
        self._stored.pop(future, None)

    def close(self) -> None:
        """Let go of all units."""
        self._stored.clear()
