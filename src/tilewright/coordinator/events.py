"""All that can happen to a run, as the coordinator is told of it. Tiles and units go by their ranks in the plan."""

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartAdmitting:
    """Tiles may be asked for: somebody predicts what is instructed."""


@dataclass(frozen=True, slots=True)
class StopAdmitting:
    """No further tiles may be asked for; what is under way is finished."""


@dataclass(frozen=True, slots=True)
class RoomChanged:
    """So many bytes of tiles may be in flight beyond those that wait, where the plan does not allow more already."""

    nbytes: int


@dataclass(frozen=True, slots=True)
class TilesOffered:
    """Tiles that nobody asked for are on their way: somebody else predicts them."""

    tiles: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TilesPredicted:
    """The predictions of tiles are there, each under its handle."""

    tiles: tuple[int, ...]
    handles: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class TilesLost:
    """What these handles stood for is gone, with the worker that held it."""

    tiles: tuple[int, ...]
    handles: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class TilesFailed:
    """Tiles that were asked for could not be predicted; where it is final, there is no use in trying again."""

    tiles: tuple[int, ...]
    reason: str
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class UnitWritten:
    """All objects of a unit are stored."""

    unit: int
    receipt: object


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """An attempt to write, or to produce, a unit failed; where it is final, there is no use in trying again."""

    unit: int
    attempt: int
    reason: str
    is_final: bool = False


Event = (
    StartAdmitting
    | StopAdmitting
    | RoomChanged
    | TilesOffered
    | TilesPredicted
    | TilesLost
    | TilesFailed
    | UnitWritten
    | UnitFailed
)
