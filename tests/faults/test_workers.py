"""Workers die, stop, pause, come and go while tiles are predicted and written: what is stored is right and complete."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from distributed import Client, LocalCluster, Worker
from distributed.core import Status
from tests.faults.giving_up import CHUNKS, IMAGE, TILES, batches_with, check_given_up, ledger_of, units_with
from tests.faults.giving_up import IN_THE_MIDDLE as ELEMENT
from tests.faults.support import (
    SECONDS,
    Running,
    dask_process,
    hand_over,
    processes_of,
    set_status,
    wait_for,
    wait_once,
    waiting_process,
)
from tests.support import note, noted, stored_files
from zarr.storage import LocalStore

import tilewright as tw
from tilewright.coordinator import Coordinator
from tilewright.errors import ClusterGoneError, UnitGivenUpError
from tilewright.executors.remote import RemoteExecutor
from tilewright.executors.work import Work
from tilewright.geometry import extents_of
from tilewright.ledger.receipts import UnitReceipt
from tilewright.objects.unit_writer import StoredUnit
from tilewright.outputs.output import Output
from tilewright.plan import plan_write
from tilewright.runs import run as runs
from tilewright.transport import scatter

# Workers import this module, and those that are killed do so again and again: nothing here is slow to import.

# Several tiles begin in each unit, so that a task predicts several batches; some tiles lie in four units.
STORED: dict[str, Any] = CHUNKS["shards"] | {"compressors": None}
LAYOUTS = pytest.mark.parametrize("layout", ["compact", "aligned"])
PRODUCERS = pytest.mark.parametrize("producer", ["compact", "aligned", "trainer"])
pytestmark = pytest.mark.usefixtures("small_units")


# --- Models and stores. They reach workers by the name of this module.


class Model:
    """Negate tiles, and note which process did."""

    def __init__(self, signals: Path) -> None:
        self.signals = signals

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if self._is_probed():
            self.before(tiles)
            (self.signals / f"{os.getpid()}.process").touch()
        return -tiles

    def _is_probed(self) -> bool:
        """Whether the first tile was predicted once, before anything is planned."""
        try:
            (self.signals / "probed").touch(exist_ok=False)
        except FileExistsError:
            return True
        return False

    def before(self, tiles: np.ndarray) -> None:
        pass

    def processes(self) -> set[int]:
        """Return the processes that have predicted."""
        return {int(path.stem) for path in self.signals.glob("*.process")}


class Waits(Model):
    """Wait before an element is predicted for the first time."""

    def before(self, tiles: np.ndarray) -> None:
        if (tiles == ELEMENT).any():
            wait_once(self.signals, "predicting")


class EachProcessWaits(Model):
    """Wait in each process."""

    def before(self, tiles: np.ndarray) -> None:
        wait_once(self.signals, f"{os.getpid()}.waiting")

    def waiting(self) -> set[int]:
        return {int(path.stem) for path in self.signals.glob("*.waiting")}


class Kills(Model):
    """Kill the own process where an element is to be predicted, so many times."""

    def __init__(self, signals: Path, times: int) -> None:
        super().__init__(signals)
        self.times = times

    def before(self, tiles: np.ndarray) -> None:
        if (tiles == ELEMENT).any() and self.deaths < self.times and not (self.signals / "cured").exists():
            note(str(self.signals / "deaths"))
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def deaths(self) -> int:
        return noted(self.signals / "deaths")


class WaitingStore(LocalStore):
    """A folder in which one object waits to be put, or for its receipt."""

    def __init__(
        self, root: Path, signals: Path, key: str = "0/c/1/1", *, moment: str = "before", read_only: bool = False
    ) -> None:
        super().__init__(root, read_only=read_only)
        self.signals = signals
        self.key = key
        self.moment = moment

    def with_read_only(self, read_only: bool = False) -> "WaitingStore":
        return type(self)(self.root, self.signals, self.key, moment=self.moment, read_only=read_only)

    async def set(self, key: str, value: Any) -> None:
        if key == self.key and self.moment == "before":
            wait_once(self.signals, "writing")
        await super().set(key, value)
        if key == self.key and self.moment == "after":
            wait_once(self.signals, "writing")


# --- Runs.


@pytest.fixture
def client(mortal: Client) -> Iterator[Client]:
    """The cluster whose workers may be killed, as the current one."""
    with mortal.as_current():
        yield mortal


def is_busy(dask_worker: Worker) -> bool:
    return bool(dask_worker.state.executing)


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """A process that does nothing."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


class Run:
    """An image is predicted on the cluster, or by a trainer that hands tiles over to it."""

    def __init__(self, folder: Path, source: Path, producer: str, unbroken: dict[str, bytes]) -> None:
        self.producer = producer
        self.unbroken = unbroken
        self.source = source
        self.output = folder / "raw.zarr"

    def __call__(self, model: Any, store: Any = None, **options: Any) -> Any:
        """Return the report."""
        if self.producer == "trainer":
            return self._hand_over(model, store, **STORED | options)
        options = TILES | STORED | {"layout": self.producer, "progress": False} | options
        return tw.predict_to_zarr(model, self.source, store or self.output, **options)

    def start(self, model: Any, client: Client, store: Any = None) -> Running:
        return Running(lambda: self(model, store, client=client))

    def _hand_over(self, model: Any, store: Any, **options: Any) -> Any:
        dataset = tw.IterableTiledPredDataset([self.source], "YX", (32, 32), (8, 8))
        with pytest.MonkeyPatch.context() as patch:
            if store is not None:
                patch.setattr(Output, "at", classmethod(lambda cls, *_, **__: cls(store)))
            (report,) = hand_over(tw.WriteTilesZarr(**options), dataset, self.output.parent, model, batch_size=2)
        return report

    def check(self, report: Any) -> None:
        """All is there, and as a run that nothing happens to leaves it."""
        assert report.given_up == {}
        assert report.kept_unit_count + report.unit_count == report.plan.unit_count
        assert tw.verify(self.output, progress=False).is_complete
        assert stored_files(self.output) == self.unbroken


@pytest.fixture(scope="module")
def unbroken(source: Path, embedded: Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that nothing happens to leaves."""
    run = Run(tmp_path_factory.mktemp("unbroken"), source, "compact", {})
    np.testing.assert_array_equal(run(np.negative, client=embedded).array[...], -IMAGE)
    return stored_files(run.output)


@pytest.fixture
def run(tmp_path: Path, source: Path, unbroken: dict[str, bytes], request: pytest.FixtureRequest) -> Run:
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return Run(tmp_path, source, parameters.get("producer", parameters.get("layout", "compact")), unbroken)


# --- Workers that die.


@pytest.mark.parametrize(
    ("producer", "dead"),
    [
        ("compact", "the one that predicts"),
        ("aligned", "the one that predicts"),
        ("compact", "both"),
        ("aligned", "both"),
        ("trainer", "both"),
    ],
)
def test_workers_that_are_killed_while_they_predict_lose_nothing(
    producer: str, dead: str, client: Client, run: Run, signals: Path
) -> None:
    running = run.start(Waits(signals), client)
    waiting = waiting_process(signals, "predicting")
    both = set(processes_of(client).values())
    assert len(both) == 2
    killed = both if dead == "both" else {waiting}
    for process in killed:
        os.kill(process, signal.SIGKILL)
    (signals / "go").touch()
    run.check(running.end())
    assert not killed & set(processes_of(client).values())


@pytest.mark.parametrize(
    ("producer", "moment"), [("compact", "before"), ("aligned", "after"), ("trainer", "before"), ("trainer", "after")]
)
def test_a_worker_that_is_killed_while_it_writes_loses_nothing(
    moment: str, producer: str, client: Client, run: Run, signals: Path
) -> None:
    store = WaitingStore(run.output, signals, moment=moment)
    running = run.start(Model(signals), client, store)
    victim = waiting_process(signals, "writing")
    assert victim in processes_of(client).values()
    os.kill(victim, signal.SIGKILL)
    (signals / "go").touch()
    run.check(running.end())


@pytest.mark.parametrize("producer", ["compact", "trainer"])
def test_a_worker_that_is_killed_while_it_holds_tiles_loses_nothing(
    producer: str, client: Client, run: Run, signals: Path
) -> None:
    model = Waits(signals)
    running = run.start(model, client)
    waiting = waiting_process(signals, "predicting")
    processes = processes_of(client)

    def holder() -> str | None:
        """Return a worker that holds tiles, and does not predict."""
        holders = {
            address
            for key, addresses in client.who_has().items()
            for address in addresses
            if "tilewright-predict" in str(key) or producer == "trainer"
        }
        return next((address for address in holders if processes.get(address) not in (None, waiting)), None)

    os.kill(processes[wait_for(holder)], signal.SIGKILL)
    (signals / "go").touch()
    run.check(running.end())


# --- Workers that a tile kills.


@pytest.mark.parametrize(("layout", "allowed_failures"), [("compact", 1), ("aligned", 0)])
@pytest.mark.usefixtures("client")
def test_a_tile_that_kills_each_worker_is_given_up_and_no_other(
    layout: str, allowed_failures: int, cluster: LocalCluster, run: Run, signals: Path
) -> None:
    cluster.scheduler.allowed_failures = allowed_failures
    model = Kills(signals, 100)
    with pytest.raises(UnitGivenUpError, match="KilledWorker") as caught:
        run(model)
    plan = caught.value.report.plan
    units = units_with(plan, batches_with(plan, 1, ELEMENT))
    assert 0 < len(units) < plan.unit_count
    check_given_up(caught.value, run.output, units)
    # Once among others, as often as Dask allows, and once more alone.
    assert 2 <= model.deaths <= 2 * (allowed_failures + 1)
    (signals / "cured").touch()
    report = run(model, if_exists="resume")
    assert report.unit_count == len(units)
    run.check(report)


@LAYOUTS
@pytest.mark.usefixtures("client")
def test_workers_that_die_now_and_then_are_the_fault_of_no_tile(
    layout: str, cluster: LocalCluster, run: Run, signals: Path
) -> None:
    # Dask blames every task that a worker dies with.
    cluster.scheduler.allowed_failures = 0
    model = Kills(signals, 1)
    run.check(run(model))
    assert model.deaths == 1


# --- Workers that come and go, or do nothing for a while.


def test_a_cluster_may_go_down_to_no_worker_and_come_up_again(
    cluster: LocalCluster, client: Client, run: Run, signals: Path
) -> None:
    model = Waits(signals)
    running = run.start(model, client)
    waiting_process(signals, "predicting")
    before = set(processes_of(client).values())
    cluster.scale(0)
    (signals / "go").touch()
    wait_for(lambda: not cluster.scheduler.workers)
    assert not running.has_ended
    cluster.scale(2)
    run.check(running.end())
    assert model.processes() - before


@pytest.mark.parametrize(("layout", "at_first"), [("compact", 1), ("aligned", 1), ("compact", 0)])
def test_workers_that_join_later_are_waited_for_and_take_their_part(
    layout: str, at_first: int, cluster: LocalCluster, client: Client, run: Run, signals: Path
) -> None:
    cluster.scale(at_first)
    wait_for(lambda: len(cluster.scheduler.workers) == at_first)
    model = EachProcessWaits(signals)
    running = run.start(model, client)
    wait_for(lambda: len(model.waiting()) == at_first)
    cluster.scale(2)
    wait_for(lambda: len(model.waiting()) == 2)
    (signals / "go").touch()
    run.check(running.end())


@PRODUCERS
@pytest.mark.parametrize("how", ["paused", "stopped"])
def test_a_worker_that_does_nothing_for_a_while_is_waited_for(
    how: str, producer: str, cluster: LocalCluster, client: Client, run: Run, signals: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(scatter, "ASK_SECONDS", 1.0)
    running = run.start(Waits(signals), client)
    waiting = waiting_process(signals, "predicting")
    processes = processes_of(client)
    address, process = next((a, p) for a, p in processes.items() if p != waiting)
    others = [other for other in processes if other != address]

    def have_done_what_they_can() -> bool:
        return running.has_ended or not any(client.run(is_busy, workers=others).values())

    if how == "stopped":
        with stopped(process):
            (signals / "go").touch()
            wait_for(have_done_what_they_can)
    else:
        client.run(set_status, Status.paused, workers=[address])
        (signals / "go").touch()
        wait_for(have_done_what_they_can)
        client.run(set_status, Status.running, workers=[address])
    run.check(running.end())


@PRODUCERS
def test_where_all_workers_are_paused_one_waits_for_them(
    producer: str, cluster: LocalCluster, client: Client, run: Run, signals: Path, monkeypatch: Any
) -> None:
    in_vain: list[OSError] = []
    send = client.scatter

    def ask(*arguments: Any, **options: Any) -> Any:
        try:
            return send(*arguments, **options)
        except OSError as error:
            in_vain.append(error)
            raise

    monkeypatch.setattr(scatter, "ASK_SECONDS", 0.5)
    monkeypatch.setattr(client, "scatter", ask)
    running = run.start(EachProcessWaits(signals), client)
    # Each worker, so that none can do all the rest before it is paused; a trainer predicts in this process.
    process_count = 1 if producer == "trainer" else 2
    wait_for(lambda: len(list(signals.glob("*.waiting"))) == process_count)
    client.run(set_status, Status.paused)
    wait_for(lambda: all(worker.status is Status.paused for worker in cluster.scheduler.workers.values()))
    (signals / "go").touch()
    if producer == "trainer":
        # No worker takes a tile.
        wait_for(lambda: len(in_vain) > 1)
    # What was begun ends; nothing else begins.
    wait_for(lambda: not any(client.run(is_busy).values()))
    assert not running.has_ended
    client.run(set_status, Status.running)
    run.check(running.end())


@PRODUCERS
def test_workers_that_are_restarted_get_their_work_again(
    producer: str, client: Client, run: Run, signals: Path
) -> None:
    running = run.start(Waits(signals), client)
    waiting_process(signals, "predicting")
    before = set(processes_of(client).values())
    client.restart(timeout=SECONDS)
    (signals / "go").touch()
    run.check(running.end())
    assert not before & set(processes_of(client).values())


# --- Schedulers that go away.


@pytest.fixture
def other_cluster(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Client]]:
    """A scheduler and workers that are processes of their own, as on a cluster of machines."""
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    with (
        dask_process("scheduler", *options, "--port", "0") as scheduler,
        dask_process("worker", *options, "--nworkers", "2", "--nthreads", "1"),
    ):
        wait_for(file.exists)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=SECONDS)
            yield scheduler, client


@pytest.mark.parametrize(
    ("producer", "how"), [("compact", signal.SIGKILL), ("trainer", signal.SIGKILL), ("compact", signal.SIGTERM)]
)
@pytest.mark.usefixtures("client")
def test_where_the_scheduler_goes_away_the_rest_can_be_written_on_another_cluster(
    producer: str, how: int, other_cluster: tuple["subprocess.Popen[bytes]", Client], run: Run, signals: Path
) -> None:
    scheduler, lost_client = other_cluster
    running = run.start(Model(signals), lost_client, WaitingStore(run.output, signals))
    waiting_process(signals, "writing")
    folder = ledger_of(run.output)
    # Of the units behind the one that waits, on the same worker, nothing is known.
    wait_for(lambda: len(folder.records()) > 0)
    scheduler.send_signal(how)
    with pytest.raises(ClusterGoneError, match="what was written is complete, the rest is missing"):
        running.end(25)
    assert not (folder.path / "lock").exists()
    found = tw.verify(run.output, progress=False)
    assert set(found.conditions.values()) == {"missing"}
    assert len(found.conditions) == found.plan.unit_count - len(folder.records())
    assert not found.writer
    report = run(Model(signals), if_exists="resume")
    assert report.unit_count == len(found.conditions)
    run.check(report)


def test_a_scheduler_that_comes_back_with_new_workers_goes_on_or_is_said_to_be_gone(run: Run, signals: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    worker = ("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    model = Waits(signals)
    with ExitStack() as lost:
        processes = [lost.enter_context(dask_process(*scheduler)), lost.enter_context(dask_process(*worker))]
        client = lost.enter_context(Client(address, set_as_default=False))
        running = run.start(model, client)
        waiting_process(signals, "predicting")
        for process in processes:
            process.kill()
            process.wait()
        (signals / "go").touch()
        # A client that does not find it again within some seconds says so.
        with dask_process(*scheduler), dask_process(*worker), suppress(ClusterGoneError):
            run.check(running.end())
    run.check(run(model, if_exists="resume"))


# --- What the dead leave behind.


def test_what_a_killed_worker_leaves_half_written_is_gone_after_the_run(
    client: Client, run: Run, signals: Path
) -> None:
    store = WaitingStore(run.output, signals)
    running = run.start(Model(signals), client, store)
    victim = waiting_process(signals, "writing")
    folder = run.output / "0" / "c" / "1"
    folder.mkdir(exist_ok=True)
    (folder / f"1.{'0123456789abcdef' * 2}.partial").write_bytes(b"half")
    (folder / "my.partial").write_bytes(b"mine")
    os.kill(victim, signal.SIGKILL)
    (signals / "go").touch()
    report = running.end()
    (folder / "my.partial").unlink()
    run.check(report)


# --- Tiles that were handed over.


class KillsForOneUnit:
    """Kill the own process where one unit is to be written."""

    def write_tiles(self, unit: int, tiles: Mapping[int, np.ndarray]) -> StoredUnit:
        if unit == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return StoredUnit(UnitReceipt(unit, object_count=1, stored_nbytes=sum(tile.nbytes for tile in tiles.values())))


def test_a_unit_of_which_each_writer_dies_is_given_up_and_takes_no_other_unit_with_it(mortal: Client) -> None:
    plan = plan_write((48, 48), "YX", (16, 16), (4, 4), layout="compact", chunks=(16, 16), dtype="uint8")
    assert (plan.unit_count, plan.units_are_independent) == (9, False)
    recorder = Mock()
    executor = RemoteExecutor(mortal, Work(plan, KillsForOneUnit()))
    run = runs.Run(Coordinator(plan), executor, recorder)
    for tile in range(plan.tile_count):
        run.hand_over([tile], [np.ones(extents_of(plan.valid_region(tile)), "uint8")])
    Running(run.finish).end()
    executor.close()
    recorder.given_up.assert_called_once_with(4)
    assert run.coordinator.is_finished
    assert "lost with a worker" in run.coordinator.given_up[4].reason
