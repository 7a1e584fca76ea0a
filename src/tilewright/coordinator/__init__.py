"""Assignment of tiles to units: events in, instructions out, and nothing else.

The coordinator is one function from events to instructions. It has no clock, no thread and no I/O. These are all its
transitions, as `tilewright.coordinator.transitions` has them:

| a ... | that is   | when                                             | becomes   | instruction        |
| ----- | --------- | ------------------------------------------------ | --------- | ------------------ |
| unit  | waiting   | there is room for it                             | producing | produce the unit   |
| unit  | waiting   | its last tile is held                            | writing   | write the unit     |
| unit  | waiting   | its objects are stored                           | written   | record the receipt |
| unit  | waiting   | the last attempt fails, of it or of a tile of it | given up  | give the unit up   |
| unit  | writing   | its objects are stored                           | written   | record the receipt |
| unit  | writing   | an attempt fails, more are left                  | writing   | write the unit     |
| unit  | writing   | the last attempt fails, of it or of a tile of it | given up  | give the unit up   |
| unit  | writing   | it, or a tile of it, is lost                     | waiting   |                    |
| unit  | producing | its objects are stored                           | written   | record the receipt |
| unit  | producing | an attempt fails, more are left                  | producing | produce the unit   |
| unit  | producing | the last attempt fails, of it or of a tile of it | given up  | give the unit up   |
| tile  | unseen    | there is room for it                             | expected  | deliver the tile   |
| tile  | unseen    | a trainer predicts it                            | expected  | take the tile      |
| tile  | unseen    | its prediction is there                          | held      |                    |
| tile  | expected  | its prediction is there                          | held      |                    |
| tile  | expected  | an attempt fails, more are left                  | expected  | deliver the tile   |
| tile  | expected  | its last unit is written or given up             | released  |                    |
| tile  | held      | it, or a tile of it, is lost                     | expected  | deliver the tile   |
| tile  | held      | its last unit is written or given up             | released  | release the tile   |

A cause that has no row for a state is ignored in that state.
"""

from tilewright.coordinator.coordinator import Coordinator
from tilewright.coordinator.messages import (
    DeliverTiles,
    Event,
    Failure,
    GiveUpUnit,
    Instruction,
    ProduceUnit,
    RecordReceipt,
    ReleaseTile,
    RoomChanged,
    StartAdmitting,
    StopAdmitting,
    TakeTile,
    TilesCounted,
    TilesFailed,
    TilesLost,
    TilesOffered,
    TilesPredicted,
    UnitFailed,
    UnitWritten,
    WriteUnit,
)
from tilewright.coordinator.open_work import Ownership
from tilewright.coordinator.retry import RetryPolicy
from tilewright.coordinator.suspects import Suspects
from tilewright.coordinator.unit_plan import UNKNOWN_COUNT, UnitPlan

__all__ = [
    "UNKNOWN_COUNT",
    "Coordinator",
    "DeliverTiles",
    "Event",
    "Failure",
    "GiveUpUnit",
    "Instruction",
    "Ownership",
    "ProduceUnit",
    "RecordReceipt",
    "ReleaseTile",
    "RetryPolicy",
    "RoomChanged",
    "StartAdmitting",
    "StopAdmitting",
    "Suspects",
    "TakeTile",
    "TilesCounted",
    "TilesFailed",
    "TilesLost",
    "TilesOffered",
    "TilesPredicted",
    "UnitFailed",
    "UnitPlan",
    "UnitWritten",
    "WriteUnit",
]
