"""Clusters, disks and outputs of the tests of this folder."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dask
import pytest
import zarr
from distributed import Client, LocalCluster
from distributed.core import Status
from tests.faults import giving_up
from tests.faults.resuming import CLIENTS, IMAGE, Company, copy_of, predict
from tests.faults.stopping import run_client
from tests.faults.support import LOCAL, ROOT, are_there, set_status, wait_for

from tilewright.plan.choice import group
from tilewright.transport import sharing
from tilewright.transport.clients import shares_memory

# --- Clusters.


@pytest.fixture(scope="module")
def current(embedded: Client) -> Iterator[Client]:
    """The cluster of two threads in this process, as the current one."""
    with embedded.as_current():
        yield embedded


@pytest.fixture
def processes(two_processes: Client) -> Iterator[Client]:
    """The cluster of two other processes, as the current one."""
    with two_processes.as_current():
        yield two_processes


@pytest.fixture(params=["embedded", "processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[Client]:
    """Each of both as the current one."""
    client: Client = request.getfixturevalue(request.param)
    with client.as_current():
        yield client


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
    wait_for(lambda: are_there(cluster, client))
    client.run(set_status, Status.running)
    cluster.scheduler.allowed_failures = 3
    yield cluster
    # Nothing of a run stays, neither tiles nor models; of what is scattered during a restart, Dask may keep the name.
    wait_for(lambda: not any(task.who_wants or task.who_has for task in cluster.scheduler.tasks.values()))
    assert not any(name.startswith("tilewright") for name in cluster.scheduler.worker_plugins)
    assert not any(client.run(shared_names, on_error="ignore").values())


@pytest.fixture
def mortal(cluster: LocalCluster, nannies: tuple[LocalCluster, Client]) -> Client:
    return nannies[1]


def shared_names() -> list[str]:
    return list(sharing._shared)


@pytest.fixture
def signals(tmp_path: Path) -> Path:
    """A folder by whose files a test and other processes talk."""
    (tmp_path / "signals").mkdir()
    return tmp_path / "signals"


# --- Outputs.


@pytest.fixture(scope="module")
def small_units() -> Iterator[None]:
    """An image of this size would be one unit otherwise, or a few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "SMALL_UNIT_NBYTES", 0)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of which every element is another one."""
    path = tmp_path_factory.mktemp("source") / "raw.zarr"
    zarr.create_array(path, data=giving_up.IMAGE, chunks=(25, 31))
    return path


@pytest.fixture(scope="module")
def finished(embedded: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output."""
    output = tmp_path_factory.mktemp("finished") / "out.zarr"
    predict(output, Company(), client=embedded)
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, for one test."""
    return copy_of(finished, tmp_path)


# --- Clients and commands that are asked to stop.


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a source; what waits at its gate is let go at the end, also where a test fails."""
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE, chunks=(48, 48))
    yield tmp_path
    (tmp_path / "go").touch()


@pytest.fixture
def start_client(folder: Path) -> Iterator[Callable[..., BaseProcess]]:
    """Start a client process that comes to the gate, and end it at last."""
    started: list[BaseProcess] = []

    def start(options: dict[str, Any], client: Client | None = None, threads: int = 2) -> BaseProcess:
        address = None if client is None or shares_memory(client) else client.scheduler.address
        process = CLIENTS.Process(target=run_client, args=(folder, options, address, threads))
        process.start()
        started.append(process)
        wait_for(lambda: (folder / "running").exists() or not process.is_alive(), "the client to come to the gate")
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def start_command(folder: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command, as a shell in the foreground does, and kill it at last."""
    started: list[subprocess.Popen[str]] = []
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "import runpy; runpy.run_module('tilewright.cli', run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
