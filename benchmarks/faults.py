"""What is left of an output after random faults: every object there, as if nothing had happened, and nobody waits.

    python -m benchmarks.faults [--runs 200] [--seed 1] [--only NUMBER] [--folder DIR]

A schedule is one image, predicted on a cluster of two worker processes by a client process, or handed over to it by
one, in several rounds. In a round anything may be killed, stopped, paused or told to end, objects cannot be stored,
the model raises, a second client comes, the lock is lost, all is overwritten; between two rounds what is stored is
damaged, or replaced by an output of another model in other chunks, which is whole or half-written, and is overwritten
in turn. The last round has no faults and must complete the output. Checked are, after each round, that the ledger says
nothing that is not stored, and that nothing was written again that was intact; at the end, that every file is that of
an undisturbed run, that `verify` says so too, that nothing else lies in the folder, and that no object was stored more
often than faults explain. A client that comes while another one is stopped, and holds the lock, must be refused.

All is drawn from the seed and the number of the schedule, so that one can be run again alone, with --only. When
exactly a fault hits depends on the machine as well.
"""

import asyncio
import errno
import faulthandler
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil, prod
from multiprocessing import connection
from pathlib import Path
from random import Random, random
from threading import Thread, Timer
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import zarr
from distributed import Client, LocalCluster, Status, WorkerPlugin
from xxhash import xxh3_128_hexdigest
from zarr.storage import LocalStore

import tilewright as tw
from benchmarks.measure import save, table
from tilewright.execution.remote import TASKS_PER_THREAD
from tilewright.plan import WritePlan
from tilewright.storage.ledger import LedgerFolder
from tilewright.storage.records import RECORD_NBYTES, Record
from tilewright.storage.records import Status as Recorded

CLIENT_SECONDS = 90.0
"""A client that takes longer hangs; without faults it takes one or two,"""
SCHEDULE_SECONDS = 240.0
"""and so does a schedule that takes longer than this."""
WORKERS = 2
CASES = 40
"""Cases that the schedules share, since each needs an undisturbed run."""
LEAST_UNITS = 10
SMALL_MEMORY_NBYTES = 2**20
"""With no more memory than this, the units of the aligned layout stay as small as the others."""
POLL_SECONDS = 0.005
RETRY_SECONDS = 0.05
REST_SECONDS = 30.0
OWN_FILES = re.compile(
    r"client-\d+-(log|stack|result)|faults\.json|sets|(store|model)-errors|killed-by-model|.+\.ledger/\d{6}\.ledger"
)
LINE_NBYTES = 64
"""Bytes of a line of the logs, so that their size tells how many there are."""


# --- What is predicted.


@dataclass(frozen=True)
class Kind:
    """A kind of image, and the ways to store it: chunks, and shards."""

    axes: str
    shape: tuple[int, ...]
    tile_size: tuple[int, ...]
    overlap: tuple[int, ...]
    stored: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]]

    @property
    def tile_count(self) -> int:
        """About how many tiles it has, in either layout."""
        steps = zip(self.shape[-len(self.tile_size) :], self.tile_size, self.overlap, strict=True)
        return prod(ceil((extent - shared) / (tile - shared)) for extent, tile, shared in steps) * prod(
            self.shape[: -len(self.tile_size)]
        )


KINDS = {
    "plane": Kind(
        "YX",
        (1500, 1620),
        (192, 192),
        (32, 32),
        {
            "chunks": ((160, 160), None),
            "straddling": ((200, 180), None),
            "shards": ((80, 80), (320, 320)),
        },
    ),
    "volume": Kind(
        "ZYX",
        (30, 290, 300),
        (16, 112, 112),
        (6, 16, 16),
        {
            "chunks": ((10, 96, 96), None),
            "straddling": ((7, 100, 90), None),
            "shards": ((5, 48, 48), (10, 96, 192)),
        },
    ),
    "samples": Kind(
        "SYX",
        (3, 800, 820),
        (192, 192),
        (32, 32),
        {
            "chunks": ((1, 160, 160), None),
            "straddling": ((1, 240, 200), None),
            "shards": ((1, 80, 80), (1, 320, 320)),
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """One image, and one way to predict and to store it."""

    kind: str
    layout: str
    stored: str
    compressor: str
    batch_size: int
    predictor: str

    def __str__(self) -> str:
        return f"{self.kind} {self.layout} {self.stored} {self.compressor} batch {self.batch_size} {self.predictor}"

    def output(self, folder: Path) -> Path:
        """Where the output lies: a trainer names it after the source."""
        return folder / "predictions" / f"{self.kind}.zarr" if self.predictor == "trainer" else folder / "output.zarr"

    @property
    def array(self) -> Kind:
        return KINDS[self.kind]

    @property
    def other(self) -> "Case":
        """Another output of the same image, in the same place: no object of it is like one of this."""
        names = list(self.array.stored)
        stored = names[(names.index(self.stored) + 1) % len(names)]
        return replace(self, stored=stored)

    @property
    def compressors(self) -> Any:
        return zarr.codecs.ZstdCodec(level=1) if self.compressor == "zstd" else None


class InjectedModelError(Exception):
    """What a model raises because it was told to."""


class InjectedStoreError(RuntimeError):
    """What a store raises because it was told to, apart from errors of the system."""


@dataclass(frozen=True)
class Model:
    """Each element depends on its neighbours in the tile, and on all tiles that the model sees at once."""

    folder: str
    delay_seconds: float = 0.0
    error_rate: float = 0.0
    kills_its_process: bool = False
    offset: int = 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        sleep(self.delay_seconds)
        if random() < self.error_rate:
            append_line(Path(self.folder, "model-errors"), "model")
            raise InjectedModelError(f"a batch of {len(batch)}")
        if self.kills_its_process and random() < 0.1:
            with suppress(FileExistsError):
                Path(self.folder, "killed-by-model").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        seen = batch.astype(np.int64)
        blurred = 3 * seen
        for axis in range(2, batch.ndim):
            blurred += np.roll(seen, 1, axis) + 2 * np.roll(seen, -1, axis)
        company = int(seen.sum()) * len(batch) % 1021
        return (blurred + company + self.offset).astype(np.float32)


# --- Where it is stored, and what fails there.


def append_line(path: Path, text: str) -> None:
    """Add a line to a log, whole even where several processes do so at once, or are killed."""
    line = f"{text} {os.getpid()}".ljust(LINE_NBYTES - 1) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def line_count(path: Path) -> int:
    return path.stat().st_size // LINE_NBYTES if path.exists() else 0


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def first_words(path: Path) -> Counter[str]:
    """How often each line of a log begins with what."""
    return Counter(line.split()[0] for line in lines_of(path))


@dataclass(frozen=True)
class StoreFaults:
    """What happens to an object that is to be stored, and to which share of them.

    A share of them cannot be stored at all, however often that is tried.
    """

    error_rate: float = 0.0
    hopeless_rate: float = 0.0
    salt: int = 0
    error: str = "EIO"
    wait_rate: float = 0.0
    wait_seconds: float = 0.0
    in_store: bool = False

    @property
    def injects_errors(self) -> bool:
        return self.error_rate > 0 or self.hopeless_rate > 0

    def save(self, folder: Path) -> None:
        (folder / "faults.new").write_text(json.dumps(vars(self)))
        (folder / "faults.new").replace(folder / "faults.json")

    @classmethod
    def load(cls, folder: Path) -> "StoreFaults":
        return cls(**json.loads((folder / "faults.json").read_bytes()))

    def wait(self) -> float:
        return self.wait_seconds if random() < self.wait_rate else 0.0

    def raise_or_not(self, folder: Path, key: str) -> None:
        if random() < self.error_rate or Random(f"{self.salt}-{key}").random() < self.hopeless_rate:
            append_line(folder / "store-errors", key)
            if self.error == "EIO":
                raise OSError(errno.EIO, os.strerror(errno.EIO), key)
            raise InjectedStoreError(key)


class FaultyStore(LocalStore):
    """A local store that tilewright does not take for one, so that objects go through zarr; it fails as it is told."""

    async def set(self, key: str, value: Any) -> None:
        if not key.endswith("zarr.json"):
            folder = self.root.parent
            faults = StoreFaults.load(folder)
            if faults.in_store:
                await asyncio.sleep(faults.wait())
                faults.raise_or_not(folder, key.removeprefix("0/"))
        await super().set(key, value)


class Watcher(WorkerPlugin):
    """On each worker: write down every object that gets its final name, let this fail as it is told, show stacks.

    Python tells of each renaming before it is done, whoever asks for it, so that nothing needs to be replaced.
    """

    name = "benchmarks-faults"

    def __init__(self, root: str) -> None:
        self.root = root

    def setup(self, worker: Any) -> None:
        # Open as long as the process lives.
        self._stacks = Path(self.root, f"stack-of-worker-{os.getpid()}").open("w")  # noqa: SIM115
        faulthandler.register(signal.SIGUSR1, self._stacks)
        sys.addaudithook(self._take_in)

    def _take_in(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "os.rename":
            return
        source, destination = (os.fspath(argument) for argument in arguments[:2])
        path, _, key = destination.partition("/0/c/")
        if not key or not path.startswith(self.root):
            return
        folder = Path(self.root, path.removeprefix(f"{self.root}/").split("/")[0])
        faults = StoreFaults.load(folder)
        if not faults.in_store:
            sleep(faults.wait())
            faults.raise_or_not(folder, f"c/{key}")
        if Path(source).exists():
            append_line(folder / "sets", f"c/{key}")


# --- Who predicts.


@dataclass(frozen=True)
class Job:
    """All that a client process is told."""

    case: Case
    source: str
    folder: str
    number: int
    address: str | None
    model: Model
    through_zarr: bool = False
    grace_seconds: float = 20.0
    if_exists: str = "resume"

    def path(self, what: str) -> Path:
        return Path(self.folder, f"client-{self.number}-{what}")


def run_client(job: Job) -> None:
    """Complete an output, or begin it, and write down how that ended."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with job.path("log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    with job.path("stack").open("w") as stack:
        faulthandler.register(signal.SIGUSR1, stack)
        tempfile.tempdir = job.folder
        result: dict[str, Any]
        try:
            with ExitStack() as opened:
                client = None
                if job.address is not None:
                    client = opened.enter_context(Client(job.address, set_as_default=False))
                predict = predict_as_trainer if job.case.predictor == "trainer" else predict_on_cluster
                report = predict(job, client)
            result = {"ended": "complete", "units": report.unit_count, "kept": report.kept_unit_count}
        except BaseException as error:
            traceback.print_exc()
            result = {"ended": type(error).__name__, "errno": getattr(error, "errno", None), "text": str(error)[:500]}
        job.path("new").write_text(json.dumps(result))
        job.path("new").replace(job.path("result"))


def predict_on_cluster(job: Job, client: Client | None) -> Any:
    kind, output = job.case.array, job.case.output(Path(job.folder))
    chunks, shards = kind.stored[job.case.stored]
    return tw.predict_to_zarr(
        job.model,
        job.source,
        FaultyStore(output) if job.through_zarr else output,
        axes=kind.axes,
        tile_size=kind.tile_size,
        overlap=kind.overlap,
        layout=job.case.layout,
        chunks=chunks,
        shards=shards,
        compressors=job.case.compressors,
        batch_size=job.case.batch_size,
        client=client,
        if_exists=job.if_exists,
        memory_nbytes=SMALL_MEMORY_NBYTES if job.case.layout == "aligned" else None,
        progress=False,
        grace_seconds=job.grace_seconds,
    )


def predict_as_trainer(job: Job, client: Client | None) -> Any:
    """Do what a trainer and the callback do together."""
    kind, folder = job.case.array, job.case.output(Path(job.folder)).parent
    chunks, shards = kind.stored[job.case.stored]
    borders = None if job.case.layout == "compact" else (shards or chunks)[-len(kind.tile_size) :]
    dataset = tw.IterableTiledPredDataset([job.source], kind.axes, kind.tile_size, kind.overlap, borders=borders)
    loader = SimpleNamespace(dataset=dataset, batch_size=job.case.batch_size)
    trainer = SimpleNamespace(predict_dataloaders=loader)
    writer = tw.WriteTilesZarr(
        client, chunks=chunks, shards=shards, compressors=job.case.compressors, if_exists=job.if_exists
    )
    try:
        writer.prepare(trainer, folder)
        for number, batch in enumerate(batches(iter(dataset), job.case.batch_size)):
            tiles, infos = tw.collate_tiles(batch)
            prediction = (job.model(tiles.numpy()), infos)
            writer.write_batch(trainer, None, prediction, None, (tiles, infos), number, 0, folder)
        (report,) = writer.finalize()
    except BaseException:
        writer.abort()
        raise
    return report


def batches(tiles: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class RunningClient:
    """A client process, and what it was told by signals."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.signals: Counter[int] = Counter()
        self.process = multiprocessing.get_context("forkserver").Process(target=run_client, args=(job,), daemon=True)
        self.process.start()

    def signal(self, number: int) -> bool:
        """Send a signal, and tell whether there still was somebody to take it."""
        is_there = self.process.is_alive() and _signal(self.process.pid or 0, number)
        if is_there:
            self.signals[number] += 1
        return is_there

    def pause(self) -> bool:
        """Stop it, and tell whether it still was there."""
        return self.process.is_alive() and _signal(self.process.pid or 0, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        _signal(self.process.pid or 0, signal.SIGCONT)

    def result(self) -> dict[str, Any]:
        """How it ended."""
        self.process.join()
        if not self.job.path("result").exists():
            return {"ended": f"exit {self.process.exitcode}"}
        result: dict[str, Any] = json.loads(self.job.path("result").read_bytes())
        return result

    def log(self) -> str:
        """The end of what it said."""
        return self.job.path("log").read_text()[-6000:] if self.job.path("log").exists() else ""


# --- What happens to it.

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


# --- The cluster.


async def pause(dask_worker: Any, seconds: float) -> None:
    dask_worker.status = Status.paused
    await asyncio.sleep(seconds)
    dask_worker.status = Status.running


def busy(dask_worker: Any) -> int:
    return len(dask_worker.state.all_running_tasks)


class Cluster:
    """Two worker processes that may be killed, and come back by themselves."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started = 0
        self._stopped: list[tuple[Timer, int]] = []
        self._start()

    def _start(self) -> None:
        self.started += 1
        self._cluster = LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            local_directory=str(self.root / "workers"),
        )
        self._client = Client(self._cluster, set_as_default=False)
        self._client.register_plugin(Watcher(str(self.root)))

    def close(self) -> None:
        for timer, process in self._stopped:
            timer.cancel()
            _signal(process, signal.SIGCONT)
        self._stopped.clear()
        with suppress(TimeoutError, OSError):
            self._client.close(timeout=REST_SECONDS)
            self._cluster.close(timeout=REST_SECONDS)

    def restart(self) -> None:
        self.close()
        self._start()

    @property
    def address(self) -> str:
        return str(self._cluster.scheduler_address)

    @property
    def _nannies(self) -> list[Any]:
        return list(self._cluster.workers.values())

    @property
    def processes(self) -> list[int]:
        """The processes of the workers that are up: Dask starts one that dies before it is up no second time."""
        return [
            nanny.pid
            for nanny in self._nannies
            if nanny.process is not None
            and nanny.process.status == Status.running
            and nanny.worker_address in self._cluster.scheduler.workers
        ]

    @property
    def dead_count(self) -> int:
        """How many workers do not come back."""
        return sum(nanny.status in (Status.closed, Status.failed) for nanny in self._nannies)

    def be_ready(self, allowed_failures: int) -> None:
        """Wait until both workers are there, and nothing of the schedule before is; else begin anew."""
        try:
            self.rest()
        except TimeoutError:
            self.restart()
        self._cluster.scheduler.allowed_failures = allowed_failures

    def rest(self) -> None:
        """Wait until both workers are there and do nothing: tasks of a client that is dead are finished all the same.

        Raises
        ------
        TimeoutError
            If they go on for too long.
        """
        until = monotonic() + REST_SECONDS
        while monotonic() < until:
            with suppress(OSError):
                running = self._client.run(busy, on_error="ignore")
                if len(running) == WORKERS and not any(running.values()):
                    return
            if self.dead_count:
                break
            sleep(0.02)
        if len(self.processes) == WORKERS:
            raise TimeoutError(f"the workers are busy for longer than {REST_SECONDS:.0f} seconds")
        self.restart()

    @staticmethod
    def _chosen(workers: list[Any], count: int, which: int) -> list[Any]:
        return workers if count > 1 or not workers else [workers[which % len(workers)]]

    def kill(self, count: int, which: int) -> int:
        """Kill workers, and return how many."""
        chosen = self._chosen(self.processes, count, which)
        return sum(_signal(process, signal.SIGKILL) for process in chosen)

    def stop(self, which: int, seconds: float) -> int:
        """Stop a worker for some time, as a machine that is busy with something else does."""
        chosen = self._chosen(self.processes, 1, which)
        for process in chosen:
            timer = Timer(seconds, _signal, (process, signal.SIGCONT))
            timer.daemon = True
            self._stopped.append((timer, process))
            _signal(process, signal.SIGSTOP)
            timer.start()
        return len(chosen)

    def pause(self, count: int, which: int, seconds: float) -> int:
        """Let workers begin no task for some time, as they do when they are short of memory."""
        chosen = self._chosen(list(self._cluster.scheduler.workers), count, which)

        def ask() -> None:
            with suppress(OSError):
                self._client.run(pause, seconds, workers=chosen, wait=False, on_error="ignore")

        # A worker that is stopped answers later.
        Thread(target=ask, daemon=True).start()
        return len(chosen)

    def show_stacks(self) -> str:
        for process in self.processes:
            _signal(process, signal.SIGUSR1)
        sleep(1.0)
        files = [self.root / f"stack-of-worker-{process}" for process in self.processes]
        return "\n".join(f"--- {file.name}\n{file.read_text()}" for file in files if file.exists())


def _signal(process: int, number: int) -> bool:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


# --- What must be true.


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run leaves."""

    plan: WritePlan
    files: dict[str, str]
    names: frozenset[str]

    def keys(self, unit: int) -> list[str]:
        return ["/".join(["c", *map(str, position)]) for position in self.plan.objects_of_unit(unit)]


def digest(path: Path) -> str:
    try:
        return xxh3_128_hexdigest(path.read_bytes())
    except FileNotFoundError:
        return "missing"


def files_of(output: Path) -> dict[str, str]:
    return {str(path.relative_to(output)): digest(path) for path in sorted(output.rglob("*")) if path.is_file()}


def names_in(folder: Path) -> frozenset[str]:
    """Return the names of all files and folders of a job, but for the files of ledgers and what the harness keeps."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return frozenset(name for name in names if not OWN_FILES.fullmatch(name))


def records_in(file: Path) -> list[Record | None]:
    raw = file.read_bytes()
    # The header stands there twice.
    *_, rest = raw.split(b"\n", 2)
    if raw.count(b"\n") < 2:
        return []
    return [Record.from_bytes(rest[i : i + RECORD_NBYTES]) for i in range(0, len(rest), RECORD_NBYTES)]


def written_in(file: Path) -> list[int]:
    return [record.unit for record in records_in(file) if record is not None and record.status is Recorded.WRITTEN]


class InvariantError(Exception):
    """What must be true is not."""


class HungError(InvariantError):
    """A client, or the workers, do not come to an end."""


_WHOLE = ("complete", "UnitGivenUpError", "OutputInUseError")
"""How a client ends that leaves nothing half done."""


@dataclass
class Outcome:
    """What came of a schedule."""

    injected: Counter[str] = field(default_factory=Counter)
    clients: int = 0
    units: int = 0
    units_written: int = 0
    units_twice: int = 0
    units_lost: int = 0
    objects_differ: int = 0
    hung: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Player:
    """Play one schedule, and check what is left."""

    def __init__(self, schedule: Schedule, cluster: Cluster, folder: Path, source: Path, reference: Reference) -> None:
        self._schedule = schedule
        self._cluster = cluster
        self._folder = folder
        self._source = source
        self._reference = reference
        self._output = schedule.case.output(folder)
        self._ledger = self._output.with_name(f"{self._output.name}.ledger")
        self._rng = Random(f"damage-{schedule.number}")
        self._damaged: set[int] = set()
        self._seen: set[Path] = set()
        self._torn: Counter[int] = Counter()
        self._interruptions = 0
        self._locks_lost = 0
        self._forgotten: Counter[int] = Counter()
        self._other: dict[str, str] | None = None
        self._killed = 0
        self._unit_of = {key: unit for unit in range(reference.plan.unit_count) for key in reference.keys(unit)}
        self._until = monotonic() + SCHEDULE_SECONDS
        self.outcome = Outcome(units=reference.plan.unit_count)

    def play(self) -> Outcome:
        start = monotonic()
        StoreFaults().save(self._folder)
        try:
            self._cluster.be_ready(self._schedule.allowed_failures)
            is_complete = False
            for index, round_ in enumerate(self._schedule.rounds):
                if round_.waits_for_old_tasks and index > 0:
                    self._rest()
                # Of another output nothing is compared later.
                damages = sum(self._damage(what) for what in round_.damages) if self._is_ours else 0
                if is_complete and not damages and round_.if_exists != OVERWRITE and self._other is None:
                    continue
                is_complete = self._play_other(round_) if round_.is_other else self._play(round_)
            self._complete()
            self._rest()
            self._check_end()
        except InvariantError as error:
            self.outcome.problems.append(str(error))
            self.outcome.hung += isinstance(error, HungError)
        self._count()
        self.outcome.seconds = monotonic() - start
        return self.outcome

    # One round.

    def _complete(self) -> None:
        """Play a round without faults. Where the output is complete already, nothing may be written."""
        if not self._play(Round()):
            raise InvariantError("a round without faults did not complete the output")

    def _play(self, round_: Round) -> bool:
        """Play a round, and tell whether the output is complete then."""
        round_.store.save(self._folder)
        intact = self._intact_units()
        if round_.if_exists == OVERWRITE:
            # All of it is written again.
            intact = set()
            self._forget_records()
            self.outcome.injected[OVERWRITE] += 1
        before = line_count(self._folder / "sets")
        deaths_by_model = self._deaths_by_model
        object_count = sum(unit not in intact for unit in self._unit_of.values())
        clients = self._run_clients(round_, object_count)
        deaths = self._killed + self._deaths_by_model - deaths_by_model
        results = [client.result() for client in clients]
        if any(client.job.if_exists == OVERWRITE for client in clients):
            intact = set()
        for client, result in zip(clients, results, strict=True):
            if result["ended"] == "ResumeError" and self._other is not None:
                self._check_refused_resume(result)
                return self._play(replace(round_, if_exists=OVERWRITE, faults=()))
            self._judge(client, result, round_, deaths, is_alone=len(clients) == 1)
        self._interruptions += deaths + self._locks_lost
        self._interruptions += sum(result["ended"] not in _WHOLE for result in results)
        self._check_ledger(intact, may_repeat=len({client.job.if_exists for client in clients}) > 1)
        self._check_recorded(before, len(clients))
        return any(result["ended"] == "complete" for result in results)

    def _play_other(self, round_: Round) -> bool:
        """Leave an output of another model, whole or half-written; it is not complete in any case."""
        round_.store.save(self._folder)
        clients = self._run_clients(round_, len(self._unit_of))
        for client in clients:
            self._judge(client, client.result(), round_, deaths=0, is_alone=True)
        self._rest()
        if self._is_ours:
            # It did not come to that; of the units that are stored none was touched.
            self._check_ledger(set())
            return False
        # From now on all is written anew, and counted anew.
        for name in ("sets", "store-errors"):
            (self._folder / name).unlink(missing_ok=True)
        self._damaged, self._torn, self._forgotten, self._interruptions = set(), Counter(), Counter(), 0
        self._seen = set(self._ledger_files())
        self._other = files_of(self._output)
        self.outcome.injected[OTHER_OUTPUT] += 1
        return False

    def _check_refused_resume(self, result: dict[str, Any]) -> None:
        """A resume is refused where the output of the other model is there as it was, and nowhere else."""
        if files_of(self._output) != self._other:
            raise InvariantError(f"the output is not as it was, and is not resumed: {result['text']}")
        self.outcome.injected[REFUSED_RESUME] += 1

    def _forget_records(self) -> None:
        """Take in that what is recorded now will be written again."""
        if self._is_ours:
            self._forgotten += Counter(unit for file in self._ledger_files() for unit in written_in(file))

    def _run_clients(self, round_: Round, object_count: int) -> list["RunningClient"]:
        """Run a client until it ends, or is ended, and let what is to happen happen."""
        self._killed = self._locks_lost = 0
        clients = [self._start_client(round_)]
        stored_before = line_count(self._folder / "sets")
        waiting = list(round_.faults)
        due: list[tuple[float, Fault]] = []
        start = monotonic()
        while alive := [client for client in clients if client.process.is_alive()]:
            connection.wait([client.process.sentinel for client in alive], POLL_SECONDS)
            now = monotonic()
            share = (line_count(self._folder / "sets") - stored_before) / max(1, object_count)
            for fault in [fault for fault in waiting if fault.after_share is None or share >= fault.after_share]:
                waiting.remove(fault)
                due.append(((start if fault.after_share is None else now) + fault.after_seconds, fault))
            for entry in [entry for entry in due if entry[0] <= now]:
                due.remove(entry)
                if not self._let_happen(entry[1], round_, clients):
                    # A worker that is not up yet, say.
                    due.append((now + RETRY_SECONDS, entry[1]))
            if self._cluster.dead_count == WORKERS:
                # No client can do anything about that.
                for client in alive:
                    client.signal(signal.SIGKILL)
                self._cluster.restart()
            if now - start > CLIENT_SECONDS or now > self._until:
                raise HungError(self._stacks_of(alive))
        return clients

    def _start_client(self, round_: Round) -> "RunningClient":
        """Start a client, after a look at what it must not destroy."""
        self.outcome.clients += 1
        folder, schedule = str(self._folder), self._schedule
        kills = round_.kills_its_process and not self._deaths_by_model
        model = Model(folder, schedule.delay_seconds, round_.error_rate, kills, offset=7 if round_.is_other else 0)
        job = Job(
            schedule.case.other if round_.is_other else schedule.case,
            str(self._source),
            folder,
            self.outcome.clients,
            self._cluster.address,
            model,
            schedule.through_zarr,
            round_.grace_seconds,
            round_.if_exists,
        )
        return RunningClient(job)

    def _let_happen(self, fault: Fault, round_: Round, clients: list["RunningClient"]) -> bool:
        """Let a fault happen, and tell, and count, whether it hit something."""
        count = WORKERS if "both" in fault.what else 1
        if fault.what == REFUSED_CLIENT and len(clients) > 1:
            # Which of them has the lock, it cannot be told.
            return True
        if fault.what == OTHER_CLIENT:
            clients.append(self._start_client(round_))
            hit = True
        elif fault.what == REFUSED_CLIENT:
            hit = self._refuse(fault, round_, clients[0])
        elif fault.what in (LOSE_LOCK, LOSE_LOCK_TO_OVERWRITE):
            hit = (self._ledger / "lock").exists()
            if hit:
                (self._ledger / "lock").unlink(missing_ok=True)
                self._locks_lost += 1
                overwrites = fault.what == LOSE_LOCK_TO_OVERWRITE
                if overwrites:
                    self._forget_records()
                clients.append(self._start_client(replace(round_, if_exists=OVERWRITE if overwrites else "resume")))
        elif fault.what in CLIENT_SIGNALS:
            first, *others = CLIENT_SIGNALS[fault.what]
            hit = clients[0].signal(first)
            for number in others:
                clients[0].process.join(fault.seconds / 4)
                clients[0].signal(number)
        elif fault.what.startswith("kill"):
            hit = self._cluster.kill(count, fault.which)
            self._killed += hit
        elif fault.what.startswith("stop"):
            hit = self._cluster.stop(fault.which, fault.seconds)
        else:
            hit = self._cluster.pause(count, fault.which, fault.seconds)
        if hit:
            self.outcome.injected[fault.what] += 1
        return bool(hit)

    def _lock_text(self) -> str:
        try:
            return (self._ledger / "lock").read_text()
        except FileNotFoundError:
            return ""

    def _refuse(self, fault: Fault, round_: Round, first: "RunningClient") -> bool:
        """Start a client while another one holds the lock, and is stopped so that it cannot end; tell whether it was.

        Raises
        ------
        InvariantError
            If the second one is not refused, or changes what is stored.
        """
        if not first.pause():
            return False
        try:
            if f'"process": {first.process.pid},' not in self._lock_text():
                return False
            second = self._start_client(replace(round_, if_exists=("resume", OVERWRITE)[fault.which]))
            second.process.join(CLIENT_SECONDS)
            if second.process.is_alive():
                raise HungError(self._stacks_of([second]))
            if (result := second.result())["ended"] != "OutputInUseError":
                raise InvariantError(f"a client came to an output that is in use, and ended with {result}")
            return True
        finally:
            first.go_on()

    @property
    def _deaths_by_model(self) -> int:
        return int((self._folder / "killed-by-model").exists())

    def _judge(
        self, client: "RunningClient", result: dict[str, Any], round_: Round, deaths: int, *, is_alone: bool
    ) -> None:
        """Raise InvariantError where a client ended in a way that nothing that was done to it explains."""
        ended, signals = result["ended"], client.signals
        few_failures = self._schedule.allowed_failures < 3 and deaths > 0
        explained = {
            "complete": True,
            "UnitGivenUpError": round_.injects_errors or few_failures,
            "KilledWorker": few_failures,
            "InjectedModelError": round_.error_rate > 0,
            "InjectedStoreError": round_.store.injects_errors,
            "OSError": round_.store.injects_errors and result.get("errno") == errno.EIO,
            # Tasks of a dead run may still write, which a store of one's own would not notice.
            "OutputInUseError": not is_alone or (round_.if_exists == OVERWRITE and self._schedule.through_zarr),
            "RunStoppedError": bool(signals),
            "KeyboardInterrupt": signals[signal.SIGINT] > 0,
            # The signal came when the process was about to end, or the second one while it ended by the first.
            "exit 1": signals[signal.SIGINT] > 0,
        } | {f"exit {-number}": True for number in signals}
        if not explained.get(ended, False):
            raise InvariantError(f"a client ended with {ended}: {result.get('text', '')}\n{client.log()}")

    # What is done between rounds.

    def _damage(self, what: str) -> bool:
        """Damage what is stored, and tell whether there was something to damage."""
        if what == "tear ledger":
            done = self._tear_ledger()
        else:
            objects = [path for path in sorted(self._output.glob("0/c/**/*")) if self._key(path) in self._unit_of]
            done = bool(objects)
            if objects:
                self._damage_object(what, self._rng.choice(objects))
        if done:
            self.outcome.injected[what] += 1
        return done

    def _key(self, path: Path) -> str:
        return str(path.relative_to(self._output / "0"))

    def _damage_object(self, what: str, path: Path) -> None:
        nbytes = path.stat().st_size
        if what == "leave partial file":
            path.with_name(f"{path.name}.{self._rng.getrandbits(128):032x}.partial").write_bytes(b"half")
            return
        self._damaged.add(self._unit_of[self._key(path)])
        if what == "delete object":
            path.unlink()
        elif what == "truncate object":
            os.truncate(path, self._rng.randrange(nbytes) if nbytes else 0)
        elif nbytes:
            place = self._rng.randrange(nbytes)
            with path.open("r+b") as file:
                file.seek(place)
                (byte,) = file.read(1)
                file.seek(place)
                file.write(bytes([byte ^ (1 << self._rng.randrange(8))]))

    def _tear_ledger(self) -> bool:
        files = self._ledger_files()
        # Its first line is another matter: it is there before the first unit is stored.
        nbytes = len(files[-1].read_bytes().split(b"\n", 2)[2]) if files else 0
        if not nbytes:
            return False
        before = Counter(written_in(files[-1]))
        torn = self._rng.randint(1, min(4 * RECORD_NBYTES, nbytes))
        os.truncate(files[-1], files[-1].stat().st_size - torn)
        self._torn += before - Counter(written_in(files[-1]))
        return True

    def _rest(self) -> None:
        try:
            self._cluster.rest()
        except TimeoutError as error:
            raise HungError(f"{error}\n{self._cluster.show_stacks()}") from None

    # What is checked.

    def _ledger_files(self) -> list[Path]:
        return sorted(self._ledger.glob("*.ledger"))

    def _is_stored(self, unit: int) -> bool:
        files = self._reference.files
        return all(digest(self._output / "0" / key) == files[f"0/{key}"] for key in self._reference.keys(unit))

    def _recorded_units(self) -> set[int]:
        """The units that the ledger says are stored: the last record of each counts."""
        records = LedgerFolder(self._ledger).records()
        return {record.unit for record in records if record.status is Recorded.WRITTEN}

    @property
    def _is_ours(self) -> bool:
        """Whether the ledger is about the output of this schedule, not about that of another model."""
        header, plan = LedgerFolder(self._ledger).header(), self._reference.plan
        return header is None or (header.plan.chunks, header.plan.shards) == (plan.chunks, plan.shards)

    def _intact_units(self) -> set[int]:
        """Those of them that are."""
        if not self._is_ours:
            return set()
        return {unit for unit in self._recorded_units() if self._is_stored(unit)}

    def _check_ledger(self, intact_before: set[int], *, may_repeat: bool = False) -> None:
        if not self._is_ours:
            # Nothing was begun.
            return
        new = [file for file in self._ledger_files() if file not in self._seen]
        self._seen.update(new)
        times = Counter(unit for file in new for unit in written_in(file))
        written = set(times)
        twice = sorted(unit for unit, count in times.items() if count > 1)
        if twice and not may_repeat:
            raise InvariantError(f"units {twice} were written by two clients, or twice by one")
        if again := written & intact_before:
            raise InvariantError(f"units {sorted(again)} were intact, and were written again")
        if any(None in records_in(file)[:-1] for file in new):
            raise InvariantError(f"a record of {new} is damaged, and not the last, which may be torn")
        self._damaged -= written
        intact = self._intact_units()
        for unit in sorted(self._recorded_units() - intact - self._damaged):
            self.outcome.units_lost += 1
            self.outcome.problems.append(f"the ledger says that unit {unit} is stored, and it is not")

    def _check_recorded(self, lines_before: int, clients: int) -> None:
        """Check that of what was stored in a round no more is unknown to the ledger than was in flight."""
        keys = [line.split()[0] for line in lines_of(self._folder / "sets")[lines_before:]]
        known = {record.unit for file in self._ledger_files() for record in records_in(file) if record}
        unknown = {self._unit_of[key] for key in keys if key in self._unit_of} - known - set(self._torn)
        # What a client has submitted, and what the workers still did for one before.
        if len(unknown) > clients * TASKS_PER_THREAD * WORKERS + WORKERS:
            raise InvariantError(
                f"units {sorted(unknown)} were stored, at least in part, and the ledger has none of them"
            )

    def _check_end(self) -> None:
        problems = self.outcome.problems
        files = files_of(self._output)
        expected = self._reference.files
        differing = [name for name in expected if files.get(name) != expected[name]]
        self.outcome.objects_differ += len(differing)
        if differing:
            problems.append(f"files differ from those of an undisturbed run: {differing}")
        if surplus := sorted(set(files) - set(expected)):
            problems.append(f"files lie about: {surplus}")
        if others := sorted(names_in(self._folder) - self._reference.names):
            problems.append(f"what an undisturbed run does not leave: {others}")
        verification = tw.verify(self._output, progress=False)
        if not verification.is_complete or verification.writer:
            self.outcome.units_lost += len(verification.conditions)
            problems.append(f"the output is complete, but not to verify:\n{verification}")
        self._check_counts()

    def _check_counts(self) -> None:
        """Compare how often objects were stored with what explains it."""
        stored = first_words(self._folder / "sets")
        errors: Counter[int] = Counter()
        for key, count in first_words(self._folder / "store-errors").items():
            # Each is tried three times before the attempt at its unit fails.
            errors[self._unit_of[key]] += count // 3
        recorded = Counter(unit for file in self._ledger_files() for unit in written_in(file)) + self._torn
        for key, unit in self._unit_of.items():
            most = recorded[unit] + self._forgotten[unit] + self._interruptions + errors[unit]
            if not 1 <= stored[key] <= most:
                self.outcome.problems.append(
                    f"object {key} was stored {stored[key]} times; its unit has {recorded[unit]} records, "
                    f"{self._interruptions} interruptions and {errors[unit]} failed attempts explain the rest"
                )
        if surplus := sorted(set(stored) - set(self._unit_of)):
            self.outcome.problems.append(f"objects were stored that are not of the output: {surplus}")

    def _count(self) -> None:
        stored = first_words(self._folder / "sets")
        times: Counter[int] = Counter()
        for key, unit in self._unit_of.items():
            times[unit] = max(times[unit], stored[key])
        self.outcome.units_written = times.total()
        self.outcome.units_twice = sum(count > 1 for count in times.values())
        for name, kind in (("store-errors", "store error"), ("model-errors", "model error")):
            if count := line_count(self._folder / name):
                self.outcome.injected[kind] += count
        if (self._folder / "killed-by-model").exists():
            self.outcome.injected["model kills worker"] += 1

    def _stacks_of(self, clients: Sequence["RunningClient"]) -> str:
        """End clients that do not end, and return where they and the workers were."""
        for client in clients:
            _signal(client.process.pid or 0, signal.SIGUSR1)
        stacks = [self._cluster.show_stacks()]
        for client in clients:
            stacks.append(f"--- client {client.job.number}\n{client.job.path('stack').read_text()}\n{client.log()}")
            client.process.kill()
            client.process.join()
        return "\n".join(["a client hangs", *reversed(stacks)])


# --- All of it.


class Stage:
    """A folder, a cluster and the references that all schedules share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cluster = Cluster(root)
        self.source = cache(self._source)
        self.reference = cache(self._reference)

    def _source(self, kind: str) -> Path:
        shape = KINDS[kind].shape
        path = self.root / "sources" / f"{kind}.zarr"
        # Small and as they are, so that reading a tile costs little.
        chunks = (*(min(extent, 5) for extent in shape[:-2]), 128, 128)
        array = zarr.create_array(path, shape=shape, dtype="uint16", chunks=chunks, compressors=None)
        array[...] = np.random.default_rng(0).integers(0, 60_000, shape).astype("uint16")
        return path

    def _reference(self, case: Case) -> Reference:
        """Predict a case on a cluster inside one process, without faults."""
        folder = self.root / f"reference {case}"
        folder.mkdir()
        job = Job(case, str(self.source(case.kind)), str(folder), 0, None, Model(str(folder)))
        client = RunningClient(job)
        client.process.join(CLIENT_SECONDS)
        client.signal(signal.SIGKILL)
        if (result := client.result())["ended"] != "complete":
            raise InvariantError(f"the undisturbed run of {case} ended with {result}\n{client.log()}")
        output = case.output(folder)
        header = LedgerFolder(output.with_name(f"{output.name}.ledger")).header()
        if header is None or header.plan.unit_count < LEAST_UNITS:
            raise InvariantError(f"the undisturbed run of {case} has too few units: {header}")
        reference = Reference(header.plan, files_of(output), names_in(folder))
        shutil.rmtree(folder)
        return reference

    def play(self, schedule: Schedule) -> Outcome:
        """Play a schedule in an empty folder."""
        folder = self.root / f"schedule-{schedule.number}"
        folder.mkdir()
        try:
            reference = self.reference(schedule.case)
            player = Player(schedule, self.cluster, folder, self.source(schedule.case.kind), reference)
            outcome = player.play()
        except InvariantError as error:
            outcome = Outcome(problems=[str(error)])
        if outcome.hung:
            self.cluster.restart()
        shutil.rmtree(folder, ignore_errors=True)
        return outcome


@contextmanager
def open_stage(folder: Path | None = None) -> Iterator[Stage]:
    """Open a folder and a cluster, and remove both in the end."""
    context = multiprocessing.get_context("forkserver")
    # Before the first process: a client, or a worker that comes back, is there in a moment then.
    context.set_forkserver_preload(["torch", "zarr", "distributed", "tilewright.prediction", "tilewright.strategies"])
    multiprocessing.forkserver.ensure_running()
    settings = {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
    }
    # Of connections to workers that were killed.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="tilewright-faults-", dir=folder) as root, dask.config.set(settings):
        stage = Stage(Path(root).resolve())
        try:
            yield stage
        finally:
            stage.cluster.close()


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
    parser = ArgumentParser(description=__doc__.splitlines()[0])
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


if __name__ == "__main__":
    # Under its name, so that what travels to other processes is found there.
    from benchmarks import faults  # noqa: PLW0406

    sys.exit(faults.main())
