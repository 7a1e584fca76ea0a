"""The command: schedules are drawn, played and told of."""

import signal
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks import faults
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.schedule import draw_schedule
from benchmarks.faults.stage import Stage, open_stage
from benchmarks.measure import save, table


def play_all(stage: Stage, seed: int, numbers: Sequence[int], report: Callable[[str], None]) -> list[Outcome]:
    """Play schedules, and tell of each."""
    outcomes = []
    for number in numbers:
        schedule = draw_schedule(seed, number)
        outcome = stage.play(schedule)
        outcomes.append(outcome)
        faults = ", ".join(f"{count} {what}" for what, count in sorted(outcome.injected.items())) or "none"
        verdict = "FAILED" if outcome.problems else "ok"
        report(
            f"{number:4d}  {schedule.case}{' through zarr' if schedule.through_zarr else ''}; faults: {faults}; "
            f"resumes: {max(0, outcome.clients - 1)}; {outcome.seconds:.1f} s; {verdict}"
        )
        for problem in outcome.problems:
            report(f"      {problem}")
        if outcome.problems:
            report(f"      to repeat it: python -m benchmarks.faults --seed {seed} --only {number}")
    return outcomes


def summary(outcomes: Sequence[Outcome], clusters: int, seconds: float) -> dict[str, Any]:
    injected = sum((outcome.injected for outcome in outcomes), Counter())
    return {
        "runs": len(outcomes),
        "runs that failed": sum(bool(outcome.problems) for outcome in outcomes),
        "faults injected": sum(injected.values()),
        **{f"- {what}": count for what, count in sorted(injected.items())},
        "client restarts": sum(max(0, outcome.clients - 1) for outcome in outcomes),
        "clusters": clusters,
        "units": sum(outcome.units for outcome in outcomes),
        "units written": sum(outcome.units_written for outcome in outcomes),
        "units written twice or more": sum(outcome.units_twice for outcome in outcomes),
        "units lost": sum(outcome.units_lost for outcome in outcomes),
        "objects that differ": sum(outcome.objects_differ for outcome in outcomes),
        "hung": sum(outcome.hung for outcome in outcomes),
        "seconds": round(seconds, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(description=faults.__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="play this schedule alone")
    parser.add_argument("--folder", type=Path, help="where temporary files are made, and removed again")
    options = parser.parse_args(arguments)
    numbers = range(options.runs) if options.only is None else [options.only]
    start = monotonic()
    # So that nothing is left where this is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with open_stage(options.folder) as stage:
        outcomes = play_all(stage, options.seed, numbers, lambda line: print(line, flush=True))
        totals = summary(outcomes, stage.cluster.started, monotonic() - start)
    print(f"\nseed {options.seed}")
    print(table(["what", "count"], [[what, str(count)] for what, count in totals.items()]))
    if options.only is None:
        print(save("faults", {"seed": options.seed, **totals}))
    return 1 if totals["runs that failed"] else 0
