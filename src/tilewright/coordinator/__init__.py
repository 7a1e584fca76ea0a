"""Who writes which unit from which tiles, and when: events in, instructions out, and nothing else."""

from tilewright.coordinator.coordinator import Coordinator
from tilewright.coordinator.events import (
    Event,
    Failure,
    RoomChanged,
    StartAdmitting,
    StopAdmitting,
    TilesFailed,
    TilesLost,
    TilesOffered,
    TilesPredicted,
    UnitFailed,
    UnitWritten,
)
from tilewright.coordinator.instructions import (
    DeliverTiles,
    GiveUpUnit,
    Instruction,
    ProduceUnit,
    RecordReceipt,
    ReleaseTile,
    TakeTile,
    WriteUnit,
)
from tilewright.coordinator.retry import RetryPolicy
from tilewright.coordinator.suspects import Suspects

__all__ = [
    "Coordinator",
    "DeliverTiles",
    "Event",
    "Failure",
    "GiveUpUnit",
    "Instruction",
    "ProduceUnit",
    "RecordReceipt",
    "ReleaseTile",
    "RetryPolicy",
    "RoomChanged",
    "StartAdmitting",
    "StopAdmitting",
    "Suspects",
    "TakeTile",
    "TilesFailed",
    "TilesLost",
    "TilesOffered",
    "TilesPredicted",
    "UnitFailed",
    "UnitWritten",
    "WriteUnit",
]
