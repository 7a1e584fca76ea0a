"""The states of a unit and of a tile, and every way from one to another, as data.

The coordinator looks its transitions up here, and the table in the README is made from here.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class _Member(Enum):
    """A member is one object: it is hashed as such, which takes a fraction of hashing its name, and is done often."""

    __hash__ = object.__hash__


class UnitState(_Member):
    """Where a write unit stands."""

    WAITING = "waiting"
    WRITING = "writing"
    PRODUCING = "producing"
    WRITTEN = "written"
    GIVEN_UP = "given up"


class TileState(_Member):
    """Where a tile stands."""

    UNSEEN = "unseen"
    EXPECTED = "expected"
    HELD = "held"
    RELEASED = "released"


class Cause(_Member):
    """What moves a unit or a tile from one state to another."""

    ADMITTED = "there is room for it"
    OFFERED = "somebody predicts it unasked"
    PREDICTED = "its prediction is there"
    LAST_TILE_HELD = "its last tile is held"
    TILE_LOST = "it, or a tile of it, is lost"
    FAILED = "an attempt fails, more are left"
    ATTEMPTS_SPENT = "the last attempt fails, of it or of a tile of it"
    STORED = "its objects are stored"
    UNITS_DONE = "its last unit is written or given up"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table: what happens in a state, where it leads, and what is instructed."""

    state: UnitState | TileState
    cause: Cause
    next_state: UnitState | TileState
    instruction: str


TRANSITIONS = (
    Transition(UnitState.WAITING, Cause.ADMITTED, UnitState.PRODUCING, "produce the unit"),
    Transition(UnitState.WAITING, Cause.LAST_TILE_HELD, UnitState.WRITING, "write the unit"),
    Transition(UnitState.WAITING, Cause.STORED, UnitState.WRITTEN, "record the receipt"),
    Transition(UnitState.WAITING, Cause.ATTEMPTS_SPENT, UnitState.GIVEN_UP, "give the unit up"),
    Transition(UnitState.WRITING, Cause.STORED, UnitState.WRITTEN, "record the receipt"),
    Transition(UnitState.WRITING, Cause.FAILED, UnitState.WRITING, "write the unit"),
    Transition(UnitState.WRITING, Cause.ATTEMPTS_SPENT, UnitState.GIVEN_UP, "give the unit up"),
    Transition(UnitState.WRITING, Cause.TILE_LOST, UnitState.WAITING, ""),
    Transition(UnitState.PRODUCING, Cause.STORED, UnitState.WRITTEN, "record the receipt"),
    Transition(UnitState.PRODUCING, Cause.FAILED, UnitState.PRODUCING, "produce the unit"),
    Transition(UnitState.PRODUCING, Cause.ATTEMPTS_SPENT, UnitState.GIVEN_UP, "give the unit up"),
    Transition(TileState.UNSEEN, Cause.ADMITTED, TileState.EXPECTED, "deliver the tile"),
    Transition(TileState.UNSEEN, Cause.OFFERED, TileState.EXPECTED, "take the tile"),
    Transition(TileState.UNSEEN, Cause.PREDICTED, TileState.HELD, ""),
    Transition(TileState.EXPECTED, Cause.PREDICTED, TileState.HELD, ""),
    Transition(TileState.EXPECTED, Cause.FAILED, TileState.EXPECTED, "deliver the tile"),
    Transition(TileState.EXPECTED, Cause.UNITS_DONE, TileState.RELEASED, ""),
    Transition(TileState.HELD, Cause.TILE_LOST, TileState.EXPECTED, "deliver the tile"),
    Transition(TileState.HELD, Cause.UNITS_DONE, TileState.RELEASED, "release the tile"),
)


class Move(NamedTuple):
    """Where a cause leads from a state, and what that changes in the number of those that are waited for."""

    next_state: UnitState | TileState
    waited_for: int


def _is_waited_for(state: UnitState | TileState) -> bool:
    """Tell whether an answer to an instruction is outstanding."""
    return state in (UnitState.WRITING, UnitState.PRODUCING, TileState.EXPECTED)


MOVES = {
    (row.state, row.cause): Move(row.next_state, _is_waited_for(row.next_state) - _is_waited_for(row.state))
    for row in TRANSITIONS
}
"""Every way from one state to another; a cause that is not here means nothing in a state, and is ignored."""


def transition_table() -> str:
    """Return all transitions as a table in Markdown, as the README shows it."""
    rows = ["| a ... | that is | when | becomes | instruction |", "| --- | --- | --- | --- | --- |"]
    for row in TRANSITIONS:
        subject = "unit" if isinstance(row.state, UnitState) else "tile"
        rows.append(
            f"| {subject} | {row.state.value} | {row.cause.value} | {row.next_state.value} | {row.instruction} |"
        )
    return "\n".join(rows)
