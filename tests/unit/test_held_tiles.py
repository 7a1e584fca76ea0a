"""What waits takes no more memory than the plan says, and is copied only where it must be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.assemble import crop
from tilewright.conversion import converted
from tilewright.executors.held_tiles import HeldTiles
from tilewright.model.own_memory import LOOKED_AT, OwnMemory
from tilewright.plan import WritePlan, plan_write

PLAN = plan_write((40, 40), "YX", (16, 16), (8, 8), chunks=(8, 8), dtype="uint8", window_nbytes=1000)
WHOLE = 16 * 16


def valid_of(plan: WritePlan, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the prediction of a tile, with its halo, and what is kept of it."""
    predicted = np.full((1, 16, 16), tile, np.uint8)
    return predicted, crop(predicted, plan, tile)


def test_a_tile_is_held_where_it_is_and_with_its_halo() -> None:
    held = HeldTiles(PLAN)
    predicted, valid = valid_of(PLAN, 0)
    held.hold(0, valid)
    assert np.shares_memory(held[0], predicted)
    assert held.nbytes == WHOLE
    held.release(0)
    assert held.nbytes == 0


def test_a_tile_with_memory_of_its_own_counts_without_a_halo() -> None:
    held = HeldTiles(PLAN)
    own = np.ones((12, 12), np.uint8)
    held.hold(0, own)
    assert held.nbytes == own.nbytes


@given(steps=st.lists(st.tuples(st.integers(0, PLAN.tile_count - 1), st.booleans()), max_size=60))
def test_what_is_held_takes_no_more_than_the_plan_says_where_copies_help(steps: list[tuple[int, bool]]) -> None:
    held = HeldTiles(PLAN)
    expected: set[int] = set()
    for tile, is_held in steps:
        if is_held:
            held.hold(tile, valid_of(PLAN, tile)[1])
            expected.add(tile)
        else:
            held.release(tile)
            expected.discard(tile)
        valid_nbytes = sum(map(PLAN.tile_nbytes, expected))
        assert held.nbytes <= max(PLAN.waiting_nbytes + PLAN.window_nbytes, valid_nbytes)
        assert held.nbytes >= valid_nbytes
        assert all((held[one] == one).all() for one in expected)
    for tile in expected:
        held.release(tile)
    assert held.nbytes == 0


@pytest.mark.parametrize("buffers", [1, 2])
def test_a_model_that_uses_its_memory_again_changes_nothing_that_is_held(buffers: int) -> None:
    memory = OwnMemory()
    used = [np.zeros(4) for _ in range(buffers)]
    held = []
    for number in range(10):
        predicted = used[number % buffers]
        predicted[:] = number
        held.append(predicted if memory.is_left_alone(predicted) else predicted.copy())
    assert [int(values[0]) for values in held] == list(range(10))


def test_predictions_in_memory_of_their_own_are_not_copied_once_that_is_known() -> None:
    memory = OwnMemory()
    predictions = [np.zeros(4) for _ in range(LOOKED_AT + 3)]
    assert [memory.is_left_alone(prediction) for prediction in predictions] == [False] * LOOKED_AT + [True] * 3


def test_a_prediction_in_another_data_type_has_memory_of_its_own() -> None:
    predicted = np.full((1, 16, 16), 3.0, np.float32)
    valid, _ = converted(crop(predicted, PLAN, 0), np.dtype(PLAN.dtype), is_asked_for=True)
    held = HeldTiles(PLAN)
    held.hold(0, valid)
    assert held[0] is valid
    assert held.nbytes == PLAN.tile_nbytes(0)
