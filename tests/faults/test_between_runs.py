"""What once went wrong between runs of one output does not any more."""

import errno
import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import tifffile
from distributed import Client, LocalCluster
from tests.faults.resuming import (
    CLIENTS,
    IMAGE,
    LAST,
    Company,
    flip,
    ledger_of,
    object_files,
    predict,
    records_in,
    resume,
)
from tests.faults.stopping import ALIGNED, Disk
from tests.faults.support import LOCAL, wait_for
from tests.support import tree
from zarr.storage import LocalStore

import tilewright as tw
from tilewright.errors import DestinationError, DestinationExistsError, ResumeError
from tilewright.ledger.records import RECORD_NBYTES

pytestmark = pytest.mark.usefixtures("current")


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


def threads_that_predict() -> int:
    return sum(
        any(walked.f_code.co_name == "_produce" for walked, _ in traceback.walk_stack(frame))
        for frame in sys._current_frames().values()
    )


def test_a_client_that_is_not_the_current_one_checks(two_processes: Client, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    predict(output, Company(), client=two_processes)
    flip(object_files(output)[0])
    assert len(tw.verify(output, client=two_processes, progress=False).conditions) == 1
    assert resume(output, Company(), client=two_processes).unit_count == 1


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


def test_a_ledger_that_does_not_fit_the_disk_ends_the_run_and_keeps_whole_records(disk: Disk, tmp_path: Path) -> None:
    image = np.tile(IMAGE, (2, 2))
    output, ledger = tmp_path / "out.zarr", disk.path / "ledger"
    with pytest.raises(DestinationError, match="could not write the ledger: No space left") as caught:
        predict(output, Fills(disk, at=20), image, ledger=ledger)
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
    report = resume(output, Fills(disk, at=0), image, ledger=ledger)
    assert report.kept_unit_count == len(recorded) > 0
    np.testing.assert_array_equal(report.array[...], -image)
    assert tw.verify(output, ledger=ledger, progress=False).is_complete


@pytest.mark.timeout(60)
def test_a_disk_that_is_full_from_the_start_is_named_and_leaves_no_lock(disk: Disk) -> None:
    filler = disk.fill()
    output = disk.path / "out.zarr"
    with pytest.raises(DestinationError, match="No space left") as caught:
        predict(output, Company())
    assert caught.value.errno == errno.ENOSPC
    assert not ledger_of(output).exists()
    filler.unlink()
    disk.enlarge(2**22)
    since = monotonic()
    resume(output, Company())
    assert monotonic() - since < 10


@pytest.mark.parametrize(
    ("if_exists", "faster", "error", "words"),
    [
        ("fail", {}, DestinationExistsError, "exists and is left as it is"),
        ("resume", {"memory_nbytes": 2**20}, ResumeError, "run this one again"),
    ],
)
def test_an_output_that_was_made_meanwhile_is_left_as_it_is(
    if_exists: str, faster: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"

    def another_run_is_faster(_plan: Any) -> None:
        predict(output, Company(), **faster)

    with pytest.raises(error, match=words):
        predict(output, Company(), if_exists=if_exists, on_plan=another_run_is_faster)
    assert tw.verify(output, progress=False).is_complete


def test_a_task_of_a_run_that_is_over_writes_nothing_into_the_next_output(tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    with (
        LocalCluster(n_workers=2, threads_per_worker=3, dashboard_address=LOCAL, silence_logs=50) as cluster,
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


def test_a_source_that_moved_may_be_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "raw.tif", IMAGE, photometric="minisblack")
    output = tmp_path / "out.zarr"
    predict(output, Company(), tmp_path / "raw.tif")
    whole = tree(output)
    flip(object_files(output)[0])
    moved = (tmp_path / "raw.tif").rename(tmp_path / "moved.tif")
    assert tw.repair(output, Company(), moved, progress=False).unit_count == 1
    assert tree(output) == whole


def test_a_ledger_of_another_output_or_inside_its_own_is_refused(tmp_path: Path) -> None:
    output, ledger = tmp_path / "a.zarr", tmp_path / "ledger"
    predict(output, Company(), ledger=ledger)
    for other, place in ((tmp_path / "b.zarr", ledger), (tmp_path / "c.zarr", tmp_path / "c.zarr" / "ledger")):
        with pytest.raises(DestinationError, match="ledger"):
            predict(other, np.negative, ledger=place)
        assert not other.exists()
    assert tw.verify(output, ledger=ledger, progress=False).is_complete


def test_a_link_to_an_output_is_that_output(output: Path) -> None:
    link = output.with_name("link.zarr")
    link.symlink_to(output)
    assert tw.verify(link, progress=False).is_complete
    assert resume(link, Company()).unit_count == 0


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
