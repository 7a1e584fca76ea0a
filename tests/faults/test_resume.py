"""A run that was ended, whenever and however, is completed to the bytes of one that was not; what is stored stays."""

import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.faults.resuming import (
    BATCH_SIZE,
    CUT,
    IMAGE,
    SAMPLES,
    Company,
    Moment,
    assert_is_whole,
    copy_of,
    files_of_records,
    files_of_unit,
    flip,
    header_of,
    kill_client_at,
    ledger_files,
    ledger_of,
    left_alone,
    loader_of,
    negated,
    network_of,
    object_files,
    predict,
    records_in,
    records_of,
    resume,
    train,
    unchanged,
    unit_of,
)
from tests.support import CountingStore, empty, identities, lengthen, noted, objects, shorten, stored_files, tree
from zarr.storage import LocalStore, MemoryStore

import tilewright as tw
from tilewright.errors import (
    DestinationError,
    DestinationExistsError,
    IncompleteImageError,
    MemoryPlanError,
    ResumeError,
)
from tilewright.ledger.header import Header
from tilewright.ledger.records import Record, Status, record_nbytes
from tilewright.plan import WritePlan
from tilewright.transport.clients import shares_memory

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
    "samples": {"axes": "SYX", "batch_size": 3},
}

pytestmark = [
    pytest.mark.usefixtures("current"),
    # Lightning gives advice on hardware, and on loggers that one might use.
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available.*"),
]


def tiles_predicted_for(plan: WritePlan, units: set[int], batch_size: int = 1) -> int:
    """How many batches must be predicted to write these units, as `TilePrediction` puts batches together."""
    tiles = {tile for unit in units for tile in plan.tiles_of_unit(unit)}
    batches = set()
    for begun in range(plan.unit_count):
        together = plan.tiles_starting_in(begun)
        batches |= {together[i : i + batch_size] for i in range(0, len(together), batch_size)}
    return sum(1 for batch in batches if tiles.intersection(batch))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE, chunks=(48, 48))
    return tmp_path / "raw.zarr"


@pytest.mark.parametrize("run", RUNS)
def test_a_client_that_is_killed_again_and_again_leaves_what_it_has_stored(
    run: str, source: Path, tmp_path: Path
) -> None:
    options = RUNS[run]
    if run == "samples":
        source = tmp_path / "stack.zarr"
        zarr.create_array(source, data=IMAGE.reshape(2, -1, IMAGE.shape[1]), chunks=(1, 48, 48))
    predict(tmp_path / "whole.zarr", Company(), source, **options)
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
    report = resume(output, Company(), source, **options)
    assert report.kept_unit_count > 0
    assert identities(list(kept)) == kept
    assert_is_whole(output, tree(tmp_path / "whole.zarr"))
    assert sorted(record.unit for record in records_of(output)) == list(range(plan.unit_count))


@pytest.mark.parametrize("layout", ["compact", "aligned"])
@pytest.mark.parametrize("begins", ["embedded", "processes"])
def test_a_run_is_completed_on_another_cluster_with_other_memory(
    begins: str, layout: str, current: Client, two_processes: Client, source: Path, tmp_path: Path
) -> None:
    options = {"layout": layout, "batch_size": 3}
    predict(tmp_path / "whole.zarr", Company(), source, **options)
    output, gate = tmp_path / "out.zarr", tmp_path / "gate"
    address = two_processes.scheduler.address if begins == "processes" else None
    try:
        kill_client_at(Moment(output, "records", 3), output, source, Company(waits_for=str(gate)), options, address)
    finally:
        # Else a worker that others use as well would wait for ever.
        gate.touch()
    other = two_processes if begins == "embedded" else current
    with left_alone(files_of_records(output)):
        report = resume(output, Company(), source, client=other, **options | {"memory_nbytes": 2**20})
    assert report.kept_unit_count >= 3
    assert_is_whole(output, tree(tmp_path / "whole.zarr"))
    first, second = (Header.from_line(file.read_bytes().partition(b"\n")[0] + b"\n") for file in ledger_files(output))
    assert first is not None
    assert second is not None
    assert (first.plan.arrays, first.plan.tilings) == (second.plan.arrays, second.plan.tilings)
    assert first.plan.peak_live_nbytes < second.plan.peak_live_nbytes


# A finished output, of which each test takes a copy.


def cut_ledger(output: Path, record_count: int) -> None:
    """Leave the ledger as it was after so many units."""
    (file,) = ledger_files(output)
    raw = file.read_bytes()
    file.write_bytes(raw[: 2 * (raw.index(b"\n") + 1) + record_count * record_nbytes(header_of(output).plan)])


def test_a_complete_output_is_resumed_without_a_prediction_but_the_first_tile(output: Path, tmp_path: Path) -> None:
    with left_alone(object_files(output)):
        report = resume(output, Company(calls=str(tmp_path / "calls")))
    assert noted(tmp_path / "calls") == 1
    assert (report.unit_count, report.kept_unit_count) == (0, header_of(output).plan.unit_count)


FAULTS: list[Callable[[Path], None]] = [Path.unlink, shorten, empty, lengthen, flip]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_objects_that_are_not_as_stored_are_written_again_and_no_others(
    batch_size: int, executor: Client, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    predict(output, Company(), batch_size=batch_size)
    whole, plan, before = tree(output), header_of(output).plan, identities(object_files(output))
    faulty = [files_of_unit(output, plan, unit)[-1] for unit in (0, 2, 3, 7, plan.unit_count - 1)]
    for fault, file in zip(FAULTS, faulty, strict=True):
        fault(file)
    report = resume(output, Company(calls=str(tmp_path / "calls")), batch_size=batch_size)
    units = {unit_of(output, plan, file) for file in faulty}
    assert len(units) == len(FAULTS)
    assert (report.unit_count, report.kept_unit_count) == (len(units), plan.unit_count - len(units))
    # The first tile says what the model returns; in this process that is of use later.
    probed = 0 if shares_memory(executor) and batch_size == 1 else 1
    assert noted(tmp_path / "calls") == probed + tiles_predicted_for(plan, units, batch_size)
    after = identities(object_files(output))
    changed = {file for file in after if after[file] != before[file]}
    assert changed == {file for unit in units for file in files_of_unit(output, plan, unit)}
    assert_is_whole(output, whole)


@given(data=st.data())
@settings(max_examples=10)
def test_whatever_befalls_the_objects_the_units_that_have_them_are_written_again(
    data: st.DataObject, finished: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = copy_of(finished, Path(folder))
        whole, plan, files = tree(output), header_of(output).plan, object_files(output)
        faults = data.draw(st.dictionaries(st.sampled_from(files), st.sampled_from(FAULTS), max_size=8))
        for file, fault in faults.items():
            fault(file)
        before = identities([file for file in files if file.exists()])
        report = resume(output, Company())
        units = {unit_of(output, plan, file) for file in faults}
        assert report.unit_count == len(units)
        touched = {file for unit in units for file in files_of_unit(output, plan, unit)}
        after = identities(files)
        assert {file for file in files if after[file] != before.get(file)} == touched
        assert_is_whole(output, whole)


@given(data=st.data())
@settings(max_examples=10)
def test_a_ledger_that_is_torn_or_damaged_costs_the_units_of_the_records_that_it_lost(
    data: st.DataObject, finished: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = copy_of(finished, Path(folder))
        whole, (file,) = tree(output), ledger_files(output)
        raw = bytearray(file.read_bytes())
        place = data.draw(st.integers(2 * (raw.index(b"\n") + 1), len(raw) - 1))
        if data.draw(st.booleans()):
            del raw[place:]
        else:
            raw[place] ^= data.draw(st.integers(1, 255))
        records = records_in(file)
        file.write_bytes(raw)
        lost = {record.unit for record in records} - {record.unit for record in records_in(file)}
        report = resume(output, Company())
        assert lost
        assert report.unit_count == len(lost)
        assert_is_whole(output, whole)


def test_one_of_two_headers_of_a_ledger_is_enough_and_one_is_needed(output: Path, tmp_path: Path) -> None:
    whole, (file,) = tree(output), ledger_files(output)
    second = file.read_bytes().index(b"\n") + 1
    flip(file, 100)
    assert tw.verify(output, progress=False).is_complete
    assert resume(output, Company()).unit_count == 0
    assert_is_whole(output, whole)
    assert ledger_files(output) == [file]
    flip(file, second + 100)
    with unchanged(tmp_path), pytest.raises(ResumeError, match="is damaged: no file of it has a readable header"):
        resume(output, Company())


def test_a_session_whose_header_is_damaged_does_not_spoil_the_others(output: Path) -> None:
    whole, ledger = tree(output), ledger_of(output)
    cut_ledger(output, 4)
    (ledger / "000002.ledger").write_bytes(b"tilewright-ledger-1 nonsense\n" + Record(0, Status.GIVEN_UP).to_bytes())
    assert resume(output, Company()).kept_unit_count == 4
    assert [file.name for file in ledger_files(output)] == ["000001.ledger", "000002.ledger", "000003.ledger"]
    assert_is_whole(output, whole)


# Where to begin, and where not.


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "an empty ledger", "the lock of a dead process"])
def test_where_nothing_exists_to_resume_is_to_begin(there: str, finished: Path, tmp_path: Path) -> None:
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
    report = resume(output, Company())
    assert report.kept_unit_count == 0
    assert_is_whole(output, tree(finished))


@pytest.mark.parametrize(
    "lost", [["."], ["0"], ["0/c"], ["0/zarr.json"], ["zarr.json"], ["0/zarr.json", "zarr.json"]], ids=" and ".join
)
def test_what_of_the_output_was_never_created_or_is_lost_is_created_again(lost: list[str], output: Path) -> None:
    whole, plan = tree(output), header_of(output).plan
    for name in lost:
        path = output / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    are_objects_left = bool(object_files(output))
    assert not tw.verify(output, progress=False).is_complete
    if not (output / "0" / "zarr.json").exists():
        with pytest.raises(ResumeError, match=r"is gone, .*if_exists='resume'"):
            tw.repair(output, Company(), IMAGE, progress=False)
    report = resume(output, Company())
    assert report.kept_unit_count == (plan.unit_count if are_objects_left else 0)
    assert_is_whole(output, whole)


def test_an_output_without_a_ledger_is_neither_resumed_nor_touched(output: Path, tmp_path: Path) -> None:
    shutil.rmtree(ledger_of(output))
    words = r"exists, but its ledger .*out\.zarr\.ledger does not.*if_exists='overwrite'"
    with unchanged(tmp_path), pytest.raises(ResumeError, match=words):
        resume(output, Company())
    assert not ledger_of(output).exists()


@pytest.mark.parametrize(
    ("name", "other"), [("chunk_grid", {"chunks": (48, 48)}), ("data_type", {"dtype": "int32"}), ("shape", {})]
)
def test_another_array_in_the_place_of_the_one_that_was_begun_is_left_alone(
    name: str, other: dict[str, Any], output: Path, tmp_path: Path
) -> None:
    shutil.rmtree(output / "0")
    array = {"shape": (240, 288 + (name == "shape")), "chunks": (24, 24), "dtype": "float32"} | other
    zarr.create_array(output, name="0", dimension_names=["y", "x"], **array)
    words = rf"is not the one that its ledger .* is about: {name}: .*'overwrite'"
    with unchanged(tmp_path), pytest.raises(ResumeError, match=words):
        resume(output, Company())


def test_attributes_that_were_added_make_no_other_array(output: Path) -> None:
    zarr.open_group(output)["0"].attrs["unit"] = "micrometer"
    assert resume(output, Company()).unit_count == 0
    assert zarr.open_group(output)["0"].attrs["unit"] == "micrometer"


def test_overwriting_a_part_of_an_output_begins_anew(output: Path, finished: Path) -> None:
    cut_ledger(output, 4)
    before = identities(object_files(output))
    report = predict(output, Company(), if_exists="overwrite")
    assert report.kept_unit_count == 0
    assert len(ledger_files(output)) == 1
    after = identities(object_files(output))
    assert all(after[file] != before[file] for file in before)
    assert_is_whole(output, tree(finished))


def test_objects_of_the_output_that_was_to_be_overwritten_are_never_taken_for_new_ones(
    output: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new" / "out.zarr"
    predict(new, negated)
    whole = stored_files(new)
    # Killed when its ledger had replaced the old one, and not yet its array.
    (old_session,), (new_session,) = ledger_files(output), ledger_files(new)
    cut_ledger(new, 0)
    shutil.copyfile(new_session, old_session)
    assert resume(output, negated).kept_unit_count == 0
    # The group stays, and says what has made it.
    assert stored_files(output) == whole
    assert tw.verify(output, progress=False).is_complete


# What is something else.


VOLUME: dict[str, Any] = {"source": IMAGE[np.newaxis], "axes": "ZYX", "tile_size": (1, 48, 48), "overlap": (0, 12, 12)}
VOLUME["chunks"] = "auto"
OTHERS: dict[str, dict[str, Any]] = {
    "source: array .* then, array .* now": {"source": np.where(IMAGE > 0.99999, 0, IMAGE)},
    "source shape": {"source": IMAGE[:239]},
    "source dtype": {"source": IMAGE.astype("float64")},
    "source axes: YX then, XY now": {"axes": "XY"},
    "axes: YX then, SYX now": {"axes": "SYX", "source": IMAGE[np.newaxis]},
    "source axes: YX then, ZYX now": VOLUME,
    "model: .*Company, code .* then, .*negated, code .* now": {"model": negated},
    r"tile size: \[48, 48\] then, \[40, 48\] now": {"tile_size": (40, 48)},
    r"overlap: \[12, 12\] then, \[10, 12\] now": {"overlap": (10, 12)},
    "layout: compact then, aligned now": {"layout": "aligned"},
    r"chunks: \[24, 24\] then, \[24, 48\] now": {"chunks": (24, 48)},
    r"shards: None then, \[48, 48\] now": {"shards": (48, 48)},
    r"shards: None then, \[288, 288\] now": {"shards": "auto"},
    "dtype: float32 then, float64 now": {"dtype": "float64"},
    "codecs: .*blosc.* then, .* now": {"compressors": None},
    "fill value: 0.0 then, 1.0 now": {"fill_value": 1},
    "zarr format: 3 then, 2 now": {"zarr_format": 2},
}


@pytest.mark.parametrize("differing", OTHERS)
def test_something_else_is_refused_with_a_word_on_what_differs(differing: str, output: Path, tmp_path: Path) -> None:
    cut_ledger(output, 4)
    words = f"begun from something else.*{differing}.*if_exists='overwrite'"
    with unchanged(tmp_path), pytest.raises(ResumeError, match=words):
        resume(output, **{"model": Company()} | OTHERS[differing])


def test_all_that_differs_is_named(output: Path) -> None:
    with pytest.raises(ResumeError) as caught:
        resume(output, negated, dtype="uint8", fill_value=3, tile_size=(40, 40))
    for name in ("model: ", "dtype: ", "fill value: ", "tile size: "):
        assert name in str(caught.value)
    assert "source" not in str(caught.value)


CHANGES = {
    "weights": r"model: .*Conv2d \w+ then, .*Conv2d \w+ now",
    "time of the file": "source: file of .* bytes",
    "path of the file": "source path: .*raw.tif then, .*other.tif now",
}


@pytest.mark.parametrize("changed", CHANGES)
def test_a_network_and_a_file_are_taken_for_the_same_until_they_are_changed(changed: str, tmp_path: Path) -> None:
    network, source, output = torch.nn.Conv2d(1, 1, 1), tmp_path / "raw.tif", tmp_path / "out.zarr"
    tifffile.imwrite(source, IMAGE, photometric="minisblack")
    predict(output, network, source)
    assert resume(output, network, source).unit_count == 0
    if changed == "weights":
        with torch.no_grad():
            network.bias += 1e-6
    elif changed == "time of the file":
        written = source.stat().st_mtime_ns
        os.utime(source, ns=(written, written + 10**6))
    else:
        source = source.rename(tmp_path / "other.tif")
    with unchanged(output), pytest.raises(ResumeError, match=CHANGES[changed]):
        resume(output, network, source)


def test_too_little_memory_for_what_was_begun_is_said_with_numbers(output: Path, tmp_path: Path) -> None:
    cut_ledger(output, 4)
    with unchanged(tmp_path), pytest.raises(MemoryPlanError, match=r"memory_nbytes allows .* \(1000 bytes\)"):
        resume(output, Company(), memory_nbytes=1000)


def test_what_differs_is_said_before_too_little_memory(output: Path) -> None:
    with pytest.raises(ResumeError, match=r"chunks: \[24, 24\] then.*layout: compact then"):
        resume(output, Company(), layout="aligned", chunks=(16, 16), memory_nbytes=1)


def test_what_was_chosen_for_the_first_run_stays(tmp_path: Path) -> None:
    auto = {"layout": "auto", "chunks": "auto"}
    output = tmp_path / "out.zarr"
    predict(output, Company(), **auto | {"memory_nbytes": 2**17})
    whole, plan = tree(output), header_of(output).plan
    flip(object_files(output)[-1])
    report = resume(output, Company(), **auto | {"memory_nbytes": None})
    assert (report.unit_count, report.kept_unit_count) == (1, plan.unit_count - 1)
    assert_is_whole(output, whole)
    # What was chosen may also be said.
    assert resume(output, Company(), layout=plan.layout, chunks=plan.chunks).unit_count == 0


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


# Ledgers elsewhere, and stores that are no folder.


def test_a_ledger_elsewhere_is_found_there_only(finished: Path, tmp_path: Path) -> None:
    output, ledger = tmp_path / "out.zarr", tmp_path / "ledgers" / "one"
    predict(output, Company(), ledger=ledger)
    assert [file.name for file in ledger.iterdir()] == ["000001.ledger"]
    assert not ledger_of(output).exists()
    flip(object_files(output)[0])
    with pytest.raises(ResumeError, match="does not, so it is unknown which units are stored"):
        resume(output, Company())
    assert resume(output, Company(), ledger=ledger).unit_count == 1
    assert tree(output) == tree(finished)
    assert tw.verify(output, ledger=ledger, progress=False).is_complete


def test_a_store_in_memory_with_a_ledger_is_resumed(tmp_path: Path) -> None:
    store = CountingStore(MemoryStore())
    predict(store, Company(), ledger=tmp_path / "ledger")
    whole, stored = objects(store._store), sorted(objects(store._store))
    del store._store._store_dict[stored[5]]
    store.sets.clear()
    report = resume(store, Company(), ledger=tmp_path / "ledger")
    assert report.unit_count == 1
    assert objects(store._store) == whole
    assert stored[5] in store.sets
    assert len(store.sets.keys() - {"tilewright.lock"}) == report.object_count


@pytest.mark.parametrize("is_there", [False, True])
def test_a_store_that_is_no_folder_cannot_be_resumed_without_a_ledger(is_there: bool, tmp_path: Path) -> None:
    store = CountingStore(MemoryStore())
    if is_there:
        predict(store, Company())
    store.sets.clear()
    with pytest.raises(ResumeError, match=r"no place beside it for the ledger.*pass ledger='a/local/folder'"):
        resume(store, Company(calls=str(tmp_path / "calls")))
    assert not store.sets
    assert noted(tmp_path / "calls") == 0


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


def test_a_client_that_is_not_the_current_one_checks(two_processes: Client, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    predict(output, Company(), client=two_processes)
    flip(object_files(output)[0])
    assert len(tw.verify(output, client=two_processes, progress=False).conditions) == 1
    assert resume(output, Company(), client=two_processes).unit_count == 1


# A trainer.


Names = tuple[int, ...]
"""What tells one tile from the others."""


def batches_of(sources: Any, num_workers: int) -> list[list[Names]]:
    """All batches of a data loader, those of each worker in its order."""
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
def samples(trainers: None, tmp_path: Path) -> list[Path]:
    """Two files of three samples each."""
    files = [tmp_path / "raw" / "a.zarr", tmp_path / "raw" / "b.zarr"]
    for file, part in zip(files, (SAMPLES[:3], SAMPLES[3:]), strict=True):
        zarr.create_array(file, data=part, chunks=(1, 256, 256))
    return files


def open_tiles(output: Path, first_sample: int) -> set[Names]:
    """The tiles that an output still needs."""
    verification = tw.verify(output, progress=False)
    plan = verification.plan
    tiles = {tile for unit in verification.conditions for tile in plan.tiles_of_unit(unit)}
    regions = [plan.valid_region(tile) for tile in tiles]
    return {(first_sample + sample, *(start for start, _ in spatial)) for (sample, _), *spatial in regions}


def check_seen(seen: list[list[Names]], needed: set[Names], num_workers: int = 0) -> None:
    """All tiles that are needed were predicted, and no other batch but those that a data loader reads ahead."""
    assert needed <= {name for batch in seen for name in batch}
    # One batch, and two of each worker.
    assert len([batch for batch in seen if needed.isdisjoint(batch)]) <= 1 + 2 * num_workers


@pytest.mark.parametrize(("num_workers", "error"), [(0, Failure), (0, KeyboardInterrupt), (2, Failure)])
def test_a_trainer_that_failed_predicts_only_what_is_missing(
    num_workers: int, error: type[BaseException], samples: list[Path], tmp_path: Path
) -> None:
    train(tmp_path / "whole", samples, network_of([]), num_workers=num_workers)
    outputs = [tmp_path / "out" / "a.zarr", tmp_path / "out" / "b.zarr"]
    with pytest.raises((error, SystemExit)):
        train(tmp_path / "out", samples, failing_at(18, error), num_workers=num_workers)
    assert tw.verify(outputs[0], progress=False).is_complete
    needed = open_tiles(outputs[1], first_sample=3)
    batches = batches_of(samples, num_workers)
    # Two of six samples.
    assert len(needed) == sum(map(len, batches)) / 3
    seen: list[list[Names]] = []
    with left_alone(object_files(outputs[0])):
        strategy = train(tmp_path / "out", samples, network_of(seen), num_workers=num_workers)
    assert all(batch in batches for batch in seen)
    check_seen(seen, needed, num_workers)
    assert [(report.unit_count, report.kept_unit_count) for report in strategy.reports] == [(0, 3), (2, 1)]
    for output in outputs:
        assert_is_whole(output, tree(tmp_path / "whole" / output.name))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_trainer_with_nothing_left_to_do_predicts_what_was_read_ahead_at_most(
    num_workers: int, samples: list[Path], tmp_path: Path
) -> None:
    train(tmp_path / "out", samples, network_of([]), num_workers=num_workers)
    output, seen = tmp_path / "out" / "a.zarr", []
    with unchanged(output), left_alone(object_files(output)):
        strategy = train(tmp_path / "out", samples, network_of(seen), num_workers=num_workers)
    check_seen(seen, set(), num_workers)
    assert [(report.unit_count, report.kept_unit_count) for report in strategy.reports] == [(0, 3), (0, 3)]


def test_a_trainer_that_saw_some_batches_only_is_completed_by_the_next(samples: list[Path], tmp_path: Path) -> None:
    train(tmp_path / "whole", samples, network_of([]))
    with pytest.raises(IncompleteImageError, match=r"image .*a\.zarr misses .*b\.zarr is missing"):
        train(tmp_path / "out", samples, network_of([]), limit=5)
    assert len(records_of(tmp_path / "out" / "a.zarr")) == 1
    assert not ledger_of(tmp_path / "out" / "b.zarr").exists()
    strategy = train(tmp_path / "out", samples, network_of([]))
    assert sum(report.kept_unit_count for report in strategy.reports) == 1
    for name in ("a.zarr", "b.zarr"):
        assert_is_whole(tmp_path / "out" / name, tree(tmp_path / "whole" / name))


def test_a_data_loader_whose_workers_live_on_yields_what_each_run_needs(samples: list[Path], tmp_path: Path) -> None:
    loader = loader_of(samples[:1], num_workers=2, persistent_workers=True)
    output = tmp_path / "out" / "a.zarr"
    with pytest.raises(Failure):
        train(tmp_path / "out", samples, failing_at(6), loader=loader)
    needed = open_tiles(output, first_sample=0)
    # Two of three samples.
    assert len(needed) == 32
    seen: list[list[Names]] = []
    train(tmp_path / "out", samples, network_of(seen), loader=loader)
    check_seen(seen, needed, num_workers=2)
    # A run that begins anew needs every tile once more.
    seen.clear()
    train(tmp_path / "whole", samples, network_of(seen), loader=loader)
    every = batches_of(samples[:1], num_workers=2)
    assert sorted(name for batch in seen for name in batch) == sorted(name for batch in every for name in batch)
    assert_is_whole(output, tree(tmp_path / "whole" / "a.zarr"))


def test_a_damaged_object_costs_a_trainer_the_tiles_of_its_unit(samples: list[Path], tmp_path: Path) -> None:
    train(tmp_path / "out", samples, network_of([]))
    output = tmp_path / "out" / "b.zarr"
    before, stored = tree(output), identities(object_files(output))
    victim = object_files(output)[5]
    flip(victim)
    needed = open_tiles(output, first_sample=3)
    seen: list[list[Names]] = []
    train(tmp_path / "out", samples, network_of(seen))
    check_seen(seen, needed)
    plan = header_of(output).plan
    touched = files_of_unit(output, plan, unit_of(output, plan, victim))
    after = identities(object_files(output))
    assert {file for file in stored if stored[file] != after[file]} == set(touched)
    assert tree(output) == before


@pytest.mark.parametrize(
    ("options", "weight", "differing"),
    [
        ({}, 1.5, "model: .*Network .* then, .*Network .* now"),
        ({"chunks": (1, 128, 128)}, 1.0, "chunks: "),
        ({"dtype": "float64"}, 1.0, "dtype: float32 then, float64 now"),
        ({"fill_value": 3}, 1.0, "fill value: 0.0 then, 3.0 now"),
        ({"precision": "bf16-true"}, 1.0, "predicted by: a trainer of precision 32-true.* then, .*bf16-true.* now"),
    ],
)
def test_a_trainer_with_something_else_is_refused_before_it_predicts(
    options: dict[str, Any], weight: float, differing: str, samples: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(Failure):
        train(tmp_path / "out", samples, failing_at(6))
    seen: list[list[Names]] = []
    words = f"begun from something else.*{differing}"
    with unchanged(tmp_path / "out"), pytest.raises(ResumeError, match=words):
        train(tmp_path / "out", samples, network_of(seen, weight), **options)
    assert not seen


@pytest.mark.usefixtures("trainers")
def test_a_trainer_of_which_one_image_is_another_one_changes_no_output(samples: list[Path], tmp_path: Path) -> None:
    train(tmp_path / "out", samples, network_of([]))
    for name in ("a.zarr", "b.zarr"):
        flip(object_files(tmp_path / "out" / name)[0])
    zarr.create_array(samples[1], data=SAMPLES[:3], chunks=(1, 256, 256), overwrite=True)
    words = r"b\.zarr was begun from something else.*source: "
    with unchanged(tmp_path / "out"), pytest.raises(ResumeError, match=words):
        train(tmp_path / "out", samples, network_of([]))


@pytest.mark.usefixtures("trainers")
def test_arrays_that_share_a_store_are_resumed_each_by_its_own_ledger(tmp_path: Path) -> None:
    sources = [SAMPLES[:2], SAMPLES[2:4]]
    train(tmp_path / "whole", sources, network_of([]))
    train(tmp_path / "out", sources, network_of([]))
    store = tmp_path / "out" / "prediction.zarr"
    flip(object_files(store / "1")[0])
    # A run was killed before it had begun the other one.
    with left_alone(object_files(store / "0")):
        strategy = train(tmp_path / "out", sources, network_of([]))
    assert [report.unit_count for report in strategy.reports] == [0, 1]
    shutil.rmtree(store / "1")
    shutil.rmtree(tmp_path / "out" / "prediction.zarr.ledger" / "1")
    strategy = train(tmp_path / "out", sources, network_of([]))
    assert [report.unit_count for report in strategy.reports] == [0, 2]
    assert tree(store) == tree(tmp_path / "whole" / "prediction.zarr")
