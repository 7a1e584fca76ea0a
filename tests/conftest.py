"""Settings and clusters that all tests share."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Worker processes are forked from a server that has imported what they need: each starts in a moment, not in seconds.
# It must be said before distributed is imported.
os.environ.setdefault("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "forkserver")

# All outputs have one date: those of two runs are compared byte by byte.
os.environ.setdefault("SOURCE_DATE_EPOCH", "0")

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context
from hypothesis import HealthCheck, settings

from tests.support import Disk
from tilewright.transport.clients import open_embedded_cluster

settings.register_profile("default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# The models of the tests travel to worker processes by the name of their module; these inherit the path of this one.
TESTS = Path(__file__).parent
ROOT = str(TESTS.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

if (context := get_mp_context()).get_start_method() == "forkserver":
    context.set_forkserver_preload(
        ["distributed", "torch", "tilewright.executors.remote", "tilewright.model.predictor"]
    )

CLUSTERS = {"client", "cluster", "embedded", "processes", "scheduler", "two_processes"}
"""Fixtures that start a cluster."""
SLOW = {
    "cluster/test_trainers.py": "",
    "cluster/test_out_of_core.py": "",
    "faults": "",
    "conformance/test_strategies.py": "any_order.*WriteTilesZarr",
    "unit/test_write_tiles_zarr.py": "any_order|after_an_error|never_hold|cannot_be_written|little_in|two_proc",
    "unit/test_image_strategies.py": "other_processes|many_chunks",
}
"""Folders and modules whose tests take seconds, and what their names contain where not all of them do."""
QUICK = {"test_replacing.py"}
"""Modules of a slow folder that take a moment."""


def pytest_configure(config: pytest.Config) -> None:
    """Draw fewer examples for the quick tests."""
    if "not slow" in config.option.markexpr:
        settings.register_profile("quick", parent=settings.default, max_examples=20)
        settings.load_profile("quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and by the clusters that they use."""
    for item in items:
        if not item.path.is_relative_to(TESTS):
            continue
        place = item.path.relative_to(TESTS).as_posix()
        folder = place.partition("/")[0]
        if folder == "faults":
            item.add_marker("faults")
        if folder == "cluster" or CLUSTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("cluster")
        names = SLOW.get(place, SLOW.get(folder))
        if names is not None and item.path.name not in QUICK and re.search(names, item.name):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def embedded() -> Iterator[Client]:
    """A cluster of two threads in this process."""
    with open_embedded_cluster(threads=2) as client:
        yield client


@pytest.fixture(scope="session")
def two_processes() -> Iterator[Client]:
    """A cluster of two other processes."""
    with (
        dask.config.set({"distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": False}),
        LocalCluster(processes=True, n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A real file system of a few chunks."""
    disk = Disk(tmp_path / "disk")
    disk.mount(300_000)
    yield disk
    disk.unmount()


@pytest.fixture
def small_disk(disk: Disk) -> Path:
    """The same, of a few pages."""
    disk.enlarge(2**16)
    return disk.path
