"""A run that was ended, whenever and however, is completed to the bytes of one that was not; what is stored stays.

The models of this module are compared by their code with those of client processes, which pytest does not rewrite:
PYTEST_DONT_REWRITE.
"""

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import CountingStore, empty, identities, lengthen, note, noted, objects, shorten, tree
from zarr.storage import MemoryStore

import tilewright as tw
from tilewright.errors import IncompleteImageError, MemoryPlanError, ResumeError
from tilewright.ledger.header import Header
from tilewright.ledger.ledger import LedgerFolder
from tilewright.ledger.records import RECORD_NBYTES, Record, Status
from tilewright.plan import WritePlan
from tilewright.transport.clients import open_embedded_cluster

# A process that has imported what clients import, and gives birth to them in a fraction of a second.
CLIENTS = multiprocessing.get_context("forkserver")
CLIENTS.set_forkserver_preload(
    [
        "tilewright.prediction",
        "distributed",
        "torch",
        "dask.array",
        "tensorstore",
        "hypothesis",
        "pytest",
        "tests.support",
    ]
)

IMAGE = np.random.default_rng(0).random((240, 288), dtype=np.float32)
LAST = np.float32(2.0)
"""The last element, by which a model knows the last tile."""
IMAGE[-1, -1] = LAST
REQUEST: dict[str, Any] = {
    "axes": "YX",
    "tile_size": (48, 48),
    "overlap": (12, 12),
    "layout": "compact",
    "chunks": (24, 24),
    # Little, so that units are small.
    "memory_nbytes": 2**18,
    "progress": False,
}
RUNS: dict[str, dict[str, Any]] = {
    "compact": {"batch_size": 3},
    "compact and sharded": {"chunks": (12, 12), "shards": (24, 24)},
    "aligned": {"layout": "aligned", "memory_nbytes": 2**17},
    "aligned and sharded": {
        "layout": "aligned",
        "memory_nbytes": 2**17,
        "batch_size": 3,
        "chunks": (12, 12),
        "shards": (24, 24),
    },
}
PATIENCE_SECONDS = 60.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = monotonic() + PATIENCE_SECONDS
    while not condition():
        assert monotonic() < until, f"waited in vain for {what}"
        threading.Event().wait(0.002)


def predict(destination: Any, model: Any, source: Any = IMAGE, **options: Any) -> tw.Report:
    return tw.predict_to_zarr(model, source, destination, **REQUEST | options)


# Lightning gives advice on hardware, and on loggers that one might use.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available.*"),
]


# What is stored, and what the ledger says of it.


def ledger_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.ledger")


def ledger_files(output: Path) -> list[Path]:
    return sorted(ledger_of(output).glob("*.ledger"))


def records_in(file: Path) -> list[Record]:
    """The records of one session, of which the last may be torn."""
    raw = file.read_bytes()
    first = 2 * (raw.index(b"\n") + 1)
    places = range(first, len(raw) - RECORD_NBYTES + 1, RECORD_NBYTES)
    return [record for place in places if (record := Record.from_bytes(raw[place : place + RECORD_NBYTES])) is not None]


def records_of(output: Path) -> list[Record]:
    return [record for file in ledger_files(output) for record in records_in(file)]


def header_of(output: Path) -> Header:
    header = LedgerFolder(ledger_of(output)).header()
    assert header is not None
    return header


def object_files(output: Path) -> list[Path]:
    return sorted(path for path in (output / "0").rglob("*") if path.is_file() and path.name.isdigit())


def files_of_unit(output: Path, plan: WritePlan, unit: int) -> list[Path]:
    return [output.joinpath("0", "c", *map(str, position)) for position in plan.objects_of_unit(unit)]


def unit_of(output: Path, plan: WritePlan, file: Path) -> int:
    return next(unit for unit in range(plan.unit_count) if file in files_of_unit(output, plan, unit))


def tiles_predicted_for(plan: WritePlan, units: set[int], batch_size: int = 1) -> int:
    """How many batches must be predicted to write these units, as `TilePrediction` puts batches together."""
    tiles = {tile for unit in units for tile in plan.tiles_of_unit(unit)}
    batches = set()
    for begun in range(plan.unit_count):
        together = plan.tiles_starting_in(begun)
        batches |= {together[i : i + batch_size] for i in range(0, len(together), batch_size)}
    return sum(1 for batch in batches if tiles.intersection(batch))


# A client process, and what happens to it.


@dataclass
class Company:
    """Add the mean of the whole batch: a tile in other company would come out differently.

    Where it is told to, it lets its process die, or waits for a file, at the last tile of the image, or as soon as the
    ledger has so many records; so no run ends before the test wants it to.
    """

    output: str = ""
    dies_at_record: int | None = None
    waits_for: str = ""
    calls: str = ""

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if self.calls:
            note(self.calls)
        is_last = bool((tiles == LAST).any())
        if self.dies_at_record is not None and (is_last or len(records_of(Path(self.output))) >= self.dies_at_record):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.waits_for and is_last:
            wait_for(Path(self.waits_for).exists, self.waits_for)
        return 2 * tiles + tiles.mean()


def run_client(output: Path, source: Path, model: Company, options: dict[str, Any], address: str | None) -> None:
    """What a client process does."""
    with ExitStack() as opened:
        client = Client(address, set_as_default=False) if address else open_embedded_cluster(threads=2)
        predict(output, model, source, if_exists="resume", client=opened.enter_context(client), **options)


@dataclass
class Moment:
    """When a client is killed."""

    output: Path
    kind: str
    count: int

    def has_come(self) -> bool:
        match self.kind:
            case "records":
                return len(records_of(self.output)) >= self.count
            case "objects":
                return len(object_files(self.output)) >= self.count
            case "a file half-written":
                return any(self.output.rglob("*.partial"))
            case "the lock":
                lock = ledger_of(self.output) / "lock"
                # One that is still empty keeps others for half a minute.
                return lock.exists() and lock.stat().st_size > 0
        raise AssertionError(self.kind)


def kill_client_at(moment: Moment, *arguments: Any) -> None:
    process = CLIENTS.Process(target=run_client, args=arguments)
    process.start()
    wait_for(lambda: moment.has_come() or not process.is_alive(), str(moment))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture
def processes(two_processes: Client) -> Iterator[Client]:
    """The cluster of two other processes, as the current one."""
    with two_processes.as_current():
        yield two_processes


@pytest.fixture
def source(tmp_path: Path) -> Path:
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE, chunks=(48, 48))
    return tmp_path / "raw.zarr"


def assert_is_whole(output: Path, whole: dict[str, bytes]) -> None:
    """It is stored as by a run that nothing befell, and each unit is recorded once."""
    assert tree(output) == whole
    assert not list(output.parent.rglob("*.partial"))
    assert not (ledger_of(output) / "lock").exists()
    assert tw.verify(output, progress=False).is_complete


@pytest.mark.parametrize("run", RUNS)
def test_a_client_that_is_killed_again_and_again_leaves_what_it_has_stored(
    run: str, embedded: Client, source: Path, tmp_path: Path
) -> None:
    options = RUNS[run]
    predict(tmp_path / "whole.zarr", Company(), source, client=embedded, **options)
    chance = random.Random(run)
    kinds = [*["records"] * 4, *["objects"] * 3, *["a file half-written"] * 2, "the lock"]
    output = tmp_path / "out.zarr"
    kept: dict[Path, tuple[int, int]] = {}
    for kind in chance.sample(kinds, len(kinds)):
        recorded, stored = len(records_of(output)), len(object_files(output))
        counts = {"records": recorded + chance.randint(1, 2), "objects": stored + chance.randint(1, 12)}
        # The model itself sees to it that a kill that comes late leaves something for the next one.
        model = Company(str(output), dies_at_record=recorded + 2)
        kill_client_at(Moment(output, kind, counts.get(kind, 1)), output, source, model, options, None)
        assert identities(list(kept)) == kept
        if ledger_files(output):
            plan = header_of(output).plan
            units = [record.unit for record in records_of(output)]
            assert len(set(units)) == len(units)
            kept = identities([file for unit in units for file in files_of_unit(output, plan, unit)])
    assert sum(1 for file in ledger_files(output) if records_in(file)) >= 2
    report = predict(output, Company(), source, if_exists="resume", client=embedded, **options)
    assert report.kept_unit_count > 0
    assert identities(list(kept)) == kept
    assert_is_whole(output, tree(tmp_path / "whole.zarr"))
    assert sorted(record.unit for record in records_of(output)) == list(range(plan.unit_count))


@pytest.mark.parametrize("layout", ["compact", "aligned"])
@pytest.mark.parametrize("begins", ["embedded", "processes"])
def test_a_run_is_completed_on_another_cluster_with_other_memory(
    begins: str, layout: str, embedded: Client, processes: Client, source: Path, tmp_path: Path
) -> None:
    options = {"layout": layout, "batch_size": 3}
    predict(tmp_path / "whole.zarr", Company(), source, client=embedded, **options)
    output, gate = tmp_path / "out.zarr", tmp_path / "gate"
    address = processes.scheduler.address if begins == "processes" else None
    try:
        kill_client_at(Moment(output, "records", 3), output, source, Company(waits_for=str(gate)), options, address)
    finally:
        # Else a worker that others use as well would wait for ever.
        gate.touch()
    before = identities(
        [file for record in records_of(output) for file in files_of_unit(output, header_of(output).plan, record.unit)]
    )
    other = processes if begins == "embedded" else embedded
    report = predict(output, Company(), source, if_exists="resume", client=other, **options | {"memory_nbytes": 2**20})
    assert report.kept_unit_count >= 3
    assert identities(list(before)) == before
    assert_is_whole(output, tree(tmp_path / "whole.zarr"))
    first, second = (Header.from_line(file.read_bytes().partition(b"\n")[0] + b"\n") for file in ledger_files(output))
    assert first is not None
    assert second is not None
    assert (first.plan.arrays, first.plan.tilings) == (second.plan.arrays, second.plan.tilings)
    assert first.plan.peak_live_nbytes < second.plan.peak_live_nbytes


def negated(tiles: np.ndarray) -> np.ndarray:
    return -tiles


# A finished output, of which each test takes a copy.


@pytest.fixture(scope="module")
def finished(embedded: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "out.zarr"
    predict(output, Company(), client=embedded)
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    return copy_of(finished, tmp_path)


def copy_of(finished: Path, folder: Path) -> Path:
    shutil.copytree(finished.parent, folder, dirs_exist_ok=True)
    return folder / finished.name


def cut_ledger(output: Path, record_count: int) -> None:
    """Leave the ledger as it was after so many units."""
    (file,) = ledger_files(output)
    raw = file.read_bytes()
    file.write_bytes(raw[: 2 * (raw.index(b"\n") + 1) + record_count * RECORD_NBYTES])


def test_a_complete_output_is_resumed_without_a_prediction_but_the_first_tile(
    output: Path, embedded: Client, tmp_path: Path
) -> None:
    before = identities(object_files(output))
    report = predict(output, Company(calls=str(tmp_path / "calls")), if_exists="resume", client=embedded)
    assert noted(tmp_path / "calls") == 1
    assert (report.unit_count, report.kept_unit_count) == (0, header_of(output).plan.unit_count)
    assert identities(object_files(output)) == before


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


FAULTS: list[Callable[[Path], None]] = [Path.unlink, shorten, empty, lengthen, flip]


@pytest.mark.parametrize("executor", ["embedded", "processes"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_objects_that_are_not_as_stored_are_written_again_and_no_others(
    batch_size: int, executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = request.getfixturevalue(executor)
    output = tmp_path / "out.zarr"
    predict(output, Company(), client=client, batch_size=batch_size)
    whole, plan, before = tree(output), header_of(output).plan, identities(object_files(output))
    faulty = [files_of_unit(output, plan, unit)[-1] for unit in (0, 2, 3, 7, plan.unit_count - 1)]
    for fault, file in zip(FAULTS, faulty, strict=True):
        fault(file)
    model = Company(calls=str(tmp_path / "calls"))
    report = predict(output, model, if_exists="resume", client=client, batch_size=batch_size)
    units = {unit_of(output, plan, file) for file in faulty}
    assert len(units) == len(FAULTS)
    assert (report.unit_count, report.kept_unit_count) == (len(units), plan.unit_count - len(units))
    # The first tile says what the model returns; in this process that is of use later.
    probed = 1 if executor == "processes" or batch_size > 1 else 0
    assert noted(tmp_path / "calls") == probed + tiles_predicted_for(plan, units, batch_size)
    after = identities(object_files(output))
    changed = {file for file in after if after[file] != before[file]}
    assert changed == {file for unit in units for file in files_of_unit(output, plan, unit)}
    assert_is_whole(output, whole)


@given(data=st.data())
@settings(max_examples=10)
def test_whatever_befalls_the_objects_the_units_that_have_them_are_written_again(
    data: st.DataObject, finished: Path, embedded: Client
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = copy_of(finished, Path(folder))
        whole, plan, files = tree(output), header_of(output).plan, object_files(output)
        faults = data.draw(st.dictionaries(st.sampled_from(files), st.sampled_from(FAULTS), max_size=8))
        for file, fault in faults.items():
            fault(file)
        before = identities([file for file in files if file.exists()])
        report = predict(output, Company(), if_exists="resume", client=embedded)
        units = {unit_of(output, plan, file) for file in faults}
        assert report.unit_count == len(units)
        touched = {file for unit in units for file in files_of_unit(output, plan, unit)}
        after = identities(files)
        assert {file for file in files if after[file] != before.get(file)} == touched
        assert_is_whole(output, whole)


@given(data=st.data())
@settings(max_examples=10)
def test_a_ledger_that_is_torn_or_damaged_costs_the_units_of_the_records_that_it_lost(
    data: st.DataObject, finished: Path, embedded: Client
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = copy_of(finished, Path(folder))
        whole, (file,) = tree(output), ledger_files(output)
        raw = bytearray(file.read_bytes())
        first = 2 * (raw.index(b"\n") + 1)
        place = data.draw(st.integers(first, len(raw) - 1))
        if data.draw(st.booleans()):
            del raw[place:]
        else:
            raw[place] ^= data.draw(st.integers(1, 255))
        records = records_in(file)
        file.write_bytes(raw)
        lost = {record.unit for record in records} - {record.unit for record in records_in(file)}
        report = predict(output, Company(), if_exists="resume", client=embedded)
        assert lost
        assert report.unit_count == len(lost)
        assert_is_whole(output, whole)


def test_a_ledger_of_which_a_header_is_damaged_costs_nothing(output: Path, embedded: Client) -> None:
    whole, (file,) = tree(output), ledger_files(output)
    raw = bytearray(file.read_bytes())
    raw[100] ^= 1
    file.write_bytes(raw)
    assert tw.verify(output, progress=False).is_complete
    assert predict(output, Company(), if_exists="resume", client=embedded).unit_count == 0
    assert_is_whole(output, whole)


def test_a_ledger_of_which_both_headers_are_damaged_is_refused(output: Path, embedded: Client, tmp_path: Path) -> None:
    (file,) = ledger_files(output)
    raw = bytearray(file.read_bytes())
    raw[100] ^= 1
    raw[raw.index(b"\n") + 100] ^= 1
    file.write_bytes(raw)
    before = tree(tmp_path)
    with pytest.raises(ResumeError, match="is damaged: no file of it has a readable header"):
        predict(output, Company(), if_exists="resume", client=embedded)
    assert tree(tmp_path) == before


def test_a_session_whose_header_is_damaged_does_not_spoil_the_others(
    output: Path, embedded: Client, tmp_path: Path
) -> None:
    whole = tree(output)
    cut_ledger(output, 4)
    ledger = ledger_of(output)
    (ledger / "000002.ledger").write_bytes(b"tilewright-ledger-1 nonsense\n" + Record(0, Status.GIVEN_UP).to_bytes())
    report = predict(output, Company(), if_exists="resume", client=embedded)
    assert report.kept_unit_count == 4
    assert [file.name for file in ledger_files(output)] == ["000001.ledger", "000002.ledger", "000003.ledger"]
    assert_is_whole(output, whole)


# Where to begin, and where not.


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "an empty ledger", "the lock of a dead process"])
def test_where_nothing_exists_to_resume_is_to_begin(
    there: str, finished: Path, embedded: Client, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    if there == "an empty folder":
        output.mkdir()
    if there == "an empty ledger":
        ledger_of(output).mkdir()
    if there == "the lock of a dead process":
        # As a client leaves it that is killed before it has begun its ledger.
        moment = Moment(output, "the lock", 1)
        zarr.create_array(tmp_path / "raw.zarr", data=IMAGE)
        kill_client_at(moment, output, tmp_path / "raw.zarr", Company(str(output), dies_at_record=1), {}, None)
        assert moment.has_come()
        shutil.rmtree(output, ignore_errors=True)
        for file in ledger_files(output):
            file.unlink()
    report = predict(output, Company(), if_exists="resume", client=embedded)
    assert report.kept_unit_count == 0
    assert_is_whole(output, tree(finished))


@pytest.mark.parametrize("lost", [".", "0", "0/zarr.json", "zarr.json", "0/c"])
def test_what_of_the_output_was_never_created_or_is_lost_is_created_again(
    lost: str, output: Path, embedded: Client
) -> None:
    whole, plan = tree(output), header_of(output).plan
    if lost == "zarr.json":
        # The group of an array that is not there either: a run was killed between the two.
        (output / "0" / "zarr.json").unlink()
    path = output / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    are_objects_left = bool(object_files(output))
    report = predict(output, Company(), if_exists="resume", client=embedded)
    assert report.kept_unit_count == (plan.unit_count if are_objects_left else 0)
    assert_is_whole(output, whole)


def test_an_output_without_a_ledger_is_neither_resumed_nor_touched(
    output: Path, embedded: Client, tmp_path: Path
) -> None:
    shutil.rmtree(ledger_of(output))
    before = tree(tmp_path)
    with pytest.raises(
        ResumeError, match=r"exists, but its ledger .*out\.zarr\.ledger does not.*if_exists='overwrite'"
    ):
        predict(output, Company(), if_exists="resume", client=embedded)
    assert tree(tmp_path) == before
    assert not ledger_of(output).exists()


@pytest.mark.parametrize(
    ("name", "other"), [("chunk_grid", {"chunks": (48, 48)}), ("data_type", {"dtype": "int32"}), ("shape", {})]
)
def test_another_array_in_the_place_of_the_one_that_was_begun_is_left_alone(
    name: str, other: dict[str, Any], output: Path, embedded: Client, tmp_path: Path
) -> None:
    shutil.rmtree(output / "0")
    array = {"shape": (240, 288 + (name == "shape")), "chunks": (24, 24), "dtype": "float32"} | other
    zarr.create_array(output, name="0", dimension_names=["y", "x"], **array)
    before = tree(tmp_path)
    with pytest.raises(ResumeError, match=rf"is not the one that its ledger .* is about: {name}: .*'overwrite'"):
        predict(output, Company(), if_exists="resume", client=embedded)
    assert tree(tmp_path) == before


def test_attributes_that_somebody_has_added_are_no_other_array(output: Path, embedded: Client) -> None:
    zarr.open_group(output)["0"].attrs["unit"] = "micrometer"
    assert predict(output, Company(), if_exists="resume", client=embedded).unit_count == 0
    assert zarr.open_group(output)["0"].attrs["unit"] == "micrometer"


def test_overwriting_a_part_of_an_output_begins_anew(output: Path, finished: Path, embedded: Client) -> None:
    cut_ledger(output, 4)
    before = identities(object_files(output))
    report = predict(output, Company(), if_exists="overwrite", client=embedded)
    assert report.kept_unit_count == 0
    assert len(ledger_files(output)) == 1
    after = identities(object_files(output))
    assert all(after[file] != before[file] for file in before)
    assert_is_whole(output, tree(finished))


def test_objects_of_the_output_that_was_to_be_overwritten_are_never_taken_for_new_ones(
    output: Path, embedded: Client, tmp_path: Path
) -> None:
    new = tmp_path / "new" / "out.zarr"
    predict(new, negated, client=embedded)
    whole = tree(new)
    # Killed when its ledger had replaced the old one, and not yet its array.
    (old_session,), (new_session,) = ledger_files(output), ledger_files(new)
    cut_ledger(new, 0)
    shutil.copyfile(new_session, old_session)
    report = predict(output, negated, if_exists="resume", client=embedded)
    assert report.kept_unit_count == 0
    assert_is_whole(output, whole)


# What is something else.


OTHERS: dict[str, dict[str, Any]] = {
    "source: array .* then, array .* now": {"source": np.where(IMAGE > 0.99999, 0, IMAGE)},
    "source shape": {"source": IMAGE[:239]},
    "source dtype": {"source": IMAGE.astype("float64")},
    "source axes: YX then, XY now": {"axes": "XY"},
    "axes: YX then, SYX now": {"axes": "SYX", "source": IMAGE[np.newaxis]},
    "model: .*Company, code .* then, .*negated, code .* now": {"model": negated},
    r"tile size: \[48, 48\] then, \[40, 48\] now": {"tile_size": (40, 48)},
    r"overlap: \[12, 12\] then, \[10, 12\] now": {"overlap": (10, 12)},
    "layout: compact then, aligned now": {"layout": "aligned"},
    r"chunks: \[24, 24\] then, \[24, 48\] now": {"chunks": (24, 48)},
    r"shards: None then, \[48, 48\] now": {"shards": (48, 48)},
    "dtype: float32 then, float64 now": {"dtype": "float64"},
    "codecs: .*blosc.* then, .* now": {"compressors": None},
    "fill value: 0.0 then, 1.0 now": {"fill_value": 1},
    "zarr format: 3 then, 2 now": {"zarr_format": 2},
}


@pytest.mark.parametrize("differing", OTHERS)
def test_something_else_is_refused_with_a_word_on_what_differs(
    differing: str, output: Path, embedded: Client, tmp_path: Path
) -> None:
    cut_ledger(output, 4)
    before = tree(tmp_path)
    other = {"model": Company(), "source": IMAGE} | OTHERS[differing]
    with pytest.raises(ResumeError, match=f"begun from something else.*{differing}.*if_exists='overwrite'"):
        predict(output, if_exists="resume", client=embedded, **other)
    assert tree(tmp_path) == before


def test_all_that_differs_is_named(output: Path, embedded: Client) -> None:
    with pytest.raises(ResumeError) as caught:
        predict(output, negated, if_exists="resume", client=embedded, dtype="uint8", fill_value=3, tile_size=(40, 40))
    for name in ("model: ", "dtype: ", "fill value: ", "tile size: "):
        assert name in str(caught.value)
    assert "source" not in str(caught.value)


def test_other_weights_of_a_network_are_refused_and_the_same_ones_are_not(embedded: Client, tmp_path: Path) -> None:
    import torch

    network = torch.nn.Conv2d(1, 1, 1)
    output = tmp_path / "out.zarr"
    predict(output, network, client=embedded)
    assert predict(output, network, if_exists="resume", client=embedded).unit_count == 0
    before = tree(tmp_path)
    with torch.no_grad():
        network.bias += 1e-6
    with pytest.raises(ResumeError, match=r"model: .*Conv2d \w+ then, .*Conv2d \w+ now"):
        predict(output, network, if_exists="resume", client=embedded)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("change", ["written again", "other size", "another file"])
def test_a_file_that_has_changed_is_another_source(change: str, embedded: Client, tmp_path: Path) -> None:
    import tifffile

    source, output = tmp_path / "raw.tif", tmp_path / "out.zarr"
    tifffile.imwrite(source, IMAGE, photometric="minisblack")
    predict(output, Company(), source, client=embedded)
    assert predict(output, Company(), source, if_exists="resume", client=embedded).unit_count == 0
    before = tree(output)
    if change == "written again":
        written = source.stat().st_mtime_ns
        os.utime(source, ns=(written, written + 10**6))
    elif change == "other size":
        tifffile.imwrite(source, IMAGE, photometric="minisblack", description="a" * 1000)
    else:
        source = source.rename(tmp_path / "other.tif")
    words = "source path: .*raw.tif then, .*other.tif now" if change == "another file" else "source: file of .* bytes"
    with pytest.raises(ResumeError, match=words):
        predict(output, Company(), source, if_exists="resume", client=embedded)
    assert tree(output) == before


def test_the_layout_of_a_zarr_source_tells_it_from_another(embedded: Client, tmp_path: Path) -> None:
    source, output = tmp_path / "raw.zarr", tmp_path / "out.zarr"
    zarr.create_array(source, data=IMAGE, chunks=(48, 48))
    predict(output, Company(), source, client=embedded)
    # What anybody may add does not count.
    zarr.open_array(source).attrs["seen"] = True
    assert predict(output, Company(), source, if_exists="resume", client=embedded).unit_count == 0
    zarr.create_array(source, data=IMAGE, chunks=(24, 48), overwrite=True)
    with pytest.raises(ResumeError, match="source: Zarr array"):
        predict(output, Company(), source, if_exists="resume", client=embedded)


def test_too_little_memory_for_what_was_begun_is_said_with_numbers(
    output: Path, embedded: Client, tmp_path: Path
) -> None:
    cut_ledger(output, 4)
    before = tree(tmp_path)
    with pytest.raises(MemoryPlanError, match=r"memory_nbytes allows .* \(1000 bytes\)"):
        predict(output, Company(), if_exists="resume", client=embedded, memory_nbytes=1000)
    assert tree(tmp_path) == before


def test_what_differs_is_said_before_too_little_memory(output: Path, embedded: Client) -> None:
    with pytest.raises(ResumeError, match=r"chunks: \[24, 24\] then.*layout: compact then"):
        predict(
            output, Company(), if_exists="resume", client=embedded, layout="aligned", chunks=(16, 16), memory_nbytes=1
        )


def test_what_was_chosen_for_the_first_run_stays(embedded: Client, tmp_path: Path) -> None:
    auto = {"layout": "auto", "chunks": "auto"}
    output = tmp_path / "out.zarr"
    predict(output, Company(), client=embedded, **auto | {"memory_nbytes": 2**17})
    whole, plan = tree(output), header_of(output).plan
    flip(object_files(output)[-1])
    report = predict(output, Company(), if_exists="resume", client=embedded, **auto | {"memory_nbytes": None})
    assert (report.unit_count, report.kept_unit_count) == (1, plan.unit_count - 1)
    assert_is_whole(output, whole)
    # What was chosen may also be said.
    chosen = {"layout": plan.layout, "chunks": plan.chunks}
    assert predict(output, Company(), if_exists="resume", client=embedded, **chosen).unit_count == 0


# Ledgers elsewhere, and stores that are no folder.


def test_a_ledger_elsewhere_is_found_there_only(finished: Path, embedded: Client, tmp_path: Path) -> None:
    output, ledger = tmp_path / "out.zarr", tmp_path / "ledgers" / "one"
    predict(output, Company(), client=embedded, ledger=ledger)
    assert [file.name for file in ledger.iterdir()] == ["000001.ledger"]
    assert not ledger_of(output).exists()
    flip(object_files(output)[0])
    with pytest.raises(ResumeError, match="does not, so it is unknown which units are stored"):
        predict(output, Company(), if_exists="resume", client=embedded)
    report = predict(output, Company(), if_exists="resume", client=embedded, ledger=ledger)
    assert report.unit_count == 1
    assert tree(output) == tree(finished)
    assert tw.verify(output, ledger=ledger, progress=False).is_complete


def test_a_store_in_memory_with_a_ledger_is_resumed(embedded: Client, tmp_path: Path) -> None:
    store = CountingStore(MemoryStore())
    predict(store, Company(), client=embedded, ledger=tmp_path / "ledger")
    whole, stored = objects(store._store), sorted(objects(store._store))
    del store._store._store_dict[stored[5]]
    store.sets.clear()
    report = predict(store, Company(), if_exists="resume", client=embedded, ledger=tmp_path / "ledger")
    assert report.unit_count == 1
    assert objects(store._store) == whole
    assert stored[5] in store.sets
    assert len(store.sets.keys() - {"tilewright.lock"}) == report.object_count


@pytest.mark.parametrize("is_there", [False, True])
def test_a_store_that_is_no_folder_cannot_be_resumed_without_a_ledger(
    is_there: bool, embedded: Client, tmp_path: Path
) -> None:
    store = CountingStore(MemoryStore())
    if is_there:
        predict(store, Company(), client=embedded)
    store.sets.clear()
    with pytest.raises(ResumeError, match=r"no place beside it for the ledger.*pass ledger='a/local/folder'"):
        predict(store, Company(calls=str(tmp_path / "calls")), if_exists="resume", client=embedded)
    assert not store.sets
    assert noted(tmp_path / "calls") == 0


# A trainer.


SAMPLES = np.random.default_rng(1).integers(0, 256, (6, 384, 384)).astype(np.float32) / 256
"""An image of six units, one for each sample; sums of its elements are exact, by however many threads."""
CUT: dict[str, Any] = {"axes": "SYX", "tile_size": (128, 128), "overlaps": (32, 32)}
BATCH_SIZE = 4


def network_of(
    calls: list[list[tuple[int, ...]]], weight: float = 1.0, before_batch: Callable[[int], None] | None = None
) -> Any:
    """A network that notes which tiles it sees, and adds the mean of the batch."""
    import pytorch_lightning as pl
    import torch

    class Network(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(weight))

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            tiles, infos = batch
            if before_batch is not None:
                before_batch(batch_idx)
            calls.append([(info.sample_id, *(start for start, _ in info.stitch_coords)) for info in infos])
            return self.weight * tiles + tiles.double().mean().float(), infos

    return Network()


def loader_of(sources: Any, num_workers: int = 0, **options: Any) -> Any:
    from torch.utils.data import DataLoader

    dataset = tw.IterableTiledPredDataset(sources, **CUT)
    return DataLoader(dataset, BATCH_SIZE, num_workers=num_workers, collate_fn=tw.collate_tiles, **options)


def train(
    folder: Path,
    sources: Any,
    network: Any,
    *,
    client: Client,
    num_workers: int = 0,
    precision: Any = "32-true",
    limit: int | None = None,
    loader: Any = None,
    **options: Any,
) -> Any:
    import pytorch_lightning as pl

    loader = loader_of(sources, num_workers) if loader is None else loader
    strategy = tw.WriteTilesZarr(client, window_nbytes=1, **{"if_exists": "resume"} | options)
    callback = tw.PredictionWriterCallback(strategy, dirpath=folder)
    trainer = pl.Trainer(
        callbacks=[callback],
        limit_predict_batches=limit,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        precision=precision,
    )
    trainer.predict(network, loader, return_predictions=False)
    return strategy


def batches_of(sources: Any, num_workers: int) -> list[list[tuple[int, ...]]]:
    """All batches of a data loader, by what tells their tiles, those of each worker in its order."""
    infos = [information for _, information in tw.IterableTiledPredDataset(sources, **CUT)]
    names = [(info.sample_id, *(start for start, _ in info.stitch_coords)) for info in infos]
    shares = [names[worker :: max(1, num_workers)] for worker in range(max(1, num_workers))]
    return [share[i : i + BATCH_SIZE] for share in shares for i in range(0, len(share), BATCH_SIZE)]


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Trainers leave neither a temporary file nor their signal handlers behind."""
    handler = signal.getsignal(signal.SIGINT)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    signal.signal(signal.SIGINT, handler)
    assert not list((tmp_path / "temporary").glob("*.tiles"))


class Failure(Exception):
    """What a network raises in a test."""


def failing_at(number: int, error: type[BaseException] = Failure) -> Any:
    """A network that fails at one batch; what it predicted before is written, as far as it makes whole units."""

    def fail(batch: int) -> None:
        if batch == number:
            raise error

    return network_of([], before_batch=fail)


@pytest.fixture
def samples(tmp_path: Path) -> list[Path]:
    """Two files of three samples each."""
    files = [tmp_path / "raw" / "a.zarr", tmp_path / "raw" / "b.zarr"]
    for file, part in zip(files, (SAMPLES[:3], SAMPLES[3:]), strict=True):
        zarr.create_array(file, data=part, chunks=(1, 256, 256))
    return files


def open_tiles(output: Path, first_sample: int) -> set[tuple[int, ...]]:
    """What tells the tiles that an output still needs."""
    verification = tw.verify(output, progress=False)
    plan = verification.plan
    tiles = {tile for unit in verification.conditions for tile in plan.tiles_of_unit(unit)}
    regions = [plan.valid_region(tile) for tile in tiles]
    return {(first_sample + sample, *(start for start, _ in spatial)) for (sample, _), *spatial in regions}


@pytest.mark.usefixtures("trainers")
@pytest.mark.parametrize(("num_workers", "error"), [(0, Failure), (0, KeyboardInterrupt), (2, Failure)])
def test_a_trainer_that_failed_predicts_only_what_is_missing(
    num_workers: int, error: type[BaseException], embedded: Client, samples: list[Path], tmp_path: Path
) -> None:
    train(tmp_path / "whole", samples, network_of([]), num_workers=num_workers, client=embedded)
    outputs = [tmp_path / "out" / "a.zarr", tmp_path / "out" / "b.zarr"]
    with pytest.raises((error, SystemExit)):
        train(tmp_path / "out", samples, failing_at(18, error), num_workers=num_workers, client=embedded)
    assert tw.verify(outputs[0], progress=False).is_complete
    needed = open_tiles(outputs[1], first_sample=3)
    batches = batches_of(samples, num_workers)
    # Two of six samples.
    assert len(needed) == sum(map(len, batches)) / 3
    before = identities(object_files(outputs[0]))

    seen: list[list[tuple[int, ...]]] = []
    strategy = train(tmp_path / "out", samples, network_of(seen), num_workers=num_workers, client=embedded)
    assert all(batch in batches for batch in seen)
    surplus = [batch for batch in seen if needed.isdisjoint(batch)]
    # What a data loader reads ahead: one batch, and two of each worker.
    assert len(surplus) <= 1 + 2 * num_workers
    assert needed <= {name for batch in seen for name in batch}
    assert identities(object_files(outputs[0])) == before
    assert [(report.unit_count, report.kept_unit_count) for report in strategy.reports] == [(0, 3), (2, 1)]
    for output in outputs:
        assert_is_whole(output, tree(tmp_path / "whole" / output.name))


@pytest.mark.usefixtures("trainers")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_trainer_with_nothing_left_to_do_predicts_what_was_read_ahead_at_most(
    num_workers: int, embedded: Client, samples: list[Path], tmp_path: Path
) -> None:
    train(tmp_path / "out", samples, network_of([]), num_workers=num_workers, client=embedded)
    before, stored = tree(tmp_path / "out" / "a.zarr"), identities(object_files(tmp_path / "out" / "a.zarr"))
    seen: list[list[tuple[int, ...]]] = []
    strategy = train(tmp_path / "out", samples, network_of(seen), num_workers=num_workers, client=embedded)
    assert len(seen) <= 1 + 2 * num_workers
    assert [(report.unit_count, report.kept_unit_count) for report in strategy.reports] == [(0, 3), (0, 3)]
    assert tree(tmp_path / "out" / "a.zarr") == before
    assert identities(object_files(tmp_path / "out" / "a.zarr")) == stored


@pytest.mark.usefixtures("trainers")
def test_a_trainer_that_saw_some_batches_only_is_completed_by_the_next(
    embedded: Client, samples: list[Path], tmp_path: Path
) -> None:
    train(tmp_path / "whole", samples, network_of([]), client=embedded)
    with pytest.raises(IncompleteImageError, match=r"image .*a\.zarr misses .*b\.zarr is missing"):
        train(tmp_path / "out", samples, network_of([]), client=embedded, limit=5)
    assert len(records_of(tmp_path / "out" / "a.zarr")) == 1
    assert not ledger_of(tmp_path / "out" / "b.zarr").exists()
    strategy = train(tmp_path / "out", samples, network_of([]), client=embedded)
    assert sum(report.kept_unit_count for report in strategy.reports) == 1
    for name in ("a.zarr", "b.zarr"):
        assert_is_whole(tmp_path / "out" / name, tree(tmp_path / "whole" / name))


@pytest.mark.usefixtures("trainers")
def test_a_data_loader_whose_workers_live_on_yields_what_each_run_needs(
    embedded: Client, samples: list[Path], tmp_path: Path
) -> None:
    loader = loader_of(samples[:1], num_workers=2, persistent_workers=True)
    output = tmp_path / "out" / "a.zarr"
    with pytest.raises(Failure):
        train(tmp_path / "out", samples, failing_at(6), client=embedded, loader=loader)
    needed = open_tiles(output, first_sample=0)
    # Two of three samples.
    assert len(needed) == 32
    seen: list[list[tuple[int, ...]]] = []
    train(tmp_path / "out", samples, network_of(seen), client=embedded, loader=loader)
    assert len([batch for batch in seen if needed.isdisjoint(batch)]) <= 1 + 2 * 2
    assert needed <= {name for batch in seen for name in batch}
    # A run that begins anew needs every tile once more.
    seen.clear()
    train(tmp_path / "whole", samples, network_of(seen), client=embedded, loader=loader)
    assert sorted(name for batch in seen for name in batch) == sorted(
        name for batch in batches_of(samples[:1], num_workers=2) for name in batch
    )
    assert_is_whole(output, tree(tmp_path / "whole" / "a.zarr"))


@pytest.mark.usefixtures("trainers")
def test_a_damaged_object_costs_a_trainer_the_tiles_of_its_unit(
    embedded: Client, samples: list[Path], tmp_path: Path
) -> None:
    train(tmp_path / "out", samples, network_of([]), client=embedded)
    output = tmp_path / "out" / "b.zarr"
    before, stored = tree(output), identities(object_files(output))
    victim = object_files(output)[5]
    flip(victim)
    needed = open_tiles(output, first_sample=3)
    seen: list[list[tuple[int, ...]]] = []
    train(tmp_path / "out", samples, network_of(seen), client=embedded)
    assert len([batch for batch in seen if needed.isdisjoint(batch)]) <= 1
    assert needed <= {name for batch in seen for name in batch}
    plan = header_of(output).plan
    touched = files_of_unit(output, plan, unit_of(output, plan, victim))
    after = identities(object_files(output))
    assert {file for file in stored if stored[file] != after[file]} == set(touched)
    assert tree(output) == before


@pytest.mark.usefixtures("trainers")
@pytest.mark.parametrize(
    ("options", "weight", "precision", "differing"),
    [
        ({}, 1.5, "32-true", "model: .*Network .* then, .*Network .* now"),
        ({"chunks": (1, 128, 128)}, 1.0, "32-true", "chunks: "),
        ({"dtype": "float64"}, 1.0, "32-true", "dtype: float32 then, float64 now"),
        ({"fill_value": 3}, 1.0, "32-true", "fill value: 0.0 then, 3.0 now"),
        ({}, 1.0, "bf16-true", "predicted by: a trainer of precision 32-true.* then, .*bf16-true.* now"),
    ],
)
def test_a_trainer_with_something_else_is_refused_before_it_predicts(
    options: dict[str, Any],
    weight: float,
    precision: Any,
    differing: str,
    embedded: Client,
    samples: list[Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(Failure):
        train(tmp_path / "out", samples, failing_at(6), client=embedded)
    before = tree(tmp_path / "out")
    seen: list[list[tuple[int, ...]]] = []
    with pytest.raises(ResumeError, match=f"begun from something else.*{differing}"):
        train(tmp_path / "out", samples, network_of(seen, weight), client=embedded, precision=precision, **options)
    assert not seen
    assert tree(tmp_path / "out") == before


@pytest.mark.usefixtures("trainers")
def test_a_trainer_of_which_one_image_is_another_one_changes_no_output(
    embedded: Client, samples: list[Path], tmp_path: Path
) -> None:
    train(tmp_path / "out", samples, network_of([]), client=embedded)
    for name in ("a.zarr", "b.zarr"):
        flip(object_files(tmp_path / "out" / name)[0])
    zarr.create_array(samples[1], data=SAMPLES[:3], chunks=(1, 256, 256), overwrite=True)
    before = tree(tmp_path / "out")
    with pytest.raises(ResumeError, match=r"b\.zarr was begun from something else.*source: "):
        train(tmp_path / "out", samples, network_of([]), client=embedded)
    assert tree(tmp_path / "out") == before


@pytest.mark.usefixtures("trainers")
def test_arrays_that_share_a_store_are_resumed_each_by_its_own_ledger(embedded: Client, tmp_path: Path) -> None:
    sources = [SAMPLES[:2], SAMPLES[2:4]]
    train(tmp_path / "whole", sources, network_of([]), client=embedded)
    train(tmp_path / "out", sources, network_of([]), client=embedded)
    store = tmp_path / "out" / "prediction.zarr"
    stored = identities(object_files(store / "0"))
    flip(object_files(store / "1")[0])
    # A run was killed before it had begun the other one.
    strategy = train(tmp_path / "out", sources, network_of([]), client=embedded)
    assert [report.unit_count for report in strategy.reports] == [0, 1]
    assert identities(object_files(store / "0")) == stored
    shutil.rmtree(store / "1")
    shutil.rmtree(tmp_path / "out" / "prediction.zarr.ledger" / "1")
    strategy = train(tmp_path / "out", sources, network_of([]), client=embedded)
    assert [report.unit_count for report in strategy.reports] == [0, 2]
    assert tree(store) == tree(tmp_path / "whole" / "prediction.zarr")
