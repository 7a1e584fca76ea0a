"""Instructions of the coordinator, which an executor and a recorder carry out."""

from collections.abc import Hashable
from dataclasses import dataclass

from tilewright.coordinator.events import Failure


@dataclass(frozen=True, slots=True)
class DeliverTiles:
    """Predict these tiles, or hand them over again; answer with `TilesPredicted` or `TilesFailed`."""

    tiles: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TakeTile:
    """Take in a tile that was offered; answer as to `DeliverTiles`."""

    tile: int


@dataclass(frozen=True, slots=True)
class ProduceUnit:
    """Predict the tiles of this unit and write it, in one place; answer with `UnitWritten` or `UnitFailed`."""

    unit: int
    attempt: int


@dataclass(frozen=True, slots=True)
class WriteUnit:
    """Write this unit from these tiles; answer with `UnitWritten` or `UnitFailed`."""

    unit: int
    attempt: int
    tiles: tuple[int, ...]
    handles: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class ReleaseTile:
    """Let go of this handle: all units of the tile are done."""

    tile: int
    handle: Hashable


@dataclass(frozen=True, slots=True)
class RecordReceipt:
    """Keep the receipt of a unit that is stored."""

    unit: int
    receipt: object


@dataclass(frozen=True, slots=True)
class GiveUpUnit:
    """Record that a unit is given up, and remove its objects."""

    unit: int
    failure: Failure


Instruction = DeliverTiles | TakeTile | ProduceUnit | WriteUnit | ReleaseTile | RecordReceipt | GiveUpUnit
