"""A folder, a cluster and the references that all schedules share."""

import logging
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import dask
import numpy as np
import zarr

from benchmarks.faults.cases import KINDS, Case, Model
from benchmarks.faults.clients import CLIENT_SECONDS, Job, RunningClient
from benchmarks.faults.cluster import Cluster
from benchmarks.faults.outcome import InvariantError, Outcome
from benchmarks.faults.player import Player
from benchmarks.faults.reference import Reference, files_of, names_in
from benchmarks.faults.schedule import Schedule
from tilewright.ledger.ledger import LedgerFolder

LEAST_UNITS = 10


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
