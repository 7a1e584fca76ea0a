"""A run that has lost its lock changes nothing of what its successor has written, whenever and however that happens.

    python -m benchmarks.lost_locks [--runs 40] [--seed 1] [--folder DIR]

In each run a first process writes an output, slowly. At a random moment its lock is lost: removed by hand, taken by a
process of another machine, or the process shows no more that it lives, since its file system hangs or it was stopped.
A second process takes over and completes the output, or overwrites it with something else, while the first one goes on,
or before that one wakes up. In the end the output is that of an undisturbed run of the second process, no object of it
has changed since that process ended, the first process has ended with OutputInUseError or was done, and nothing is left
over.
"""

import json
import os
import signal
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any

import dask
import numpy as np
import psutil
from distributed import Client, LocalCluster

import tilewright as tw
import tilewright.prediction
import tilewright.verification
from benchmarks.crash_points import IMAGE, NEW, OLD, REQUEST, Ended, differing, play, tree
from benchmarks.measure import save, table
from tilewright.storage import holder, lock
from tilewright.storage.holder import Holder

HOW = (
    "removed",
    "taken by another machine",
    "no heartbeats",
    "stopped, then removed",
    "stopped elsewhere",
    "workers stopped, then removed",
)
SECONDS = 60.0
OBJECTS = 8
"""Objects of the first run, at most, before its lock is lost."""


@dataclass(frozen=True)
class Case:
    """How a lock is lost, and what the successor does.

    Parameters
    ----------
    how : str
        How the lock is lost.
    if_exists : {"resume", "overwrite"}
        What the successor does.
    after_objects : int
        How many objects the first run has stored then.
    wakes_late : bool
        Whether the first run goes on only when the successor has ended.
    put_seconds : float
        How long a file of the first run waits, when it is whole, for its name.
    """

    how: str
    if_exists: str
    after_objects: int
    wakes_late: bool
    put_seconds: float


def draw(seed: int, number: int) -> Case:
    """Return a case that depends on the seed and its number alone."""
    random = Random(f"{seed} {number}")
    return Case(
        HOW[number % len(HOW)],
        random.choice(["resume", "overwrite"]),
        random.randrange(1, OBJECTS),
        random.random() < 0.5,
        random.choice([0.0, 0.0, 0.02, 0.1]),
    )


class Slow:
    """The model of the old output, which takes its time."""

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        """Return twice the tiles."""
        sleep(0.02)
        return 2 * tiles


def successor(case: Case) -> tuple[Any, dict[str, Any]]:
    """Return the model and the options of the second run."""
    return (Slow(), OLD) if case.if_exists == "resume" else (np.negative, NEW)


# --- Processes.


def first(folder: Path, case: Case) -> None:
    """Write the old output, slowly."""
    lock.BEAT_SECONDS = 0.1
    if case.how in ("no heartbeats", "stopped elsewhere"):
        # A process of another machine, as far as a lock can tell.
        holder.this_machine = lambda: "another machine"
    if case.how == "no heartbeats":
        lock.BEAT_SECONDS = 1000.0
    give_name = os.replace

    def late(source: Any, target: Any) -> None:
        sleep(case.put_seconds)
        give_name(source, target)

    os.replace = late  # type: ignore[assignment]
    request = {**REQUEST, **OLD, "if_exists": "resume"}
    if not case.how.startswith("workers"):
        tw.predict_to_zarr(Slow(), IMAGE, folder / "out.zarr", **request)
        return
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        tw.predict_to_zarr(Slow(), IMAGE, folder / "out.zarr", client=client, **request)


def second(folder: Path, case: Case) -> None:
    """Take over."""
    lock.DEAD_SECONDS = 0.4
    lock._LOOK_SECONDS = 0.02
    model, options = successor(case)
    tw.predict_to_zarr(model, IMAGE, folder / "out.zarr", if_exists=case.if_exists, **REQUEST, **options)


@dataclass
class Background:
    """A call in a process of its own that goes on meanwhile."""

    process: int
    told: int

    @classmethod
    def begin(cls, call: Callable[[], None]) -> "Background":
        """Begin it."""
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reader)
            os.setsid()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)
            told = {}
            try:
                call()
            except BaseException as error:
                told = {"error": type(error).__name__, "message": str(error)[:300]}
            os.write(writer, json.dumps(told).encode())
            os._exit(0)
        os.close(writer)
        return cls(process, reader)

    def signal(self, number: int, *, workers: bool) -> None:
        """Send a signal to the process, or to the workers that it has started."""
        processes = [psutil.Process(self.process)]
        if workers:
            processes = [child for child in processes[0].children(recursive=True) if child.num_threads() > 3]
        for process in processes:
            process.send_signal(number)

    def end(self) -> Ended:
        """Wait until it ends, and return how."""
        until = monotonic() + SECONDS
        while os.waitpid(self.process, os.WNOHANG) == (0, 0):
            if monotonic() > until:
                os.killpg(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                return Ended(-signal.SIGKILL, "Hung", "the first process does not end")
            sleep(0.01)
        with os.fdopen(self.told, "rb") as opened:
            said = opened.read()
        return Ended(0, **json.loads(said)) if said else Ended(1, "Died", "the first process has died")


# --- One run.


def lose(case: Case, folder: Path, process: Background) -> None:
    """Let the lock be lost."""
    path = folder / "out.zarr.ledger" / "lock"
    if "stopped" in case.how:
        process.signal(signal.SIGSTOP, workers=case.how.startswith("workers"))
    if case.how == "taken by another machine":
        aside = folder / "lock"
        aside.write_bytes(replace(Holder.me(50), machine="another machine").to_bytes())
        aside.replace(path)
    elif case.how not in ("no heartbeats", "stopped elsewhere"):
        path.unlink(missing_ok=True)


def stored(folder: Path) -> dict[str, tuple[int, int]]:
    """Return for each file of the output what changes when it is written again."""
    files = [path for path in (folder / "out.zarr").rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def play_case(case: Case, folder: Path, whole: dict[str, bytes]) -> tuple[str, str]:
    """Play one run, and return how the first process ended, and what is wrong."""
    folder.mkdir(parents=True)
    begun = Background.begin(lambda: first(folder, case))
    until = monotonic() + SECONDS
    objects = folder / "out.zarr" / "0" / "c"
    while sum(path.name.isdigit() for path in objects.glob("*/*")) < case.after_objects and monotonic() < until:
        sleep(0.002)
    lose(case, folder, begun)
    is_stopped = "stopped" in case.how
    other = Background.begin(lambda: second(folder, case))
    if is_stopped and not case.wakes_late:
        sleep(0.6)
        begun.signal(signal.SIGCONT, workers=case.how.startswith("workers"))
    ended = other.end()
    before = stored(folder)
    if is_stopped and case.wakes_late:
        begun.signal(signal.SIGCONT, workers=case.how.startswith("workers"))
    end_of_first = begun.end()
    faults = []
    if ended.error:
        faults.append(f"the second run: {ended.error}: {ended.message}")
    if end_of_first.error not in ("", "OutputInUseError"):
        faults.append(f"the first run: {end_of_first.error}: {end_of_first.message}")
    if stored(folder) != before:
        faults.append("objects have changed since the second run has ended")
    if fault := differing(tree(folder), whole):
        faults.append(fault)
    proof = play(prove, folder)
    if proof.error:
        faults.append(f"{proof.error}: {proof.message}")
    return end_of_first.error or "was done", "; ".join(faults)


def prove(folder: Path) -> None:
    """Raise where the output is not proven complete."""
    verification = tw.verify(folder / "out.zarr", progress=False)
    if not verification.is_complete:
        raise RuntimeError(str(verification))


def play_all(runs: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Play some runs, and return what became of each."""
    undisturbed: dict[str, dict[str, bytes]] = {}
    outcomes = []
    for number in range(runs):
        case = draw(seed, number)
        if case.if_exists not in undisturbed:
            place = folder / case.if_exists
            place.mkdir(parents=True)
            ended = play(lambda folder, case=case: second(folder, case), place)
            if ended.error:
                raise RuntimeError(f"the undisturbed run: {ended.error}: {ended.message}")
            undisturbed[case.if_exists] = tree(place)
        end, fault = play_case(case, folder / str(number), undisturbed[case.if_exists])
        outcomes.append({**asdict(case), "number": number, "end": end, "fault": fault})
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for, print a table, and return 1 where a run failed."""
    parser = ArgumentParser(description=__doc__)
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
            print(f"{outcome['number']}: {outcome['how']}, {outcome['if_exists']}: {outcome['fault']}")
    ends = Counter((outcome["how"], outcome["end"]) for outcome in outcomes)
    failed = Counter(outcome["how"] for outcome in outcomes if outcome["fault"])
    rows = [[how, end, str(count), str(failed[how])] for (how, end), count in sorted(ends.items())]
    print(table(["the lock is", "the first run ends with", "runs", "failed, of this kind"], rows))
    save("lost_locks", outcomes)
    return int(any(outcome["fault"] for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
