"""What comes through a door is predicted right, or refused by an error of ours before anything is created."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

import tilewright as tw
from tilewright.errors import TilewrightError

IMAGE = np.random.default_rng(3).integers(1, 200, (40, 56)).astype("float32")
"""No element is the fill value."""
REQUEST: dict[str, Any] = {"axes": "YX", "tile_size": (24, 24), "overlap": (8, 8), "progress": False}


def negated(tiles: np.ndarray) -> np.ndarray:
    return -tiles


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Two worker processes that were started in another working folder."""
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    try:
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0")
    finally:
        os.chdir(here)
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(params=["embedded", "elsewhere"])
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(executor: str, request: pytest.FixtureRequest) -> Client:
    return request.getfixturevalue(executor)  # type: ignore[no-any-return]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of this process alone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


Predict = Callable[..., tw.Report]


@pytest.fixture
def predict(client: Client, folder: Path) -> Predict:
    """Predict on one of the clusters; where that is refused, by an error of ours, and nothing is left."""

    def call(model: Any = negated, source: Any = IMAGE, destination: Any = "out.zarr", **options: Any) -> tw.Report:
        before = sorted(folder.rglob("*"))
        try:
            return tw.predict_to_zarr(model, source, destination, client=client, **REQUEST | options)
        except Exception as error:
            assert isinstance(error, TilewrightError) or is_raised_here(error), repr(error)  # noqa: PT017
            assert sorted(folder.rglob("*")) == before
            raise

    return call


def is_raised_here(error: Exception) -> bool:
    """Tell whether a built-in error was raised by the project, and not merely passed on."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = "" if traceback is None else traceback.tb_frame.f_code.co_filename
    return isinstance(error, ValueError | TypeError | OSError) and "tilewright" in where
