"""What is left when a process dies at any of its file operations: each point goes on to the same bytes.

    python -m benchmarks.crash_points [--scenario NAME] [--every N] [--first K] [--jobs N] [--folder DIR]

A scenario (`crash_scenarios`) is a call that writes: a run that begins, resumes, overwrites or repairs, with its ledger
beside the output or elsewhere; a function that writes one image; a trainer with three images. It is played once
undisturbed, to list the operations that change the file system. Then it is played for each of these in a process that
is killed just before that operation, and for each file that is made also just after that, when the file is empty. Then
what a user would call next is called, and all that lies in the folder is compared with the undisturbed end: every file
of the outputs, nothing left over, also no empty folder, nothing of others touched. Where an output is replaced, the old
one must be whole, in its place or aside, until an object of the new one is stored. Where a resume is refused, the old
output must be whole in its place, proven complete, and as it was before the refusal.
"""

import multiprocessing
import re
import shutil
import signal
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

import dask

# Before the first process is forked: each has them then.
import tilewright.prediction
import tilewright.strategies
import tilewright.verification  # noqa: F401
from benchmarks.crash_scenarios import BYSTANDERS, KINDS, SCENARIOS, Scenario, prove
from benchmarks.forked import Ended, Point, play
from benchmarks.measure import save, table
from benchmarks.trees import Tree, differing, identities, sessions_of_ledgers, tree, without_ledgers

LEAST_POINTS, FEW_POINTS = 3, 15
"""Points of a scenario that are played at least, however few are asked for; and so few that all of them are."""
SHOWN = 5


@dataclass
class Outcome:
    """What became of the points of one scenario."""

    name: str
    points: int = 0
    played: int = 0
    went_on: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


class Stage:
    """The folders of one scenario.

    Parameters
    ----------
    name : str
        Its name.
    scenario : Scenario
        The scenario.
    root : Path
        Where its folders go.
    """

    def __init__(self, name: str, scenario: Scenario, root: Path) -> None:
        self.scenario = scenario
        self.outcome = Outcome(name)
        self._ready, self._here = root / "ready", root / "here"
        self._here.mkdir(parents=True)
        for bystander, content in BYSTANDERS.items():
            path = self._here / bystander
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (self._here / "link").symlink_to("out.zarr.old")
        # Where it will lie: that is in the ledger.
        others = tree(self._here)
        alone = self._play_alone()
        self._must_end(play(scenario.before, self._here), "what lies there before")
        self._here.rename(self._ready)
        self._old = tree(self._ready)
        self._renew()
        undisturbed = play(scenario.call, self._here)
        self._must_end(undisturbed, "the undisturbed call")
        self._operations = undisturbed.operations
        self._whole = tree(self._here)
        self._must_end(self._play_proof(), "the proof of the undisturbed output")
        if fault := differing({name: self._whole.get(name, b"gone") for name in others}, others):
            self.outcome.failures.append(f"the undisturbed call: files of others: {fault}")
        if alone and (fault := differing(self._whole, alone)):
            self.outcome.failures.append(f"the undisturbed call, beside what it leaves where nothing was: {fault}")
            self._whole = alone

    @property
    def points(self) -> list[Point]:
        """Return all points: before each operation, and after each that makes a file."""
        made = {number for number, operation in enumerate(self._operations, 1) if operation.startswith("open making")}
        numbers = range(1, len(self._operations) + 1)
        return [Point(at, is_made) for at in numbers for is_made in ((False, True) if at in made else (False,))]

    def play_point(self, point: Point, way: int) -> None:
        """Kill the call at one point, go on in one way, and compare."""
        self._renew()
        self._identities = identities(self._here)
        outcome, ways = self.outcome, self.scenario.ways
        outcome.played += 1
        ended = play(self.scenario.call, self._here, point)
        if ended.status != -signal.SIGKILL and ended.fault:
            # Without a fault, threads came in another order: this time there were fewer operations.
            self._fail(point, way, f"the call itself: {ended.fault}")
            return
        fault = self._fault_of_old()
        if not fault:
            before = without_ledgers(tree(self._here))
            ended = play(ways[way], self._here)
            if ended.error == "ResumeError" and way < len(ways) - 1:
                outcome.refused += 1
                fault = self._fault_of_refusal(before, ended)
                ended = Ended(0) if fault else play(ways[-1], self._here)
            fault = fault or ended.fault or differing(tree(self._here), self._whole) or self._play_proof().fault
        if fault:
            self._fail(point, way, fault)
        else:
            outcome.went_on += 1

    def _fail(self, point: Point, way: int, fault: str) -> None:
        operation = self._operations[point.at - 1]
        self.outcome.failures.append(f"{point}, about {operation}, way {way + 1}: {fault}")

    # What must be true.

    def _fault_of_old(self) -> str:
        """Return which old output is neither whole nor has an object of the new one in its place."""
        found = tree(self._here)
        new = identities(self._here)
        for output in self.scenario.replaced:
            is_stored = any(
                found.get(name) == content and new.get(name) != self._identities.get(name)
                for name, content in self._whole.items()
                if name == output or re.match(rf"{re.escape(output)}/\d+/c/", name)
            )
            if not is_stored and not _is_somewhere(_part(self._old, output), found):
                return f"the old output {output} is not whole, and no unit of the new one is stored"
        return ""

    def _fault_of_refusal(self, before: Tree, ended: Ended) -> str:
        """Return what is wrong where a resume was refused: it changes nothing, of no output."""
        now = tree(self._here)
        if fault := differing(without_ledgers(now), before):
            return f"it was refused, and has changed what was there: {fault}"
        if fault := self._fault_of_old():
            return f"it was refused, and then {fault}"
        # Of an output whose replacement has begun the ledger says what it will be.
        replaced = sessions_of_ledgers(self._here) - sessions_of_ledgers(self._ready)
        proven = [
            (output, ledger)
            for output, ledger in self.scenario.outputs
            if output in self.scenario.replaced
            and not differing(_part(now, output), _part(self._old, output))
            and not any(name.startswith(f"{ledger}/" if ledger else f"{output}/") for name in replaced)
        ]
        proof = play(partial(prove, outputs=proven), self._here)
        return f"it was refused, and the old output is not proven: {proof.fault}" if proof.fault else ""

    def _play_proof(self) -> Ended:
        return play(partial(prove, outputs=self.scenario.outputs), self._here) if self.scenario.outputs else Ended(0)

    # How it is played.

    def _play_alone(self) -> Tree:
        """Return what the call leaves where nothing was there before, but for the files of others."""
        if self.scenario.alone is None:
            return {}
        here = self._here
        shutil.copytree(here, self._ready, symlinks=True)
        self._must_end(play(self.scenario.alone, here), "the call where nothing was")
        found = tree(here)
        shutil.rmtree(here)
        self._ready.rename(here)
        return found

    def _renew(self) -> None:
        shutil.rmtree(self._here, ignore_errors=True)
        shutil.copytree(self._ready, self._here, symlinks=True)

    def _must_end(self, ended: Ended, what: str) -> None:
        if ended.fault:
            raise RuntimeError(f"{self.outcome.name}, {what}: {ended.fault}")


def _part(found: Tree, output: str) -> Tree:
    """Return the files of one output, by their names in it."""
    return {
        name[len(output) :]: content
        for name, content in found.items()
        if (name == output or name.startswith(f"{output}/")) and not name.endswith("/")
    }


def _is_somewhere(old: Tree, found: Tree) -> bool:
    """Tell whether each file of an output is there, under its name in it, in one place or in several."""
    return all(any(found[name] == content for name in found if name.endswith(key)) for key, content in old.items())


# --- All of it.


def chosen(stage: Stage, every: int, first: int) -> Iterator[tuple[Point, int]]:
    """Yield points of a scenario, and ways: all ways of each point where all are played, else one in turn."""
    points, ways = stage.points, range(len(stage.scenario.ways))
    step = 1 if len(points) <= FEW_POINTS else min(every, max(1, len(points) // LEAST_POINTS))
    for number, point in enumerate(points[(first - 1) % step :: step]):
        for way in ways if every == 1 else [number % len(ways)]:
            yield point, way


def play_scenario(name: str, root: Path, every: int = 1, first: int = 1) -> Outcome:
    """Play some points of a scenario."""
    begun = monotonic()
    try:
        stage = Stage(name, SCENARIOS[name], root)
    except RuntimeError as error:
        return Outcome(name, failures=[str(error)])
    outcome = stage.outcome
    outcome.points = len(stage.points)
    for point, way in chosen(stage, every, first):
        stage.play_point(point, way)
    shutil.rmtree(root)
    outcome.seconds = round(monotonic() - begun, 1)
    return outcome


def _play_numbered(numbered: tuple[int, str], root: Path, every: int, first: int) -> Outcome:
    number, name = numbered
    return play_scenario(name, root / str(number), every, first)


def play_scenarios(
    names: Sequence[str], root: Path, every: int = 1, first: int = 1, jobs: int = 1
) -> Iterator[Outcome]:
    """Play scenarios, several at once where that is asked for, each in processes without any thread."""
    play_one = partial(_play_numbered, root=root, every=every, first=first)
    if jobs == 1:
        yield from map(play_one, enumerate(names))
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(play_one, enumerate(names))


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for, print a table, and return 1 where a point failed."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="all where not given")
    parser.add_argument("--kind", choices=KINDS, help="what writes, where no scenario is given; all where not given")
    parser.add_argument("--every", type=int, default=1, help="play each n-th point")
    parser.add_argument("--first", type=int, default=1, help="the first point")
    parser.add_argument("--jobs", type=int, default=1, help="scenarios that are played at once")
    parser.add_argument("--folder", type=Path, help="where the files go")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    dask.config.set({"temporary-directory": tempfile.gettempdir()})
    names = options.scenario or list(KINDS.get(options.kind, SCENARIOS))
    begun = monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="tilewright-crashes-", dir=options.folder) as folder:
        root = Path(folder).resolve()
        for outcome in play_scenarios(names, root, options.every, options.first, options.jobs):
            outcomes.append(outcome)
            print(f"{outcome.name}: {outcome.played} played, {len(outcome.failures)} failed", flush=True)
            for failure in outcome.failures[:SHOWN]:
                print(f"    {failure}", flush=True)
    rows = [
        [o.name, *map(str, (o.points, o.played, o.went_on, o.refused, len(o.failures), o.seconds))] for o in outcomes
    ]
    print(table(["scenario", "points", "played", "went on", "of these first refused", "failed", "seconds"], rows))
    print(save("crash_points", {"seconds": monotonic() - begun, "outcomes": [vars(outcome) for outcome in outcomes]}))
    return int(any(outcome.failures for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
