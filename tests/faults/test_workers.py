"""Workers die, stop, pause, come and go while tiles are predicted and written: what is stored is right and complete."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster, Worker
from distributed.core import Status
from zarr.storage import LocalStore

import tilewright as tw
from tilewright.errors import ClusterGoneError, UnitGivenUpError
from tilewright.ledger.ledger import LedgerFolder
from tilewright.outputs.output import Output
from tilewright.plan import WritePlan, group
from tilewright.transport import scatter, sharing

# Workers import this module, and those that are killed do so again and again: nothing here is slow to import.

ROOT = Path(__file__).parent.parent.parent
LOCAL = "127.0.0.1:0"
SECONDS = 100.0
"""How long anything that is waited for may take where others use the machine too."""
# Every element is another one.
IMAGE = np.arange(100 * 124, dtype=np.float32).reshape(100, 124)
TILES: dict[str, Any] = {"tile_size": (32, 32), "overlap": (8, 8)}
# Several tiles begin in each unit, so that a task predicts several batches; some tiles lie in four units.
STORED: dict[str, Any] = {"chunks": (12, 12), "shards": (48, 48), "compressors": None}
LAYOUTS = pytest.mark.parametrize("layout", ["compact", "aligned"])
PRODUCERS = pytest.mark.parametrize("producer", ["compact", "aligned", "trainer"])
ELEMENT = float(IMAGE[60, 60])
"""In one tile only, of either layout, in the middle of the image."""


# --- Waiting.


def wait_for(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Return what a condition becomes, or fail."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        threading.Event().wait(0.02)
    raise TimeoutError("what was waited for never came")


def note(path: Path) -> None:
    """Add one byte to a file, whole even where several processes do so at once."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b".")
    os.close(descriptor)


def noted(path: Path) -> int:
    """How often `note` was called."""
    return path.stat().st_size if path.exists() else 0


def wait_once(signals: Path, name: str) -> None:
    """The first process that comes here says who it is, and waits for a file ``go``."""
    try:
        descriptor = os.open(signals / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)
    wait_for((signals / "go").exists)


def waiting_process(signals: Path, name: str) -> int:
    """Wait until a process waits, and return which."""
    return int(wait_for(lambda: (signals / name).exists() and (signals / name).read_text()))


class Running:
    """A function that runs in a thread; its error comes out of `end`."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        # A hanging run must not keep the tests from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def end(self, seconds: float = SECONDS) -> Any:
        self._thread.join(seconds)
        assert self.has_ended, "it hangs"
        if self._error is not None:
            raise self._error
        return self._result


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
            note(self.signals / "deaths")
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


# --- Clusters.


@pytest.fixture(scope="module")
def nannies() -> Iterator[tuple[LocalCluster, Client]]:
    """Two worker processes that a test may kill, and that come again."""
    with (
        # A worker that is dead so long after a death is given up, also where it is dead once more.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        dask.config.set({"distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": False}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=LOCAL, silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


@pytest.fixture
def cluster(nannies: tuple[LocalCluster, Client]) -> Iterator[LocalCluster]:
    """The same, when both of them are there, and would come again."""
    cluster, client = nannies
    cluster.scale(2)

    def are_there() -> bool:
        processes = [nanny.process for nanny in cluster.workers.values()]
        return (
            len(processes) == 2
            and all(process is not None and process.status is Status.running for process in processes)
            and len(processes_of(client)) == 2
        )

    wait_for(are_there)
    client.run(set_status, Status.running)
    cluster.scheduler.allowed_failures = 3
    yield cluster
    # Nothing of a run stays, neither tiles nor models.
    wait_for(lambda: not cluster.scheduler.tasks)
    assert not any(name.startswith("tilewright") for name in cluster.scheduler.worker_plugins)
    assert not any(client.run(shared_names, on_error="ignore").values())


@pytest.fixture
def client(cluster: LocalCluster, nannies: tuple[LocalCluster, Client]) -> Client:
    return nannies[1]


def processes_of(client: Client) -> dict[str, int]:
    """Return the process of each worker that answers."""
    try:
        found = client.run(os.getpid, on_error="ignore")
    except (KeyError, OSError):
        # One of them has just died.
        return {}
    return {address: pid for address, pid in found.items() if isinstance(pid, int)}


def set_status(status: Status, dask_worker: Worker) -> None:
    dask_worker.status = status


def shared_names() -> list[str]:
    return list(sharing._shared)


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


# --- Runs.


@pytest.fixture(scope="module", autouse=True)
def _small_units() -> Iterator[None]:
    """An image of this size would be one unit otherwise, or a few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "SMALL_UNIT_NBYTES", 0)
        yield


@pytest.fixture
def signals(tmp_path: Path) -> Path:
    (tmp_path / "signals").mkdir()
    return tmp_path / "signals"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "raw.zarr"
    zarr.create_array(path, data=IMAGE, chunks=(25, 31))
    return path


class Run:
    """An image is predicted on the cluster, or by a trainer that hands tiles over to it."""

    def __init__(self, folder: Path, source: Path, producer: str, unbroken: dict[str, bytes]) -> None:
        self.producer = producer
        self.unbroken = unbroken
        self.source = source
        self.output = folder / "raw.zarr"

    def __call__(self, model: Any, client: Client, store: Any = None, **options: Any) -> Any:
        """Return the report."""
        if self.producer == "trainer":
            return self._hand_over(model, client, store, **options)
        return tw.predict_to_zarr(
            model,
            self.source,
            store or self.output,
            axes="YX",
            layout=self.producer,
            client=client,
            progress=False,
            **TILES,
            **STORED,
            **options,
        )

    def start(self, model: Any, client: Client, store: Any = None, **options: Any) -> Running:
        return Running(lambda: self(model, client, store, **options))

    def _hand_over(self, model: Any, client: Client, store: Any, **options: Any) -> Any:
        dataset = tw.IterableTiledPredDataset([self.source], "YX", *TILES.values())
        trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset, batch_size=2))
        strategy = tw.WriteTilesZarr(client, **STORED, **options)
        with pytest.MonkeyPatch.context() as patch:
            if store is not None:
                patch.setattr(Output, "at", classmethod(lambda cls, *_, **__: cls(store)))
            strategy.prepare(trainer, self.output.parent)
            items = list(dataset)
            for start in range(0, len(items), 2):
                tiles, infos = batch = tw.collate_tiles(items[start : start + 2])
                prediction = model(tiles.numpy())
                strategy.write_batch(trainer, None, (prediction, infos), None, batch, start, 0, self.output.parent)
            (report,) = strategy.finalize()
        return report

    def check(self, report: Any) -> None:
        """All is there, and as a run that nothing happens to leaves it."""
        assert report.given_up == {}
        assert report.kept_unit_count + report.unit_count == report.plan.unit_count
        assert tw.verify(self.output, progress=False).is_complete
        assert self.tree() == self.unbroken

    def tree(self) -> dict[str, bytes]:
        """Return every file of the output, and what is in it."""
        paths = [path for path in self.output.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.output)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def unbroken(source: Path, embedded: Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that nothing happens to leaves."""
    run = Run(tmp_path_factory.mktemp("unbroken"), source, "compact", {})
    np.testing.assert_array_equal(run(np.negative, embedded).array[...], -IMAGE)
    return run.tree()


@pytest.fixture
def run(tmp_path: Path, source: Path, unbroken: dict[str, bytes], request: pytest.FixtureRequest) -> Run:
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return Run(tmp_path, source, parameters.get("producer", parameters.get("layout", "compact")), unbroken)


# --- Workers that die.


@LAYOUTS
def test_a_worker_that_is_killed_while_it_predicts_loses_nothing(
    layout: str, client: Client, run: Run, signals: Path
) -> None:
    running = run.start(Waits(signals), client)
    os.kill(waiting_process(signals, "predicting"), signal.SIGKILL)
    (signals / "go").touch()
    run.check(running.end())


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


@PRODUCERS
def test_all_workers_may_die_at_once(producer: str, client: Client, run: Run, signals: Path) -> None:
    running = run.start(Waits(signals), client)
    waiting_process(signals, "predicting")
    processes = set(processes_of(client).values())
    assert len(processes) == 2
    for process in processes:
        os.kill(process, signal.SIGKILL)
    (signals / "go").touch()
    run.check(running.end())
    assert not processes & set(processes_of(client).values())


# --- Workers that a tile kills.


def check_given_up(error: UnitGivenUpError, output: Path, batch_size: int) -> None:
    """Exactly the units of the bad tile are given up, and all others are written."""
    plan: WritePlan = error.report.plan
    batches = [
        tiles[i : i + batch_size]
        for tiles in map(plan.tiles_starting_in, range(plan.unit_count))
        for i in range(0, len(tiles), batch_size)
    ]
    (bad,) = [batch for batch in batches if any((seen_by(plan, tile) == ELEMENT).any() for tile in batch)]
    units = sorted({unit for tile in bad for unit in plan.units_of_tile(tile)})
    assert 0 < len(units) < plan.unit_count
    assert sorted(error.report.given_up) == units
    assert error.report.unit_count == plan.unit_count - len(units)
    assert tw.verify(output, progress=False).conditions == dict.fromkeys(units, "given up")
    expected = -IMAGE
    for unit in units:
        expected[*(slice(*interval) for interval in plan.unit_region(unit))] = 0
    np.testing.assert_array_equal(zarr.open_array(output / "0", mode="r")[...], expected)


def seen_by(plan: WritePlan, tile: int) -> np.ndarray:
    """What the model sees of a tile."""
    position = plan.tile_position(tile)
    return IMAGE[*(slice(*tiling.read(index)) for tiling, index in zip(plan.tilings, position, strict=True))]


@pytest.mark.parametrize(("layout", "allowed_failures"), [("compact", 1), ("aligned", 0)])
def test_a_tile_that_kills_each_worker_is_given_up_and_no_other(
    layout: str, allowed_failures: int, cluster: LocalCluster, client: Client, run: Run, signals: Path
) -> None:
    cluster.scheduler.allowed_failures = allowed_failures
    model = Kills(signals, 100)
    with pytest.raises(UnitGivenUpError, match="KilledWorker") as caught:
        run(model, client)
    check_given_up(caught.value, run.output, batch_size=1)
    # Once among others, as often as Dask allows, and once more alone.
    assert 2 <= model.deaths <= 2 * (allowed_failures + 1)
    (signals / "cured").touch()
    report = run(model, client, if_exists="resume")
    assert report.unit_count == len(caught.value.report.given_up)
    run.check(report)


@LAYOUTS
def test_workers_that_die_now_and_then_are_nobodys_fault(
    layout: str, cluster: LocalCluster, client: Client, run: Run, signals: Path
) -> None:
    # Dask blames every task that a worker dies with.
    cluster.scheduler.allowed_failures = 0
    model = Kills(signals, 1)
    run.check(run(model, client))
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


@LAYOUTS
def test_workers_that_join_later_take_their_part(
    layout: str, cluster: LocalCluster, client: Client, run: Run, signals: Path
) -> None:
    cluster.scale(1)
    wait_for(lambda: len(cluster.scheduler.workers) == 1)
    model = EachProcessWaits(signals)
    running = run.start(model, client)
    assert len(wait_for(model.waiting)) == 1
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
        # Nobody takes a tile.
        wait_for(lambda: len(in_vain) > 1)
    # What was begun ends; nothing else begins.
    wait_for(lambda: not any(client.run(is_busy).values()))
    assert not running.has_ended
    client.run(set_status, Status.running)
    run.check(running.end())


# --- Schedulers that go away.


@pytest.fixture
def other_cluster(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """A scheduler and a worker that are processes of their own, as on a cluster of machines."""
    file = tmp_path / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    options = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *options, *more],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, more in (("dask_scheduler", ["--port", "0"]), ("dask_worker", ["--nworkers", "2", "--nthreads", "1"]))
    ]
    try:
        wait_for(file.exists)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=SECONDS)
            yield processes[0], client
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("producer", ["compact", "trainer"])
def test_where_the_scheduler_is_killed_the_rest_can_be_written_on_another_cluster(
    producer: str,
    other_cluster: tuple[subprocess.Popen[bytes], Client],
    client: Client,
    run: Run,
    signals: Path,
) -> None:
    scheduler, lost_client = other_cluster
    store = WaitingStore(run.output, signals)
    running = run.start(Model(signals), lost_client, store)
    waiting_process(signals, "writing")
    folder = LedgerFolder(run.output.with_name(f"{run.output.name}.ledger"))
    # Of the units behind the one that waits, on the same worker, nobody knows.
    wait_for(lambda: len(folder.records()) > 0)
    scheduler.kill()
    with pytest.raises(ClusterGoneError, match="what was written is complete, the rest is missing"):
        running.end(20)
    assert not (folder.path / "lock").exists()
    found = tw.verify(run.output, progress=False)
    assert set(found.conditions.values()) == {"missing"}
    assert len(found.conditions) == found.plan.unit_count - len(folder.records())
    assert not found.writer
    report = run(Model(signals), client, if_exists="resume")
    assert report.unit_count == len(found.conditions)
    run.check(report)


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
