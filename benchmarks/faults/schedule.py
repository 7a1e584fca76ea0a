"""What happens to an output is drawn from a seed and a number, the same for the same numbers."""

import signal
from dataclasses import dataclass, field
from random import Random

from benchmarks.faults.cases import KINDS, Case
from benchmarks.faults.store import StoreFaults

WORKERS = 2
CASES = 40
"""Cases that the schedules share, since each needs an undisturbed run."""


CLIENT_SIGNALS = {
    "kill client": (signal.SIGKILL,),
    "terminate client": (signal.SIGTERM,),
    "interrupt client": (signal.SIGINT,),
    "terminate client twice": (signal.SIGTERM, signal.SIGTERM),
    "interrupt client twice": (signal.SIGINT, signal.SIGINT),
}
WORKER_FAULTS = {"kill worker": 4, "kill both workers": 1, "stop worker": 3, "pause worker": 2, "pause both workers": 1}
OTHER_CLIENT = "second client"
REFUSED_CLIENT = "client to be refused"
LOSE_LOCK = "lose lock"
LOSE_LOCK_TO_OVERWRITE = "lose lock to one that overwrites"
OVERWRITE = "overwrite"
OTHER_OUTPUT = "output of another model"
REFUSED_RESUME = "resume of another output"
DAMAGES = {"delete object": 3, "truncate object": 2, "flip byte": 3, "leave partial file": 1, "tear ledger": 3}


@dataclass(frozen=True)
class Fault:
    """Something that happens once a share of what a round has to store is stored, and some time after."""

    what: str
    after_share: float | None
    after_seconds: float
    seconds: float
    which: int


@dataclass(frozen=True)
class Round:
    """One client, or two, from the start to the end."""

    damages: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    store: StoreFaults = field(default_factory=StoreFaults)
    error_rate: float = 0.0
    kills_its_process: bool = False
    grace_seconds: float = 20.0
    waits_for_old_tasks: bool = True
    if_exists: str = "resume"
    is_other: bool = False

    @property
    def injects_errors(self) -> bool:
        return self.error_rate > 0 or self.store.injects_errors


@dataclass(frozen=True)
class Schedule:
    """All that happens to one output."""

    number: int
    case: Case
    delay_seconds: float
    through_zarr: bool
    allowed_failures: int
    rounds: tuple[Round, ...]


def draw_case(seed: int, number: int) -> Case:
    """Draw a case, the same for the same numbers."""
    rng = Random(f"case-{seed}-{number}")
    return Case(
        kind=rng.choice(list(KINDS)),
        layout=rng.choice(["compact", "aligned"]),
        stored=rng.choice(["chunks", "straddling", "shards"]),
        compressor=rng.choice(["none", "zstd"]),
        batch_size=rng.randint(1, 3),
        predictor=rng.choice(["cluster", "cluster", "cluster", "trainer"]),
    )


def draw_schedule(seed: int, number: int) -> Schedule:
    """Draw a schedule, the same for the same numbers."""
    rng = Random(f"{seed}-{number}")
    case = draw_case(seed, number % CASES)
    predictor = case.predictor
    # For all tiles, so that there is time to hit an image of few tiles too.
    delay_seconds = rng.choice([0.2, 1.0, 2.0]) * case.batch_size / case.array.tile_count
    # A trainer names its outputs by paths, which are no stores of a class of one's own.
    through_zarr = predictor == "cluster" and rng.random() < 0.5
    allowed_failures = rng.choices([3, 1, 0], [6, 1, 1])[0]
    rounds = [
        _draw_round(rng, index, predictor, through_zarr=through_zarr)
        for index in range(rng.choices([1, 2, 3, 4, 5], [3, 5, 5, 2, 1])[0])
    ]
    if rng.random() < 0.3:
        rounds.insert(rng.randrange(len(rounds)), _draw_other(rng, may_die=not through_zarr))
    if rng.random() < 0.06:
        rounds = [Round()]
    return Schedule(number, case, delay_seconds, through_zarr, allowed_failures, tuple(rounds))


def _draw_round(rng: Random, index: int, predictor: str, *, through_zarr: bool) -> Round:
    kinds = _several(rng, WORKER_FAULTS, [3, 4, 2])
    if rng.random() < 0.65:
        kinds += rng.choices(list(CLIENT_SIGNALS), [5, 3, 2, 1, 1])
    if rng.random() < 0.15:
        kinds.append(OTHER_CLIENT)
    if rng.random() < 0.15:
        kinds.append(rng.choice([LOSE_LOCK, LOSE_LOCK_TO_OVERWRITE]))
    if rng.random() < 0.15:
        kinds.append(REFUSED_CLIENT)
    store = StoreFaults(
        error_rate=rng.choice([0.0, 0.0, 0.0, 0.0, 0.0, 0.03, 0.1, 0.2]),
        hopeless_rate=rng.choice([0.0, 0.0, 0.0, 0.0, 0.0, 0.02]),
        salt=rng.getrandbits(32),
        error=rng.choice(["EIO", "RuntimeError"]),
        wait_rate=rng.choice([0.0, 0.0, 0.1]),
        wait_seconds=rng.choice([0.02, 0.2]),
        in_store=through_zarr,
    )
    return Round(
        damages=tuple(_several(rng, DAMAGES, [2, 4, 3, 1])) if index > 0 else (),
        faults=tuple(_draw_fault(rng, kind) for kind in kinds),
        store=store,
        error_rate=rng.choice([0.0, 0.0, 0.0, 0.0, 0.01, 0.05, 0.2]),
        kills_its_process=predictor == "cluster" and rng.random() < 0.15,
        grace_seconds=rng.choice([20.0, 20.0, 0.5, 0.0]),
        waits_for_old_tasks=rng.random() < 0.4,
        if_exists=OVERWRITE if index > 0 and rng.random() < 0.2 else "resume",
    )


def _draw_other(rng: Random, *, may_die: bool) -> Round:
    """Draw a round that leaves an output of another model in other chunks, half-written or whole.

    In a store that is no folder, a half-written output is completed by its own model only: tasks may still write it.
    """
    faults = (_draw_fault(rng, "kill client"),) if rng.random() < 0.5 and may_die else ()
    return Round(faults=faults, if_exists=OVERWRITE, is_other=True)


def _several(rng: Random, weights: dict[str, int], count_weights: list[int]) -> list[str]:
    count = rng.choices(range(len(count_weights)), count_weights)[0]
    return rng.choices(list(weights), list(weights.values()), k=count)


def _draw_fault(rng: Random, kind: str) -> Fault:
    by_share = rng.random() < 0.65
    return Fault(
        what=kind,
        after_share=rng.random() if by_share else None,
        after_seconds=rng.uniform(0.0, 0.05 if by_share else 1.2),
        seconds=rng.uniform(0.2, 2.0),
        which=rng.randrange(WORKERS),
    )
