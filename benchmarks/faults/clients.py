"""A client is a process that completes an output, or begins it, and writes down how that ended."""

import faulthandler
import json
import multiprocessing
import os
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distributed import Client

import tilewright as tw
from benchmarks.faults.cases import Case, Model
from benchmarks.faults.store import FaultyStore

CLIENT_SECONDS = 90.0
"""A client that takes longer hangs; without faults it takes one or two."""
SMALL_MEMORY_NBYTES = 2**20
"""With no more memory than this, the units of the aligned layout stay as small as the others."""


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
        levels=1,
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
        client, chunks=chunks, shards=shards, compressors=job.case.compressors, if_exists=job.if_exists, levels=1
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
        is_there = self.process.is_alive() and send_signal(self.process.pid or 0, number)
        if is_there:
            self.signals[number] += 1
        return is_there

    def pause(self) -> bool:
        """Stop it, and tell whether it still was there."""
        return self.process.is_alive() and send_signal(self.process.pid or 0, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        send_signal(self.process.pid or 0, signal.SIGCONT)

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


def send_signal(process: int, number: int) -> bool:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True
