"""Who writes which unit from which tiles, and when: events in, instructions out, and nothing else."""

from tilewright.coordinator.coordinator import Coordinator
from tilewright.coordinator.events import (
    Event,
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

__all__ = [
    "Coordinator",
    "DeliverTiles",
    "Event",
    "GiveUpUnit",
    "Instruction",
    "ProduceUnit",
    "RecordReceipt",
    "ReleaseTile",
    "RoomChanged",
    "StartAdmitting",
    "StopAdmitting",
    "TakeTile",
    "TilesFailed",
    "TilesLost",
    "TilesOffered",
    "TilesPredicted",
    "UnitFailed",
    "UnitWritten",
    "WriteUnit",
]
