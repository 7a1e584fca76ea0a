"""Messages: events, of which the coordinator is told, and instructions, which an executor and a recorder carry out.

Tiles and units are named by their numbers in the plan.
"""

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt.

    Parameters
    ----------
    reason : str
        The text of the error.
    error : int, optional
        The number under which the executor keeps the error itself.
    is_final : bool
        Whether a further attempt is of no use.
    is_consequence : bool
        Whether another unit, which this one is made of, was given up.
    """

    reason: str
    error: int | None = None
    is_final: bool = False
    is_consequence: bool = False

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class StartAdmitting:
    """Tiles may be asked for: the executor predicts what is instructed, or makes tiles of stored units alone."""

    predicts: bool = True


@dataclass(frozen=True, slots=True)
class StopAdmitting:
    """No further tiles may be asked for; what is under way is finished."""


@dataclass(frozen=True, slots=True)
class RoomChanged:
    """So many bytes of tiles may be in flight beyond those that wait, where the plan does not allow more already."""

    nbytes: int


@dataclass(frozen=True, slots=True)
class TilesOffered:
    """Tiles come without being asked for: a trainer predicts them."""

    tiles: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TilesPredicted:
    """The predictions of tiles are there, each under its handle."""

    tiles: tuple[int, ...]
    handles: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class TilesCounted:
    """All tiles of a unit have come: of some plans, their number is not known before."""

    unit: int


@dataclass(frozen=True, slots=True)
class TilesLost:
    """What these handles stood for is gone, with the worker that held it."""

    tiles: tuple[int, ...]
    handles: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class TilesFailed:
    """Tiles that were asked for could not be predicted."""

    tiles: tuple[int, ...]
    failure: Failure


@dataclass(frozen=True, slots=True)
class UnitWritten:
    """All objects of a unit are stored; where it is a tile of a coarser level, that is there under a handle."""

    unit: int
    receipt: object
    handle: Hashable = None


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """An attempt to write, or to produce, a unit failed."""

    unit: int
    attempt: int
    failure: Failure


Event = (
    StartAdmitting
    | StopAdmitting
    | RoomChanged
    | TilesOffered
    | TilesPredicted
    | TilesCounted
    | TilesLost
    | TilesFailed
    | UnitWritten
    | UnitFailed
)


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
