"""Table of transitions: the states of a unit and of a tile, what moves them on, and what is instructed then.

The coordinator looks up each move, and its instruction, in this table; the docstring of the package shows it.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tilewright.coordinator.messages import (
    DeliverTiles,
    GiveUpUnit,
    Instruction,
    ProduceUnit,
    RecordReceipt,
    ReleaseTile,
    TakeTile,
    WriteUnit,
)


class _Member(Enum):
    """Member that is hashed as an object: hashing its name takes several times as long."""

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
    OFFERED = "a trainer predicts it"
    PREDICTED = "its prediction is there"
    LAST_TILE_HELD = "its last tile is held"
    TILE_LOST = "it, or a tile of it, is lost"
    FAILED = "an attempt fails, more are left"
    ATTEMPTS_SPENT = "the last attempt fails, of it or of a tile of it"
    STORED = "its objects are stored"
    UNITS_DONE = "its last unit is written or given up"


@dataclass(frozen=True, slots=True)
class Transition:
    """Row of the table: a state, a cause, the next state, and what is instructed."""

    state: UnitState | TileState
    cause: Cause
    next_state: UnitState | TileState
    instruction: type[Instruction] | None = None


TRANSITIONS = (
    Transition(UnitState.WAITING, Cause.ADMITTED, UnitState.PRODUCING, ProduceUnit),
    Transition(UnitState.WAITING, Cause.LAST_TILE_HELD, UnitState.WRITING, WriteUnit),
    Transition(UnitState.WAITING, Cause.STORED, UnitState.WRITTEN, RecordReceipt),
    Transition(UnitState.WAITING, Cause.ATTEMPTS_SPENT, UnitState.GIVEN_UP, GiveUpUnit),
    Transition(UnitState.WRITING, Cause.STORED, UnitState.WRITTEN, RecordReceipt),
    Transition(UnitState.WRITING, Cause.FAILED, UnitState.WRITING, WriteUnit),
    Transition(UnitState.WRITING, Cause.ATTEMPTS_SPENT, UnitState.GIVEN_UP, GiveUpUnit),
    Transition(UnitState.WRITING, Cause.TILE_LOST, UnitState.WAITING),
    Transition(UnitState.PRODUCING, Cause.STORED, UnitState.WRITTEN, RecordReceipt),
    Transition(UnitState.PRODUCING, Cause.FAILED, UnitState.PRODUCING, ProduceUnit),
    Transition(UnitState.PRODUCING, Cause.ATTEMPTS_SPENT, UnitState.GIVEN_UP, GiveUpUnit),
    Transition(TileState.UNSEEN, Cause.ADMITTED, TileState.EXPECTED, DeliverTiles),
    Transition(TileState.UNSEEN, Cause.OFFERED, TileState.EXPECTED, TakeTile),
    Transition(TileState.UNSEEN, Cause.PREDICTED, TileState.HELD),
    Transition(TileState.EXPECTED, Cause.PREDICTED, TileState.HELD),
    Transition(TileState.EXPECTED, Cause.FAILED, TileState.EXPECTED, DeliverTiles),
    Transition(TileState.EXPECTED, Cause.UNITS_DONE, TileState.RELEASED),
    Transition(TileState.HELD, Cause.TILE_LOST, TileState.EXPECTED, DeliverTiles),
    Transition(TileState.HELD, Cause.UNITS_DONE, TileState.RELEASED, ReleaseTile),
)


class Move(NamedTuple):
    """Next state, change in the number of outstanding answers, and the instruction."""

    next_state: UnitState | TileState
    waited_for: int
    instruction: type[Instruction] | None


def _is_waited_for(state: UnitState | TileState) -> bool:
    """Tell whether an answer to an instruction is outstanding."""
    return state in (UnitState.WRITING, UnitState.PRODUCING, TileState.EXPECTED)


MOVES = {
    (row.state, row.cause): Move(
        row.next_state, _is_waited_for(row.next_state) - _is_waited_for(row.state), row.instruction
    )
    for row in TRANSITIONS
}
"""Moves by state and cause; a cause without a move is ignored in that state."""


_WORDS: dict[type[Instruction], str] = {
    ProduceUnit: "produce the unit",
    WriteUnit: "write the unit",
    RecordReceipt: "record the receipt",
    GiveUpUnit: "give the unit up",
    DeliverTiles: "deliver the tile",
    TakeTile: "take the tile",
    ReleaseTile: "release the tile",
}


def transition_table() -> str:
    """Return all transitions as a table in Markdown; the docstring of the package shows it with even columns."""
    rows = ["| a ... | that is | when | becomes | instruction |", "| --- | --- | --- | --- | --- |"]
    for row in TRANSITIONS:
        subject = "unit" if isinstance(row.state, UnitState) else "tile"
        words = "" if row.instruction is None else _WORDS[row.instruction]
        rows.append(f"| {subject} | {row.state.value} | {row.cause.value} | {row.next_state.value} | {words} |")
    return "\n".join(rows)
