"""All that the coordinator can ask of the shell around it."""

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeliverTiles:
    """Predict these tiles, or hand them over again, for these units; answer with `TilesPredicted` or `TilesFailed`."""

    tiles: tuple[int, ...]
    units: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class TakeTile:
    """Take in a tile that was offered, as far as these units need it; answer as to `DeliverTiles`."""

    tile: int
    units: tuple[int, ...]


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
    """Nobody needs this handle any more."""

    tile: int
    handle: Hashable


@dataclass(frozen=True, slots=True)
class RecordReceipt:
    """Keep the receipt of a unit that is stored."""

    unit: int
    receipt: object


@dataclass(frozen=True, slots=True)
class GiveUpUnit:
    """Give a unit up that failed more often than it may, and drop what was put together of it."""

    unit: int
    reason: str


Instruction = DeliverTiles | TakeTile | ProduceUnit | WriteUnit | ReleaseTile | RecordReceipt | GiveUpUnit
