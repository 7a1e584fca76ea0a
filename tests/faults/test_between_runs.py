"""What once went wrong between runs of one output does not any more."""

# Fixtures come from other modules of this folder.
# ruff: noqa: F811

import errno
import functools
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
from distributed import Client, LocalCluster
from tests.faults.test_resume import (
    CLIENTS,
    IMAGE,
    LAST,
    Company,
    flip,
    ledger_of,
    object_files,
    predict,
    records_in,
    wait_for,
)
from tests.faults.test_stopping import (  # noqa: F401
    Disk,
    Gated,
    ask_to_stop,
    assert_goes_on,
    disk,
    folder,
    outcome_of,
    start_client,
)
from tests.support import tree
from zarr.storage import LocalStore

import tilewright as tw
from tilewright.errors import DestinationError, DestinationExistsError, ResumeError
from tilewright.ledger.records import RECORD_NBYTES


class WaitsAtTheEnd:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if (tiles == LAST).any():
            (self.folder / "running").touch()
            wait_for((self.folder / "go").exists, "the test")
            (self.folder / "gone").touch()
        return tiles


def run_straggler(folder: Path, address: str) -> None:
    with Client(address, set_as_default=False) as client:
        predict(folder / "out.zarr", WaitsAtTheEnd(folder), client=client, grace_seconds=0.5, **ALIGNED)


ALIGNED = {"layout": "aligned", "memory_nbytes": 2**17}


def threads_that_predict() -> int:
    return sum(
        any(walked.f_code.co_name == "_produce" for walked, _ in traceback.walk_stack(frame))
        for frame in sys._current_frames().values()
    )


@pytest.fixture
def output(embedded: Client, tmp_path: Path) -> Path:
    predict(tmp_path / "out.zarr", Company(), client=embedded)
    return tmp_path / "out.zarr"


def test_a_client_that_is_not_the_current_one_checks(two_processes: Client, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    predict(output, Company(), client=two_processes)
    flip(object_files(output)[0])
    assert len(tw.verify(output, client=two_processes, progress=False).conditions) == 1
    assert predict(output, Company(), client=two_processes, if_exists="resume").unit_count == 1


@dataclass
class Fills:
    """Fill a disk at one call."""

    disk: Disk
    at: int
    calls: int = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.at:
            self.disk.fill()
        return -tiles


def test_a_ledger_that_does_not_fit_the_disk_ends_the_run_and_keeps_whole_records(
    disk: Disk, embedded: Client, tmp_path: Path
) -> None:
    image = np.tile(IMAGE, (2, 2))
    output, ledger = tmp_path / "out.zarr", disk.path / "ledger"
    with pytest.raises(DestinationError, match="could not write the ledger: No space left") as caught:
        predict(output, Fills(disk, at=20), image, client=embedded, ledger=ledger)
    (file,) = ledger.glob("*.ledger")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(file)
    raw = file.read_bytes()
    assert (len(raw) - 2 * (raw.index(b"\n") + 1)) % RECORD_NBYTES == 0
    recorded = {record.unit for record in records_in(file)}
    (disk.path / "filler").unlink()
    conditions = tw.verify(output, ledger=ledger, progress=False).conditions
    assert set(conditions.values()) == {"missing"}
    assert recorded.isdisjoint(conditions)
    report = predict(output, Fills(disk, at=0), image, client=embedded, ledger=ledger, if_exists="resume")
    assert report.kept_unit_count == len(recorded) > 0
    np.testing.assert_array_equal(report.array[...], -image)
    assert tw.verify(output, ledger=ledger, progress=False).is_complete


@pytest.mark.timeout(60)
def test_a_disk_that_is_full_from_the_start_is_named_and_leaves_no_lock(disk: Disk, embedded: Client) -> None:
    filler = disk.fill()
    output = disk.path / "out.zarr"
    with pytest.raises(DestinationError, match="No space left") as caught:
        predict(output, Company(), client=embedded)
    assert caught.value.errno == errno.ENOSPC
    assert not ledger_of(output).exists()
    filler.unlink()
    disk.enlarge(2**22)
    since = monotonic()
    predict(output, Company(), client=embedded, if_exists="resume")
    assert monotonic() - since < 10


@pytest.mark.parametrize(
    ("if_exists", "faster", "error", "words"),
    [
        ("fail", {}, DestinationExistsError, "exists and is left as it is"),
        ("resume", {"memory_nbytes": 2**20}, ResumeError, "run this one again"),
    ],
)
def test_an_output_that_somebody_made_meanwhile_is_left_as_it_is(
    if_exists: str, faster: dict[str, Any], error: type[Exception], words: str, embedded: Client, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"

    def somebody_is_faster(_plan: Any) -> None:
        predict(output, Company(), client=embedded, **faster)

    with pytest.raises(error, match=words):
        predict(output, Company(), client=embedded, if_exists=if_exists, on_plan=somebody_is_faster)
    assert tw.verify(output, progress=False).is_complete


def test_a_client_that_was_killed_and_not_yet_waited_for_is_dead(
    folder: Path, start_client: Any, embedded: Client
) -> None:
    process = start_client({})
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not _runs(process.pid), "it to die")
    assert tw.verify(folder / "out.zarr", progress=False).writer == ""
    assert_goes_on(folder, {}, embedded)


def _runs(process: int) -> bool:
    """Whether a process does anything; whoever starts another one here waits for the dead ones too."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("second", [None, signal.SIGINT])
def test_grace_is_kept_in_the_embedded_cluster(second: int | None, folder: Path, start_client: Any) -> None:
    process = start_client({"grace_seconds": 1.0 if second is None else 60.0})
    ask_to_stop(process.pid, signal.SIGINT, folder)
    if second is not None:
        os.kill(process.pid, second)
    process.join(15)
    assert not process.is_alive()
    assert outcome_of(folder)["error"] == ("RunStoppedError" if second is None else "KeyboardInterrupt")


def test_a_task_of_a_run_that_is_over_writes_nothing_into_the_next_output(tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    with (
        LocalCluster(n_workers=2, threads_per_worker=3, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        process = CLIENTS.Process(target=run_straggler, args=(tmp_path, cluster.scheduler_address))
        process.start()
        wait_for((tmp_path / "running").exists, "the last tile")
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        predict(output, np.negative, client=client, if_exists="overwrite", **ALIGNED)
        whole = tree(output)
        (tmp_path / "go").touch()
        wait_for((tmp_path / "gone").exists, "the last tile to be predicted")
        # Until its task has ended.
        wait_for(lambda: not any(client.run(threads_that_predict).values()), "the task to end")
        assert tree(output) == whole


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [12, 48]}}),
        ("data_type", "int32"),
        ("shape", [240, 287]),
        ("codecs", [{"name": "bytes", "configuration": {"endian": "little"}}]),
        ("fill_value", 5),
    ],
)
def test_another_array_is_not_proven_complete(name: str, value: Any, output: Path) -> None:
    file = output / "0" / "zarr.json"
    metadata = json.loads(file.read_bytes()) | {name: value}
    if name == "data_type":
        metadata["fill_value"] = 0
    file.write_text(json.dumps(metadata))
    verification = tw.verify(output, progress=False)
    assert not verification.is_complete
    assert name in str(verification)


@pytest.mark.parametrize("lost", [".", "0/zarr.json", "zarr.json"])
def test_what_is_gone_is_found_and_written_anew(lost: str, output: Path, embedded: Client) -> None:
    whole = tree(output)
    path = output / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert not tw.verify(output, progress=False).is_complete
    if lost != "zarr.json":
        with pytest.raises(ResumeError, match=r"is gone, .*if_exists='resume'"):
            tw.repair(output, Company(), IMAGE, client=embedded, progress=False)
    predict(output, Company(), client=embedded, if_exists="resume")
    assert tree(output) == whole


def test_a_source_that_moved_may_be_named(embedded: Client, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "raw.tif", IMAGE, photometric="minisblack")
    output = tmp_path / "out.zarr"
    predict(output, Company(), tmp_path / "raw.tif", client=embedded)
    whole = tree(output)
    flip(object_files(output)[0])
    moved = (tmp_path / "raw.tif").rename(tmp_path / "moved.tif")
    assert tw.repair(output, Company(), moved, client=embedded, progress=False).unit_count == 1
    assert tree(output) == whole


def scaled(tiles: np.ndarray, by: float) -> np.ndarray:
    return by * tiles


def mapped(folder: Path, **options: Any) -> np.memmap:
    return np.memmap(folder / "raw", "float32", "r", shape=IMAGE.shape, **options)


Options = Callable[[Path], dict[str, Any]]
ELSE: dict[str, tuple[Options, Options, str]] = {
    # What a run was begun from, and what is something else.
    "another part of a raw file": (
        lambda folder: {"source": mapped(folder)},
        lambda folder: {"source": mapped(folder, offset=IMAGE.nbytes)},
        "source: ",
    ),
    "another order of a raw file": (
        lambda folder: {"source": mapped(folder)},
        lambda folder: {"source": mapped(folder, order="F")},
        "source: ",
    ),
    "another dimension": (
        lambda folder: {"chunks": "auto"},
        lambda folder: {"source": IMAGE[np.newaxis], "axes": "ZYX", "tile_size": (1, 48, 48), "overlap": (0, 12, 12)},
        "source axes: YX then, ZYX now",
    ),
    "shards that were not asked for": (lambda folder: {}, lambda folder: {"shards": "auto"}, "shards: None then"),
    "another argument of a partial function": (
        lambda folder: {"model": functools.partial(scaled, by=2)},
        lambda folder: {"model": functools.partial(scaled, by=3)},
        "model: ",
    ),
    "another partial function": (
        lambda folder: {"model": functools.partial(scaled, by=2)},
        lambda folder: {"model": functools.partial(np.add, 2)},
        "model: ",
    ),
}


@pytest.mark.parametrize("what", ELSE)
def test_something_else_is_told_from_the_same_made_again(what: str, embedded: Client, tmp_path: Path) -> None:
    first, other, words = ELSE[what]
    np.stack([IMAGE, IMAGE[::-1]]).tofile(tmp_path / "raw")
    always = {"destination": tmp_path / "out.zarr", "model": Company(), "client": embedded}
    predict(**always | first(tmp_path))
    again = always | first(tmp_path) | {"if_exists": "resume"}
    assert predict(**again).unit_count == 0
    with pytest.raises(ResumeError, match=words):
        predict(**again | other(tmp_path))


def test_a_ledger_of_another_output_or_inside_its_own_is_refused(embedded: Client, tmp_path: Path) -> None:
    output, ledger = tmp_path / "a.zarr", tmp_path / "ledger"
    predict(output, Company(), client=embedded, ledger=ledger)
    for other, place in ((tmp_path / "b.zarr", ledger), (tmp_path / "c.zarr", tmp_path / "c.zarr" / "ledger")):
        with pytest.raises(DestinationError, match="ledger"):
            predict(other, np.negative, client=embedded, ledger=place)
        assert not other.exists()
    assert tw.verify(output, ledger=ledger, progress=False).is_complete


def test_a_link_to_an_output_is_that_output(output: Path, embedded: Client) -> None:
    link = output.with_name("link.zarr")
    link.symlink_to(output)
    assert tw.verify(link, progress=False).is_complete
    assert predict(link, Company(), client=embedded, if_exists="resume").unit_count == 0


def test_a_relative_store_is_where_the_client_means_it(
    two_processes: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = two_processes.run(os.getcwd)
    two_processes.run(os.chdir, str(elsewhere))
    try:
        report = predict(LocalStore("out.zarr"), np.negative, client=two_processes)
    finally:
        for worker, folder in before.items():
            two_processes.run(os.chdir, folder, workers=[worker])
    assert not list(elsewhere.iterdir())
    np.testing.assert_array_equal(report.array[...], -IMAGE)
