"""A run that has lost its lock changes nothing of what its successor has written, whenever and however that happens.

    python -m benchmarks.lost_locks [--runs 40] [--seed 1] [--folder DIR]

In each run a first process writes an output, slowly, by threads of its own or by two worker processes. At a random
moment between its start and its end its lock is lost: removed by hand, taken by a process of another machine, or the
process shows no more that it lives, since its file system hangs or it was stopped. Where processes are stopped, they
mostly are in the middle of a put: when an object is about to be made, or to get its name. A second process takes over
and completes the output, or overwrites it with something else, while the first one goes on, or before that one wakes
up. In the end the output is that of an undisturbed run of the second process, no object of it has changed since that
process ended, the first process has ended with OutputInUseError or was done before, and nothing is left over.
"""

import os
import signal
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, partialmethod
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster

import tilewright as tw

# Before the first process is forked: each has them then.
import tilewright.prediction
import tilewright.verification
from benchmarks.crash_scenarios import IMAGE, NEW, OLD, REQUEST, prove
from benchmarks.forked import Background, play, wait_until
from benchmarks.measure import save, table
from benchmarks.trees import Tree, differing, identities, tree
from tilewright.locks import holder, lock
from tilewright.locks.holder import Holder

HOW = (
    "removed",
    "taken by another machine",
    "no heartbeats",
    "stopped, then removed",
    "stopped elsewhere",
    "workers stopped, then removed",
)
SILENT = ("no heartbeats", "stopped elsewhere")
"""Ways to lose a lock that leave its file as it is."""
HOLDS = ("", "open", "os.rename")
"""In the middle of what a process is stopped: of anything, of making an object, of giving it its name."""
SHARE, SILENT_SHARE = 0.8, 0.4
"""Of the time of the first run, the last moment: later it may be done before anything happens, or is found dead."""
HOLD_SECONDS = 0.25
"""How long each put of a process that is to be stopped takes at least, so that it can be stopped there."""


@dataclass(frozen=True)
class Case:
    """How a lock is lost, and what the successor does.

    Parameters
    ----------
    how : str
        How the lock is lost.
    if_exists : {"resume", "overwrite"}
        What the successor does.
    after_share : float
        The share of the time of an undisturbed first run that has passed then.
    wakes_late : bool
        Whether the first run goes on only when the successor has ended.
    put_seconds : float
        How long a file of the first run waits, when it is whole, for its name.
    hold : str
        In the middle of which operation processes are stopped.
    """

    how: str
    if_exists: str
    after_share: float
    wakes_late: bool
    put_seconds: float
    hold: str

    @property
    def is_stopped(self) -> bool:
        """Whether processes are stopped."""
        return "stopped" in self.how

    @property
    def has_workers(self) -> bool:
        """Whether the first run has worker processes, which are stopped."""
        return self.how.startswith("workers")


def draw(seed: int, number: int) -> Case:
    """Return a case that depends on the seed and its number alone."""
    random = Random(f"{seed} {number}")
    how = HOW[number % len(HOW)]
    return Case(
        how,
        random.choice(["resume", "overwrite"]),
        random.uniform(0, SILENT_SHARE if how in SILENT else SHARE),
        random.random() < 0.5,
        # Where a lock must first be found dead, the first run would have ended.
        random.choice([0.1, 0.2] if how in SILENT else [0.0, 0.0, 0.02, 0.1]),
        random.choice(HOLDS) if "stopped" in how else "",
    )


class Slow:
    """The model of the old output, which takes its time."""

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        """Return twice the tiles."""
        sleep(0.02)
        return 2 * tiles


# --- Processes.


class SlowPuts:
    """Let each put of this process take its time, and show by a file that it is in the middle of one.

    Parameters
    ----------
    folder : Path
        Where these files go, one for each process.
    event : str
        In the middle of which operation it is held.
    seconds : float
        How long.
    """

    def __init__(self, folder: Path, event: str, seconds: float) -> None:
        self._file = folder / str(os.getpid())
        self._event = event
        self._seconds = seconds

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take in what Python is about to do."""
        if event == self._event and isinstance(arguments[0], str) and self._is_of_object(arguments[0]):
            self._file.touch()
            sleep(self._seconds)
            self._file.unlink(missing_ok=True)

    def _is_of_object(self, path: str) -> bool:
        return "/0/c/" in path and path.endswith(".partial")


def slow_puts(folder: str, event: str, seconds: float) -> None:
    """Let each put of this process take its time from now on."""
    sys.addaudithook(SlowPuts(Path(folder), event, seconds))


def change_times(**seconds: float) -> None:
    """Let all locks of this process have these times from now on."""
    lock.WriterLock.__init__ = partialmethod(lock.WriterLock.__init__, times=lock.Times(**seconds))


def first(folder: Path, case: Case) -> None:
    """Write the old output, slowly."""
    if case.how in SILENT:
        # A process of another machine, as far as a lock can tell.
        holder.this_machine = lambda: "another machine"
    change_times(beat=1000.0 if case.how == "no heartbeats" else 0.1)
    seconds = HOLD_SECONDS if case.hold else case.put_seconds
    slow = partial(slow_puts, str(puts_of(folder)), case.hold or "os.rename", seconds)
    request = {**REQUEST, **OLD, "if_exists": "resume"}
    if not case.has_workers:
        slow()
        tw.predict_to_zarr(Slow(), IMAGE, folder / "out.zarr", **request)
        return
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        client.run(slow)
        tw.predict_to_zarr(Slow(), IMAGE, folder / "out.zarr", client=client, **request)


def puts_of(folder: Path) -> Path:
    """Return where processes of a run show that they are in the middle of a put."""
    return folder.with_name(f"{folder.name}-puts")


def second(folder: Path, case: Case) -> None:
    """Take over."""
    change_times(dead=0.4, look=0.02)
    model, options = (Slow(), OLD) if case.if_exists == "resume" else (np.negative, NEW)
    tw.predict_to_zarr(model, IMAGE, folder / "out.zarr", if_exists=case.if_exists, **REQUEST, **options)


# --- One run.


def lock_of(folder: Path) -> Path | None:
    """Return the lock of a run that is writing below a folder, wherever it lies."""
    return next((path for path in folder.rglob("lock") if path.is_file()), None)


def content_of(path: Path | None) -> bytes:
    """Return what a lock holds; nothing where it is not there."""
    try:
        return b"" if path is None else path.read_bytes()
    except FileNotFoundError:
        return b""


def lose(case: Case, folder: Path, process: Background) -> bool:
    """Let the lock be lost, and tell whether it still was held."""
    if case.is_stopped:
        if case.hold:
            wait_until(lambda: any(puts_of(folder).iterdir()), process, seconds=5.0)
        process.signal(signal.SIGSTOP, workers=case.has_workers)
    if case.how in SILENT:
        return not process.has_ended
    path = lock_of(folder)
    if path is None:
        return False
    if case.how == "taken by another machine":
        aside = puts_of(folder).with_suffix(".lock")
        aside.write_bytes(replace(Holder.me(50), machine="another machine").to_bytes())
        aside.replace(path)
    else:
        path.unlink(missing_ok=True)
    # Else it may have been about to end.
    wait_until(lambda: case.is_stopped, process, seconds=0.1)
    return not process.has_ended


def play_case(case: Case, folder: Path, whole: Tree, seconds: float) -> tuple[str, str]:
    """Play one run, and return how the first process ended, and what is wrong.

    Parameters
    ----------
    case : Case
        The case.
    folder : Path
        Where the output goes.
    whole : dict
        All that an undisturbed run of the second process leaves.
    seconds : float
        How long an undisturbed first run holds its lock.
    """
    folder.mkdir(parents=True)
    puts_of(folder).mkdir()
    begun = Background.begin(lambda: first(folder, case))
    wait_until(lambda: lock_of(folder) is not None, begun)
    wait_until(lambda: False, begun, seconds * case.after_share)
    held = content_of(lock_of(folder))
    was_held = lose(case, folder, begun)
    other = Background.begin(lambda: second(folder, case))
    if case.is_stopped and not case.wakes_late:
        # Else it would show that it lives before the second one has looked.
        wait_until(lambda: content_of(lock_of(folder)) not in (b"", held), other)
        begun.signal(signal.SIGCONT, workers=case.has_workers)
    ended = other.end()
    before = identities(folder / "out.zarr")
    if case.is_stopped and case.wakes_late:
        begun.signal(signal.SIGCONT, workers=case.has_workers)
    end_of_first = begun.end()
    faults = []
    if ended.error:
        faults.append(f"the second run: {ended.fault}")
    if end_of_first.error not in ("", "OutputInUseError"):
        faults.append(f"the first run: {end_of_first.fault}")
    if was_held and not end_of_first.error and case.how not in SILENT:
        faults.append("the first run has lost its lock, and reports success")
    if changed := sorted(dict(before.items() ^ identities(folder / "out.zarr").items())):
        faults.append(f"changed since the second run has ended: {', '.join(changed[:4])} ({len(changed)})")
    if fault := differing(tree(folder), whole):
        faults.append(fault)
    if fault := play(partial(prove, outputs=[("out.zarr", "")]), folder).fault:
        faults.append(fault)
    return end_of_first.error or "was done", "; ".join(faults)


def undisturbed(case: Case, folder: Path) -> Tree:
    """Return all that the second process leaves where it is alone."""
    folder.mkdir(parents=True)
    if fault := play(partial(second, case=case), folder).fault:
        raise RuntimeError(f"the undisturbed run: {fault}")
    return tree(folder)


def seconds_of(case: Case, folder: Path) -> float:
    """Return how long the first process holds its lock where it is alone."""
    folder.mkdir(parents=True)
    puts_of(folder).mkdir()
    process = Background.begin(lambda: first(folder, case))
    wait_until(lambda: lock_of(folder) is not None, process)
    begun = monotonic()
    wait_until(lambda: lock_of(folder) is None, process)
    seconds = monotonic() - begun
    if fault := process.end().fault:
        raise RuntimeError(f"the undisturbed first run: {fault}")
    return seconds


def play_all(runs: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Play some runs, and return what became of each."""
    wholes: dict[str, Tree] = {}
    seconds: dict[tuple[bool, float, str], float] = {}
    outcomes = []
    for number in range(runs):
        case = draw(seed, number)
        kind = (case.has_workers, case.put_seconds, case.hold)
        if case.if_exists not in wholes:
            wholes[case.if_exists] = undisturbed(case, folder / case.if_exists)
        if kind not in seconds:
            seconds[kind] = seconds_of(case, folder / f"alone-{len(seconds)}")
        end, fault = play_case(case, folder / str(number), wholes[case.if_exists], seconds[kind])
        outcomes.append({**asdict(case), "number": number, "end": end, "fault": fault})
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for, print a table, and return 1 where a run failed."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the files go")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    dask.config.set({"temporary-directory": tempfile.gettempdir()})
    with tempfile.TemporaryDirectory(prefix="tilewright-locks-", dir=options.folder) as folder:
        outcomes = play_all(options.runs, options.seed, Path(folder).resolve())
    for outcome in outcomes:
        if outcome["fault"]:
            print(f"{draw(options.seed, outcome['number'])}, run {outcome['number']}: {outcome['fault']}")
    ends = Counter((outcome["how"], outcome["end"]) for outcome in outcomes)
    failed = Counter(outcome["how"] for outcome in outcomes if outcome["fault"])
    rows = [[how, end, str(count), str(failed[how])] for (how, end), count in sorted(ends.items())]
    print(table(["the lock is", "the first run ends with", "runs", "failed, of this kind"], rows))
    print(save("lost_locks", {"seed": options.seed, "runs": outcomes}))
    return int(any(outcome["fault"] for outcome in outcomes))


if __name__ == "__main__":
    # Under its name, so that what travels to worker processes is found there.
    from benchmarks import lost_locks  # noqa: PLW0406

    sys.exit(lost_locks.main())
