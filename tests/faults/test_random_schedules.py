"""Schedules of `benchmarks.faults` with faults at fixed places: nothing is lost, and nothing written for nothing.

The long run draws hundreds of them: `python -m benchmarks.faults`.
"""

from collections.abc import Iterator

import pytest
from benchmarks.faults.cases import Case
from benchmarks.faults.command import summary
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.schedule import (
    LOSE_LOCK_TO_OVERWRITE,
    OTHER_OUTPUT,
    OVERWRITE,
    REFUSED_CLIENT,
    REFUSED_RESUME,
    Fault,
    Round,
    Schedule,
    draw_schedule,
)
from benchmarks.faults.stage import Stage, open_stage
from benchmarks.faults.store import StoreFaults

CLUSTER = Case("volume", "compact", "chunks", "zstd", 2, "cluster")
TRAINER = Case("volume", "aligned", "shards", "none", 2, "trainer")
# Seconds of the model for one batch, so that a run is not over before something happens to it.
DELAY = 0.06


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with open_stage() as opened:
        yield opened


def when(what: str, share: float, which: int = 0) -> Fault:
    """A fault as soon as this share of the objects of a round is stored."""
    return Fault(what, after_share=share, after_seconds=0.0, seconds=0.3, which=which)


def schedule(number: int, case: Case, *rounds: Round, through_zarr: bool = False) -> Schedule:
    return Schedule(number, case, DELAY, through_zarr, allowed_failures=3, rounds=rounds)


def check(outcome: Outcome, *injected: str) -> None:
    assert outcome.problems == []
    assert outcome.units_lost == outcome.objects_differ == outcome.hung == 0
    assert outcome.units_written >= outcome.units > 0
    for what in injected:
        assert outcome.injected[what] > 0, f"{what} was to happen, and has not: {outcome.injected}"


def test_a_client_that_is_killed_and_objects_that_are_damaged(stage: Stage) -> None:
    outcome = stage.play(
        schedule(
            0,
            CLUSTER,
            Round(faults=(when("kill client", 0.5),)),
            Round(("flip byte", "delete object", "tear ledger"), (when("interrupt client", 0.4),)),
        )
    )
    check(outcome, "kill client", "flip byte", "delete object", "tear ledger", "interrupt client")
    assert outcome.clients == 3


def test_workers_that_are_killed_and_stopped_while_the_store_fails(stage: Stage) -> None:
    store = StoreFaults(error_rate=0.2, error="RuntimeError", in_store=True)
    faults = (when("kill worker", 0.1), when("stop worker", 0.3, which=1), when("pause worker", 0.5))
    outcome = stage.play(schedule(1, CLUSTER, Round(faults=faults, store=store), through_zarr=True))
    check(outcome, "kill worker", "stop worker", "pause worker", "store error")


def test_a_trainer_whose_workers_die_and_that_is_killed_itself(stage: Stage) -> None:
    outcome = stage.play(
        schedule(
            2,
            TRAINER,
            Round(faults=(when("kill both workers", 0.2), when("kill client", 0.4))),
            Round(("truncate object", "leave partial file"), store=StoreFaults(error_rate=0.2)),
        )
    )
    check(outcome, "kill both workers", "kill client", "truncate object", "leave partial file")


def test_an_output_of_another_model_is_overwritten_by_one_client_at_a_time(stage: Stage) -> None:
    faults = (when(REFUSED_CLIENT, 0.2), when(REFUSED_CLIENT, 0.3, which=1), when(LOSE_LOCK_TO_OVERWRITE, 0.6))
    other = Round(faults=(when("kill client", 0.5),), if_exists=OVERWRITE, is_other=True)
    outcome = stage.play(schedule(4, CLUSTER, Round(), other, Round(), Round(faults=faults, if_exists=OVERWRITE)))
    check(outcome, OTHER_OUTPUT, REFUSED_RESUME, OVERWRITE, REFUSED_CLIENT, LOSE_LOCK_TO_OVERWRITE)
    assert outcome.injected[REFUSED_CLIENT] == 2


def test_without_faults_every_object_is_stored_once(stage: Stage) -> None:
    outcome = stage.play(schedule(3, CLUSTER, Round()))
    check(outcome)
    assert not outcome.injected
    assert outcome.units_written == outcome.units
    assert outcome.units_twice == 0
    assert summary([outcome], clusters=1, seconds=1.0)["runs that failed"] == 0


def test_a_schedule_is_the_same_each_time_that_it_is_drawn() -> None:
    drawn = [draw_schedule(1, number) for number in range(50)]
    assert drawn == [draw_schedule(1, number) for number in range(50)]
    assert len(set(drawn)) == 50
    assert drawn[:10] != [draw_schedule(2, number) for number in range(10)]
