"""The functions that run on a worker of a cluster."""

from dataclasses import replace
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.executors.work import Work
from tilewright.ledger.receipts import UnitReceipt
from tilewright.objects.unit_writer import StoredUnit
from tilewright.transport.sendable import sendable_errors
from tilewright.transport.sharing import shared_value

_Names = tuple[str, str | None]


_reached: dict[str, None] = {}
"""The runs of which this process has seen the output."""


def _work(names: _Names) -> Work:
    work: Work = shared_value(names[0])
    if work.reach is not None and names[0] not in _reached:
        # A worker that has come later may not see what the others do.
        work.reach.look()
        _reached[names[0]] = None
    return work if names[1] is None else replace(work, prediction=shared_value(names[1]))


@sendable_errors
def predict(names: _Names, tiles: tuple[int, ...]) -> list[AnyArray]:
    """Return the valid regions of tiles."""
    # Contiguous, so that neither the halo nor the batch is kept or sent.
    work = _work(names)
    return [np.ascontiguousarray(valid) for batch in work.batches(tiles) for valid in work.predict(batch)]


@sendable_errors
def produce(names: _Names, unit: int) -> StoredUnit | UnitReceipt:
    """Predict the tiles of a unit, and write it."""
    return _tile_or_receipt(_work(names).produce(unit))


@sendable_errors
def write(
    names: _Names,
    unit: int,
    tiles: tuple[int, ...],
    where: list[tuple[int, int | None]],
    values: list[Any],
) -> StoredUnit | UnitReceipt:
    """Write a unit from tiles; each is one of the values, or lies at a place in one of them."""
    arrays = {
        tile: values[number] if place is None else values[number][place]
        for tile, (number, place) in zip(tiles, where, strict=True)
    }
    return _tile_or_receipt(_work(names).write_tiles(unit, arrays))


COARSER = 1
"""Place of the tile of the next coarser level in what a stored unit becomes."""


def _tile_or_receipt(stored: StoredUnit) -> StoredUnit | UnitReceipt:
    """Return the receipt alone of a unit that is no tile."""
    return stored.receipt if stored.coarser is None else stored


def receipt_of(stored: StoredUnit) -> UnitReceipt:
    """Return the receipt alone: the tile stays where it is."""
    return stored.receipt
