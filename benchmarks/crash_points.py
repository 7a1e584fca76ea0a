"""What is left when a process dies just before any of its file operations: each point goes on to the same bytes.

    python -m benchmarks.crash_points [--scenario NAME] [--every N] [--first K] [--folder DIR]

A scenario is a call that writes: a run that begins, resumes, overwrites or repairs, with its ledger beside the output
or elsewhere; a function that writes one image; a trainer with three images. It is played once undisturbed, to count the
operations that change the file system, and once for each of these, in a process that is killed just before that one.
Then what a user would call next is called, and all that lies in the folder is compared with the undisturbed end: every
file of the outputs, nothing left over, nothing of others touched. Where something is overwritten, the old output must
be whole, in its place or aside, until a unit of the new one is stored.

The process that imports the libraries never uses them, so that it can be forked for each point.
"""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import dask
import dask.array
import numpy as np
import tifffile

import tilewright as tw
import tilewright.prediction
import tilewright.strategies
import tilewright.verification
from benchmarks.measure import save, table

IMAGE = np.arange(60 * 70, dtype="float32").reshape(60, 70)
REQUEST: dict[str, Any] = {
    "axes": "YX",
    "tile_size": (32, 32),
    "overlap": (8, 8),
    "progress": False,
    "compressors": None,
}
OLD: dict[str, Any] = {"chunks": (16, 16), "layout": "aligned", "memory_nbytes": 8192}
NEW: dict[str, Any] = {"chunks": (24, 24), "layout": "aligned", "memory_nbytes": 8192}
SECONDS = 60
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
BYSTANDERS = {
    "notes.txt": "mine",
    "out.zarr.old/notes.txt": "mine",
    "out.zarr.txt": "mine",
    "theirs.zarr/zarr.json": '{"zarr_format": 3, "node_type": "group"}',
    "ledger.txt": "mine",
}
_SESSION = re.compile(r"\d{6}\.ledger")


def double(tiles: np.ndarray) -> np.ndarray:
    """The model of the old output."""
    return 2 * tiles


def negative(tiles: np.ndarray) -> np.ndarray:
    """The model of the new one."""
    return -tiles


# --- What is called.


def predict(folder: Path, ledger: str, if_exists: str, *, is_new: bool = False) -> None:
    """Predict the image, as the old output or as the new one."""
    place = {"ledger": folder / ledger} if ledger else {}
    model, options = (negative, NEW) if is_new else (double, OLD)
    tw.predict_to_zarr(model, IMAGE, folder / "out.zarr", if_exists=if_exists, **REQUEST, **options, **place)


def repair(folder: Path, ledger: str) -> None:
    """Repair the old output."""
    place = {"ledger": folder / ledger} if ledger else {}
    tw.repair(folder / "out.zarr", double, IMAGE, progress=False, **place)


def damage(folder: Path) -> None:
    """Spoil two objects of the old output, and remove one."""
    for number, path in enumerate(sorted((folder / "out.zarr" / "0" / "c").rglob("*"))):
        if path.is_file() and number % 4 == 1:
            path.write_bytes(b"spoilt")
        elif path.is_file() and number % 4 == 3:
            path.unlink()


def half_written(folder: Path, ledger: str) -> None:
    """Leave the old output as a run that was killed in the middle does."""
    predict(folder, ledger, "fail")
    session = next((folder / (ledger or "out.zarr.ledger")).glob("*.ledger"))
    raw = session.read_bytes()
    # The header stands there twice; a record has 36 bytes.
    os.truncate(session, 2 * (raw.index(b"\n") + 1) + 36 * 2)
    damage(folder)


def train(folder: Path, if_exists: str, *, is_new: bool = False, strategy: str = "zarr") -> None:
    """Let a stand-in for a trainer predict three images."""
    dataset = tw.IterableTiledPredDataset(
        [folder / f"{name}.tif" for name in "abc"], axes="YX", tile_size=(32, 32), overlaps=(8, 8)
    )
    chunks, model = (NEW["chunks"], negative) if is_new else (OLD["chunks"], double)
    writer: Any = tw.CacheTiles(tw.write_tiff, ".tiff")
    if strategy == "zarr":
        writer = tw.WriteTilesZarr(if_exists=if_exists, chunks=chunks, compressors=None, max_inflight_nbytes=8192)
    loader = SimpleNamespace(dataset=dataset, batch_size=1)
    trainer = SimpleNamespace(predict_dataloaders=loader, world_size=1, lightning_module=None)
    writer.prepare(trainer, folder / "predictions")
    for number, (tile, information) in enumerate(dataset):
        prediction = model(np.asarray(tile))[np.newaxis]
        writer.write_batch(trainer, None, prediction, None, ([], [information]), number, 0, folder / "predictions")
    writer.finalize()


def write_images(folder: Path) -> None:
    """Write the sources of the stand-in for a trainer."""
    for name in "abc":
        tifffile.imwrite(folder / f"{name}.tif", IMAGE + ord(name))


def lazily(image: np.ndarray) -> Any:
    """Return the image as a dask array."""
    return dask.array.from_array(image, chunks=(30, 40))


# --- Scenarios.

Call = Callable[[Path], None]


@dataclass(frozen=True)
class Scenario:
    """A call that is killed, what lies there before, and what is called afterwards: each of several ways.

    Parameters
    ----------
    call : callable
        What is killed; takes the folder.
    before : callable
        Makes what lies there before.
    ways : sequence of callable
        What may be called after it; the last one must succeed wherever another one was refused.
    outputs : sequence of (str, str)
        The outputs that must be proven complete, and their ledgers, relative to the folder.
    replaces : bool
        Whether an output that is whole is replaced.
    several : bool
        Whether there are several outputs, of which some may be replaced when the process dies, and some not.
    """

    call: Call
    before: Call = lambda folder: None
    ways: Sequence[Call] = ()
    outputs: Sequence[tuple[str, str]] = ()
    replaces: bool = False
    several: bool = False


def _of_predictions() -> dict[str, Scenario]:
    scenarios = {}
    for ledger in ("", "elsewhere"):
        name = ", ledger elsewhere" if ledger else ""
        proven = [("out.zarr", ledger)]

        def old(folder: Path, ledger: str = ledger) -> None:
            predict(folder, ledger, "fail")

        def old_resumed(folder: Path, ledger: str = ledger) -> None:
            predict(folder, ledger, "resume")

        def new(folder: Path, ledger: str = ledger) -> None:
            predict(folder, ledger, "overwrite", is_new=True)

        def new_resumed(folder: Path, ledger: str = ledger) -> None:
            predict(folder, ledger, "resume", is_new=True)

        def again(folder: Path, ledger: str = ledger) -> None:
            predict(folder, ledger, "overwrite")

        def repaired(folder: Path, ledger: str = ledger) -> None:
            repair(folder, ledger)

        def spoilt(folder: Path, old: Call = old) -> None:
            old(folder)
            damage(folder)

        def half(folder: Path, ledger: str = ledger) -> None:
            half_written(folder, ledger)

        scenarios |= {
            f"start{name}": Scenario(old, ways=[old_resumed], outputs=proven),
            f"resume{name}": Scenario(old_resumed, half, [old_resumed], proven),
            f"overwrite{name}": Scenario(new, old, [new_resumed, new], proven, replaces=True),
            f"overwrite a half{name}": Scenario(new, half, [new_resumed, new], proven),
            f"overwrite by the same{name}": Scenario(again, old, [old_resumed, again], proven),
            f"repair{name}": Scenario(repaired, spoilt, [repaired], proven),
        }
    return scenarios


def _of_functions() -> dict[str, Scenario]:
    scenarios = {}
    for kind, image in (("", lambda image: image), (" from dask", lazily)):

        def zarr_of(folder: Path, image: Any = image, value: int = 1) -> None:
            tw.write_zarr(folder / "out.zarr", image(IMAGE + value), chunks=(24, 24))

        def tiff_of(folder: Path, image: Any = image, value: int = 1) -> None:
            tw.write_tiff(folder / "out.tiff", image(IMAGE + value), compression="zlib")

        def zarr_before(folder: Path, call: Any = zarr_of) -> None:
            call(folder, value=0)

        def tiff_before(folder: Path, call: Any = tiff_of) -> None:
            call(folder, value=0)

        scenarios |= {
            f"write_zarr{kind}": Scenario(zarr_of, ways=[zarr_of]),
            f"write_zarr{kind} again": Scenario(zarr_of, zarr_before, [zarr_of]),
            f"write_tiff{kind}": Scenario(tiff_of, ways=[tiff_of]),
            f"write_tiff{kind} again": Scenario(tiff_of, tiff_before, [tiff_of]),
        }
    return scenarios


def _of_trainers() -> dict[str, Scenario]:
    proven = [(f"predictions/{name}.zarr", "") for name in "abc"]

    def old(folder: Path) -> None:
        write_images_once(folder)
        train(folder, "fail")

    def write_images_once(folder: Path) -> None:
        if not (folder / "a.tif").exists():
            write_images(folder)

    def old_resumed(folder: Path) -> None:
        train(folder, "resume")

    def new(folder: Path) -> None:
        train(folder, "overwrite", is_new=True)

    def new_resumed(folder: Path) -> None:
        train(folder, "resume", is_new=True)

    def spoilt(folder: Path) -> None:
        old(folder)
        for name in "abc":
            (folder / "predictions" / f"{name}.zarr" / "0" / "c" / "0" / "0").unlink()

    def cached(folder: Path) -> None:
        train(folder, "", strategy="tiff")

    def cached_before(folder: Path) -> None:
        write_images(folder)
        train(folder, "", strategy="tiff", is_new=True)

    return {
        "trainer": Scenario(lambda folder: train(folder, "fail"), write_images, [old_resumed], proven),
        "trainer, resume": Scenario(old_resumed, spoilt, [old_resumed], proven),
        "trainer, overwrite": Scenario(new, old, [new_resumed, new], proven, several=True),
        "trainer to TIFF": Scenario(cached, write_images, [cached]),
        "trainer to TIFF again": Scenario(cached, cached_before, [cached]),
    }


SCENARIOS = _of_predictions() | _of_functions() | _of_trainers()


# --- Processes.


@dataclass
class Killer:
    """Count the operations below a folder that change it, and die just before one of them.

    Parameters
    ----------
    folder : str
        The folder.
    at : int
        Before which operation; 0 for none.
    """

    folder: str
    at: int
    count: int = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an event in."""
        if event == "open":
            path, mode, flags = arguments
            changes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            changes |= isinstance(mode, str) and any(letter in mode for letter in "wax+")
            if not changes:
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.folder):
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Ended:
    """How a process ended: by its signal, or with an error, and how many operations it took."""

    status: int
    error: str = ""
    message: str = ""
    count: int = 0


def play(call: Call, folder: Path, at: int = 0) -> Ended:
    """Make a call in a process of its own, which is killed before one of its operations."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _be_child(call, folder, at, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    return Ended(status=os.waitstatus_to_exitcode(status), **(json.loads(said) if said else {}))


def _be_child(call: Call, folder: Path, at: int, writer: int) -> None:
    signal.alarm(SECONDS)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    killer = Killer(f"{folder}/", at)
    told: dict[str, Any] = {}
    try:
        sys.addaudithook(killer)
        call(folder)
    except BaseException as error:
        told = {"error": type(error).__name__, "message": str(error)[:300]}
    os.write(writer, json.dumps(told | {"count": killer.count}).encode())
    os._exit(0)


# --- What is compared.


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder but those of ledgers, whose number tells how often a run was killed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (_SESSION.fullmatch(path.name) and path.parent.name != "c")
    }


def _without_ledgers(found: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what lies in ledgers: the lock of the killed process, which the next one removes."""
    return {name: content for name, content in found.items() if ".ledger/" not in name and "elsewhere/" not in name}


def differing(found: dict[str, bytes], wanted: dict[str, bytes]) -> str:
    """Return in words how two trees differ; empty where they do not."""
    lost, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    parts = {"lost": lost, "left over": more, "other bytes": other}
    return "; ".join(f"{what}: {', '.join(names[:4])} ({len(names)})" for what, names in parts.items() if names)


@dataclass
class Outcome:
    """What became of the points of one scenario."""

    name: str
    points: int = 0
    went_on: int = 0
    refused: int = 0
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
        self._ready.mkdir(parents=True)
        for bystander, content in BYSTANDERS.items():
            path = self._ready / bystander
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self._must_end(play(self._moved(scenario.before), root), "what lies there before")
        self._old = tree(self._ready)
        self._renew()
        undisturbed = play(scenario.call, self._here)
        self._must_end(undisturbed, "the undisturbed call")
        self.operation_count = undisturbed.count
        self._whole = tree(self._here)

    def _moved(self, before: Call) -> Call:
        """Let the output know the folder in which it will lie: that is in its ledger."""

        def make(root: Path) -> None:
            self._ready.rename(self._here)
            before(self._here)
            self._here.rename(self._ready)

        return make

    def play_point(self, at: int, way: int) -> None:
        """Kill the call before one operation, go on in one way, and compare."""
        self._renew()
        outcome, ways = self.outcome, self.scenario.ways
        outcome.points += 1
        ended = play(self.scenario.call, self._here, at)
        if ended.status != -signal.SIGKILL:
            # Threads do not always come in the same order: this time there were fewer operations.
            self._must_end(ended, f"{at}: the call")
        if fault := self._fault_of_old():
            outcome.failures.append(f"{at}: {fault}")
            return
        before = _without_ledgers(tree(self._here))
        ended = play(ways[way], self._here)
        if ended.error == "ResumeError" and way < len(ways) - 1:
            # What is there is the old output, whole, and left as it is. Of several, some may be new already.
            is_old = not differing(before, _without_ledgers(self._old))
            is_left = not differing(_without_ledgers(tree(self._here)), before)
            if (is_old and is_left) or self.scenario.several:
                outcome.refused += 1
                ended = play(ways[-1], self._here)
        fault = f"{ended.error}: {ended.message}" if ended.error or ended.status else ""
        fault = fault or differing(tree(self._here), self._whole) or self._unproven()
        if fault:
            outcome.failures.append(f"{at}, way {way + 1}: {fault}")
        else:
            outcome.went_on += 1

    def _fault_of_old(self) -> str:
        """Return what is wrong where the old output is neither whole, nor has a unit of the new one been stored."""
        if not self.scenario.replaces:
            return ""
        found = tree(self._here)
        is_stored = any(
            found.get(name) == content
            for name, content in self._whole.items()
            if name.startswith("out.zarr/0/c/") and self._old.get(name) != content
        )
        aside = {re.sub(r"^out\.zarr\.replaced-\d{6}/", "out.zarr/", name): found[name] for name in found}
        is_whole = any(
            all(place.get(name) == content for name, content in self._old.items() if name.startswith("out.zarr/"))
            for place in (found, {name: aside[name] for name in aside if name not in found})
        ) or all(
            content in (found.get(name), *(found[other] for other in found if other.endswith(name[len("out.zarr") :])))
            for name, content in self._old.items()
            if name.startswith("out.zarr/")
        )
        return "" if is_stored or is_whole else "the old output is not whole, and no unit of the new one is stored"

    def _unproven(self) -> str:
        """Return which output is not proven complete."""

        def prove(folder: Path) -> None:
            for output, ledger in self.scenario.outputs:
                place = {"ledger": folder / ledger} if ledger else {}
                verification = tw.verify(folder / output, progress=False, **place)
                if not verification.is_complete:
                    raise RuntimeError(str(verification))

        ended = play(prove, self._here)
        return f"{ended.error}: {ended.message}" if ended.error else ""

    def _renew(self) -> None:
        shutil.rmtree(self._here, ignore_errors=True)
        shutil.copytree(self._ready, self._here)

    def _must_end(self, ended: Ended, what: str) -> None:
        if ended.error or ended.status:
            raise RuntimeError(f"{self.outcome.name}, {what}: status {ended.status}, {ended.error} {ended.message}")


def play_scenario(name: str, root: Path, every: int = 1, first: int = 1) -> Outcome:
    """Play some points of a scenario, each in all ways where there are few, else in turn."""
    stage = Stage(name, SCENARIOS[name], root)
    for number, at in enumerate(range(first, stage.operation_count + 1, every)):
        ways = len(stage.scenario.ways)
        for way in range(ways) if every == 1 else [number % ways]:
            stage.play_point(at, way)
    return stage.outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for, print a table, and return 1 where a point failed."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="all where not given")
    parser.add_argument("--every", type=int, default=1, help="play each n-th point")
    parser.add_argument("--first", type=int, default=1, help="the first point")
    parser.add_argument("--folder", type=Path, help="where the files go")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    dask.config.set({"temporary-directory": tempfile.gettempdir()})
    begun = monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="tilewright-crashes-", dir=options.folder) as folder:
        for number, name in enumerate(options.scenario or SCENARIOS):
            outcome = play_scenario(name, Path(folder).resolve() / str(number), options.every, options.first)
            outcomes.append(outcome)
            print(f"{name}: {outcome.points} points, {len(outcome.failures)} failed", flush=True)
            for failure in outcome.failures[:5]:
                print(f"    {failure}", flush=True)
    rows = [[o.name, str(o.points), str(o.went_on), str(o.refused), str(len(o.failures))] for o in outcomes]
    print(table(["scenario", "points", "went on", "of these first refused", "failed"], rows))
    save("crash_points", {"seconds": monotonic() - begun, "outcomes": [vars(outcome) for outcome in outcomes]})
    return int(any(outcome.failures for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
