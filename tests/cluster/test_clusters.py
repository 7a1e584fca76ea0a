"""What reaches worker processes, what comes back from them, and what stays there."""

import os
import traceback
import warnings
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, current_thread
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from distributed import Client, default_client
from tests.support import BreaksOn, CallCounter, LayerError, NotingFactory, noted, tree
from zarr.storage import MemoryStore

import tilewright as tw
from tilewright.errors import SourceError
from tilewright.transport import sharing
from tilewright.transport.clients import open_embedded_cluster

IMAGE = np.random.default_rng(7).integers(1, 255, (60, 64)).astype("uint8")
REQUEST = {"axes": "YX", "tile_size": (16, 16), "overlap": (4, 4), "progress": False}
CLUSTERS = ["embedded", "two_processes"]


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Client:
    return request.getfixturevalue(request.param)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    array = zarr.create_array(tmp_path / "raw.zarr", shape=IMAGE.shape, dtype="uint8", chunks=(16, 16))
    array[...] = IMAGE
    return tmp_path / "raw.zarr"


@pytest.mark.parametrize("client", CLUSTERS, indirect=True)
def test_a_factory_is_called_once_in_each_process(client: Client, source: Path, tmp_path: Path) -> None:
    factory = NotingFactory(str(tmp_path / "made"))
    tw.predict_to_zarr(factory, source, tmp_path / "out.zarr", client=client, layout="compact", **REQUEST)
    processes = (tmp_path / "made").read_text().split()
    assert len(processes) == len(set(processes)) <= len(client.scheduler_info()["workers"])


@pytest.mark.parametrize("client", CLUSTERS, indirect=True)
def test_a_model_that_fails_on_the_first_tile_shows_its_own_error_and_nothing_is_created(
    client: Client, source: Path, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    with pytest.raises(LayerError, match="layer 3: out of luck") as caught:
        tw.predict_to_zarr(BreaksOn(int(IMAGE[0, 0])), source, tmp_path / "out.zarr", client=client, **REQUEST)
    assert "in raise_in_the_third_layer" in "".join(traceback.format_exception(caught.value))
    assert caught.value.layer == 3
    assert tree(tmp_path) == before


@pytest.mark.parametrize("layout", ["compact", "aligned"])
@pytest.mark.parametrize("client", CLUSTERS, indirect=True)
def test_a_model_that_fails_later_shows_its_own_error_and_where(
    client: Client, layout: str, source: Path, tmp_path: Path
) -> None:
    image = np.ones_like(IMAGE)
    image[-1, -1] = 200
    zarr.open_array(source)[...] = image
    with pytest.raises(LayerError, match="layer 3: out of luck") as caught:
        tw.predict_to_zarr(BreaksOn(200), source, tmp_path / "out.zarr", client=client, layout=layout, **REQUEST)
    text = "".join(traceback.format_exception(caught.value))
    assert "in raise_in_the_third_layer" in text
    assert "after 3 attempts" in text
    assert ":60, X" in text


@pytest.mark.slow
def test_a_source_that_breaks_on_a_worker_is_named(two_processes: Client, source: Path, tmp_path: Path) -> None:
    (source / "c" / "3" / "3").write_bytes(b"short")
    with pytest.raises(SourceError, match=r"could not read Y \d+:\d+, X \d+:\d+ of .*raw\.zarr"):
        tw.predict_to_zarr(np.positive, source, tmp_path / "out.zarr", client=two_processes, **REQUEST)


def test_a_destination_in_the_memory_of_this_process_is_refused_with_the_remedy(
    two_processes: Client, source: Path, tmp_path: Path
) -> None:
    store = MemoryStore()
    model = CallCounter(str(tmp_path / "calls"))
    with pytest.raises(OSError, match=r"lies in the memory of this process.*use a file"):
        tw.predict_to_zarr(model, source, store, client=two_processes, **REQUEST)
    assert noted(tmp_path / "calls") == 0
    assert not store._store_dict


def test_a_source_in_the_memory_of_this_process_is_refused_with_the_remedy(
    two_processes: Client, tmp_path: Path
) -> None:
    array = zarr.create_array(MemoryStore(), shape=IMAGE.shape, dtype="uint8")
    with pytest.raises(SourceError, match=r"lies in the memory of this process.*use a file"):
        tw.predict_to_zarr(np.positive, array, tmp_path / "out.zarr", client=two_processes, **REQUEST)
    assert not (tmp_path / "out.zarr").exists()


def test_a_numpy_array_is_sent_to_the_workers(two_processes: Client, tmp_path: Path) -> None:
    report = tw.predict_to_zarr(np.positive, IMAGE, tmp_path / "out.zarr", client=two_processes, **REQUEST)
    np.testing.assert_array_equal(report.array[...], IMAGE)


def test_a_relative_destination_is_that_of_the_caller(
    two_processes: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tw.predict_to_zarr(np.positive, "raw.zarr", "out.zarr", client=two_processes, **REQUEST)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "out.zarr", mode="r")["0"][...], IMAGE)


@pytest.mark.parametrize("fails", [False, True])
def test_workers_forget_a_run_that_has_ended(fails: bool, two_processes: Client, source: Path, tmp_path: Path) -> None:
    model = BreaksOn(int(IMAGE[0, 0])) if fails else np.positive
    # Clients that other tests have killed could not clean up.
    before = two_processes.run(_shared_names)
    try:
        tw.predict_to_zarr(model, source, tmp_path / "out.zarr", client=two_processes, **REQUEST)
    except LayerError:
        assert fails
    assert two_processes.run(_shared_names) == before


def _shared_names() -> tuple[str, ...]:
    return tuple(sharing._shared)


def test_workers_forget_a_run_in_which_sending_failed_and_its_own_error_stays(
    two_processes: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: SimpleQueue[Thread] = SimpleQueue()

    def scatter(*_: object, **__: object) -> None:
        threads.put(current_thread())
        raise MemoryError("no room to send a tile")

    monkeypatch.setattr(two_processes, "scatter", scatter)
    before = two_processes.run(_shared_names)
    dataset = tw.IterableTiledPredDataset(IMAGE, "YX", (16, 16), (4, 4))
    trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset))
    tile, information = next(iter(dataset))
    writer = tw.WriteTilesZarr(two_processes)
    writer.write_batch(trainer, None, (tile[None], [information]), None, None, 0, 0, tmp_path)
    threads.get(timeout=20).join(20)
    # What is in flight is not waited for, so that the error is found at the very end.
    writer.abort(grace_seconds=0)
    assert two_processes.run(_shared_names) == before


@pytest.mark.parametrize("client", CLUSTERS, indirect=True)
def test_the_cluster_is_still_of_use_afterwards(client: Client, source: Path, tmp_path: Path) -> None:
    with pytest.raises(LayerError):
        tw.predict_to_zarr(BreaksOn(int(IMAGE[0, 0])), source, tmp_path / "out.zarr", client=client, **REQUEST)
    assert client.submit(sum, (1, 2), pure=False).result(timeout=20) == 3


def test_the_current_client_is_used_where_none_is_given(two_processes: Client, source: Path, tmp_path: Path) -> None:
    factory = NotingFactory(str(tmp_path / "made"))
    with two_processes.as_current():
        assert default_client() is two_processes
        tw.predict_to_zarr(factory, source, tmp_path / "out.zarr", **REQUEST)
    workers = {str(process) for process in two_processes.run(os.getpid).values()}
    assert set((tmp_path / "made").read_text().split()) <= workers


def test_embedded_clusters_open_beside_each_other_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_embedded_cluster(threads=1) as first, open_embedded_cluster(threads=1) as second:
            assert first.submit(sum, (1, 2)).result() == second.submit(sum, (1, 2)).result()
