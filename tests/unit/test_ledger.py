"""A ledger says nothing that no run has said, whatever becomes of its files, and forgets only what was torn off."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import write_plans
from tests.support import files_of_at_most

from tilewright.errors import DestinationError, ResumeError
from tilewright.ledger.header import Header
from tilewright.ledger.ledger import Ledger, LedgerFolder
from tilewright.ledger.receipts import UnitReceipt
from tilewright.ledger.records import Record, Status, record_nbytes
from tilewright.plan import WritePlan, plan_write

PLAN = plan_write((100_000, 100_000), "YX", (64, 64), (16, 16), chunks=(48, 48), memory_nbytes=2**20)
"""It has more units than any test records."""
HEADER = Header({"model": "a", "chunks": [64, 64]}, PLAN)
HEADER_NBYTES = len(HEADER.to_bytes())
RECORD_NBYTES = record_nbytes(PLAN)

FULL_MESSAGE = "could not write the ledger"


def in_64_bits() -> st.SearchStrategy[int]:
    return st.integers(0, 2**64 - 1)


def records_of(units: st.SearchStrategy[int]) -> st.SearchStrategy[Record]:
    """What a run may say of a unit; nothing is known of the objects of one that was given up."""
    extremes = st.binary(min_size=PLAN.extremes_nbytes, max_size=PLAN.extremes_nbytes)
    status, count = st.just(Status.WRITTEN), st.integers(0, 2**32 - 1)
    written = st.builds(Record, units, status, count, in_64_bits(), in_64_bits(), st.just(0), extremes)
    return st.one_of(written, st.builds(given_up, units))


def given_up(unit: int, plan: WritePlan = PLAN) -> Record:
    return Record(unit, Status.GIVEN_UP, extremes=bytes(plan.extremes_nbytes))


FEW_UNITS = st.integers(0, 5)
"""So that most units are recorded more than once."""
ANY_UNIT = st.integers(0, PLAN.unit_count - 1)


def add(ledger: Ledger, record: Record) -> None:
    if record.status is Status.GIVEN_UP:
        ledger.add_given_up(record.unit)
    else:
        unit, count, nbytes, digest = record.unit, record.object_count, record.stored_nbytes, record.digest
        ledger.add_written(UnitReceipt(unit, count, nbytes, digest, extremes=record.extremes))


def add_all(ledger: Ledger, records: Sequence[Record]) -> Sequence[Record]:
    for record in records:
        add(ledger, record)
    return records


def some_records(count: int, first: int = 0, plan: WritePlan = PLAN) -> list[Record]:
    """Records of which every byte matters."""
    extremes = bytes(1 + place % 255 for place in range(plan.extremes_nbytes))
    return [
        given_up(unit, plan)
        if unit % 4 == 3
        else Record(unit, Status.WRITTEN, unit + 1, 1000 + unit, 2**63 + 12345 * unit, extremes=extremes)
        for unit in range(first, first + count)
    ]


def begun(folder: Path, header: Header = HEADER) -> Ledger:
    """Begin a ledger with the next number, as a run that holds the lock."""
    ledger = LedgerFolder(folder)
    return ledger.begin(header, ledger.next_number(), lambda: None)


def record_run(folder: Path, records: Sequence[Record], header: Header = HEADER) -> Path:
    """Let one run record, and return its file."""
    ledger = begun(folder, header)
    add_all(ledger, records)
    ledger.close()
    return ledger.file


def by_unit(*runs: Sequence[Record]) -> dict[int, Record]:
    """What a ledger of these runs must say."""
    return {record.unit: record for run in runs for record in run}


def said_in(folder: Path) -> dict[int, Record]:
    """What the ledger in a folder says, however one asks for it."""
    records = LedgerFolder(folder).records()
    said = {record.unit: record for record in records}
    assert list(said) == sorted(said)
    assert len(records) == len(said)
    assert records.absent(8) == [unit for unit in range(8) if unit not in said]
    return said


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of one example of Hypothesis."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# --- What is read back.


@settings(max_examples=60)
@given(st.lists(st.lists(st.one_of(records_of(FEW_UNITS), records_of(ANY_UNIT), st.none()), max_size=12), max_size=4))
def test_the_last_record_of_each_unit_counts_over_all_runs(runs: list[list[Record | None]]) -> None:
    with temporary_folder() as folder:
        for run in runs:
            ledger = begun(folder)
            for record in run:
                if record is None:
                    ledger.flush()
                else:
                    add(ledger, record)
            ledger.close()
        assert said_in(folder) == by_unit(*([record for record in run if record is not None] for run in runs))


NAMES = st.text(max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(NAMES, VALUES, max_size=5), write_plans(), st.text(max_size=20))
def test_the_header_comes_back_as_it_was_given(fingerprint: dict[str, Any], plan: WritePlan, output: str) -> None:
    header = Header(fingerprint, plan, output, arrays={"0": {"zarr_format": 3, "attributes": fingerprint}})
    line = header.to_bytes()[: len(header.to_bytes()) // 2]
    assert line.count(b"\n") == 1
    assert Header.from_line(line) == header
    with temporary_folder() as folder:
        record_run(folder, some_records(2, plan=plan), header)
        found = LedgerFolder(folder).header()
        assert found == header
        assert found is not None
        # What is worked out from the numbers is the same too, not only the numbers.
        assert found.plan.unit_count == plan.unit_count
        assert found.plan.objects_of_unit(plan.unit_count - 1) == plan.objects_of_unit(plan.unit_count - 1)
        assert found.plan.tiles_of_unit(0) == plan.tiles_of_unit(0)
        assert said_in(folder) == by_unit(some_records(min(2, plan.unit_count), plan=plan))


def test_a_folder_that_is_not_there_has_no_ledger(tmp_path: Path) -> None:
    ledger = LedgerFolder(tmp_path / "none")
    assert ledger.header() is None
    assert said_in(ledger.path) == {}
    assert ledger.inner() == []
    ledger.remove(ledger.replaced(), lambda: None)
    assert not ledger.path.exists()


def test_other_files_in_the_folder_are_no_ledger(tmp_path: Path) -> None:
    file = record_run(tmp_path, some_records(3))
    for name in ("lock", "notes.txt", "copy.ledger", "000001.ledger.bak", f"000002.ledger.{'0' * 32}.partial"):
        shutil.copy(file, tmp_path / name)
    assert record_run(tmp_path, some_records(1, first=50)).name == "000002.ledger"
    assert said_in(tmp_path) == by_unit(some_records(3), some_records(1, first=50))


def test_the_runs_count_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    runs = [[replace(some_records(1)[0], stored_nbytes=number)] for number in range(12)]
    files = [record_run(tmp_path, run) for run in runs]
    assert files == sorted(files)
    assert said_in(tmp_path) == by_unit(runs[-1])


# --- When it is written.


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=8))
def test_records_are_appended_at_a_flush_and_not_before(steps: list[tuple[int, bool]]) -> None:
    with temporary_folder() as folder:
        ledger = begun(folder)
        expected = ledger.file.read_bytes()
        assert expected == HEADER.to_bytes()
        waiting = b""
        unit = 0
        for count, is_flush in steps:
            for record in some_records(count, first=unit):
                add(ledger, record)
                waiting += record.to_bytes()
            unit += count
            assert ledger.file.read_bytes() == expected
            if is_flush:
                ledger.flush()
                expected, waiting = expected + waiting, b""
                # A reader at this moment sees all of it: nothing is left in the memory of this process.
                assert ledger.file.read_bytes() == expected
                assert said_in(folder) == by_unit(some_records((len(expected) - HEADER_NBYTES) // RECORD_NBYTES))
        ledger.close()
        assert ledger.file.read_bytes() == expected + waiting
        ledger.close()
        assert ledger.file.read_bytes() == expected + waiting


@pytest.mark.slow
def test_a_unit_costs_at_most_64_bytes(tmp_path: Path) -> None:
    ledger = begun(tmp_path)
    before = ledger.file.stat().st_size
    count = 20_000
    for record in some_records(count):
        add(ledger, record)
        if record.unit % 1000 == 0:
            ledger.flush()
    ledger.close()
    assert [file.name for file in tmp_path.iterdir()] == [ledger.file.name]
    assert ledger.file.stat().st_size - before <= 64 * count
    assert said_in(tmp_path) == by_unit(some_records(count))


def test_a_later_run_does_not_touch_the_file_of_an_earlier_one(tmp_path: Path) -> None:
    first = record_run(tmp_path, some_records(4))
    # A run that was killed in the middle of a record.
    with first.open("ab") as file:
        file.write(some_records(1, first=4)[0].to_bytes()[:17])
    content, status = first.read_bytes(), first.stat()
    later = [given_up(1), *some_records(2, first=6)]
    second = record_run(tmp_path, later)
    assert second != first
    assert first.read_bytes() == content
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (status.st_mtime_ns, status.st_ino)
    assert said_in(tmp_path) == by_unit(some_records(4), later)


# --- What damage does.


@pytest.mark.parametrize("earlier_runs", [0, 1])
def test_cutting_the_last_file_at_any_byte_loses_whole_records_from_its_end(earlier_runs: int, tmp_path: Path) -> None:
    # The last run says something else of the same units.
    earlier = [given_up(unit) for unit in range(3)] * earlier_runs
    if earlier_runs:
        record_run(tmp_path, earlier)
    later = some_records(5)
    file = record_run(tmp_path, later)
    whole = file.read_bytes()
    assert len(whole) == HEADER_NBYTES + 5 * RECORD_NBYTES
    ledger = LedgerFolder(tmp_path)
    for length in (len(whole), *reversed(places_in(whole))):
        os.truncate(file, length)
        kept = max(0, length - HEADER_NBYTES) // RECORD_NBYTES
        assert said_in(ledger.path) == by_unit(earlier, later[:kept]), length
        # All that a header says is in front of the end of its first line.
        if earlier_runs or length >= HEADER_NBYTES // 2 - 1:
            assert ledger.header() == HEADER, length
        else:
            with pytest.raises(ResumeError, match=str(tmp_path)):
                ledger.header()


def places_in(whole: bytes) -> list[int]:
    """Every place in the records, and some in the header: all where its parts, its lines and the records meet."""
    line = HEADER_NBYTES // 2
    borders = (0, line, HEADER_NBYTES)
    near = {place for border in borders for place in range(border - 3, border + 32) if place < HEADER_NBYTES}
    return sorted({*range(0, HEADER_NBYTES, 31), *range(HEADER_NBYTES, len(whole)), *near} - {-3, -2, -1})


def changes_of(byte: int) -> set[int]:
    """Other values of a byte: one bit, as of a small letter, all bits, and what ends a line."""
    return {byte ^ 1, byte ^ 0x20, byte ^ 0x80, byte ^ 0xFF, ord("\n")} - {byte}


@pytest.mark.slow
def test_a_changed_byte_costs_its_own_record_at_most(tmp_path: Path) -> None:
    earlier = [given_up(unit) for unit in range(3)]
    record_run(tmp_path, earlier)
    later = some_records(5)
    file = record_run(tmp_path, later)
    whole = file.read_bytes()
    ledger = LedgerFolder(tmp_path)
    # In its place: a file that is cut and written anew costs the disk far more.
    with file.open("r+b", buffering=0) as opened:
        for place in places_in(whole):
            byte = whole[place]
            # Of the header there are two copies.
            hit = (place - HEADER_NBYTES) // RECORD_NBYTES if place >= HEADER_NBYTES else None
            left = [record for number, record in enumerate(later) if number != hit]
            expected = by_unit(earlier, left)
            for changed in changes_of(byte):
                os.pwrite(opened.fileno(), bytes([changed]), place)
                assert {record.unit: record for record in ledger.records()} == expected, (place, changed)
            os.pwrite(opened.fileno(), bytes([byte]), place)
    assert file.read_bytes() == whole
    assert said_in(ledger.path) == by_unit(earlier, later)


@settings(max_examples=60)
@given(st.data())
def test_garbage_is_never_taken_for_a_record(data: st.DataObject) -> None:
    later = data.draw(st.lists(records_of(FEW_UNITS), min_size=1, max_size=8))
    whole = HEADER.to_bytes() + b"".join(record.to_bytes() for record in later)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    garbage = data.draw(st.binary(max_size=3 * RECORD_NBYTES))
    with temporary_folder() as folder:
        record_run(folder, []).write_bytes(whole[:start] + garbage + whole[stop:])
        found = said_in(folder)
        assert set(found.values()) <= set(later)
        assert all(unit == record.unit for unit, record in found.items())
        # What lies before the garbage, and what lies behind it where nothing has moved, is still there.
        safe = later[: max(0, start - HEADER_NBYTES) // RECORD_NBYTES]
        assert {record.unit for record in safe} <= found.keys()


@pytest.mark.parametrize("filler", [b"\x00", b"\xff", b"\n"])
def test_what_a_file_system_fills_a_torn_file_with_is_no_record(filler: bytes, tmp_path: Path) -> None:
    file = record_run(tmp_path, some_records(3))
    whole = file.read_bytes()
    file.write_bytes(whole[: -RECORD_NBYTES // 2] + filler * 5000)
    assert said_in(tmp_path) == by_unit(some_records(2))
    file.write_bytes(filler * 5000)
    assert said_in(tmp_path) == {}
    with pytest.raises(ResumeError):
        LedgerFolder(tmp_path).header()


def test_a_status_that_no_run_gives_is_no_record() -> None:
    record = some_records(1)[0]
    known = record.to_bytes()
    assert Record.from_bytes(known) == record
    for status in (0, 3, 255, 2**16 - 1):
        # Of a later version, say: with a right checksum.
        raw = replace(record, status=status).to_bytes()  # type: ignore[arg-type]
        assert Record.from_bytes(raw) is None


def test_the_header_is_that_of_the_first_file_that_can_be_read(tmp_path: Path) -> None:
    first = record_run(tmp_path, some_records(2))
    record_run(tmp_path, some_records(2, first=2))
    first.write_bytes(first.read_bytes().replace(b"tilewright-ledger-5", b"tilewright-ledger-1"))
    assert LedgerFolder(tmp_path).header() == HEADER
    # Records of a file do not count where it is not known what it is about.
    assert said_in(tmp_path) == by_unit(some_records(2, first=2))


# --- A file system that takes nothing any more.


def test_a_write_that_is_cut_short_leaves_whole_records_only(tmp_path: Path) -> None:
    for room in range(3 * RECORD_NBYTES + 1):
        folder = tmp_path / str(room)
        ledger = begun(folder)
        add_all(ledger, some_records(2))
        ledger.flush()
        add_all(ledger, some_records(4, first=2))
        with files_of_at_most(HEADER_NBYTES + 2 * RECORD_NBYTES + room):
            with pytest.raises(DestinationError, match=FULL_MESSAGE) as raised:
                ledger.flush()
            kept = 2 + room // RECORD_NBYTES
            assert ledger.file.stat().st_size == HEADER_NBYTES + kept * RECORD_NBYTES
            assert said_in(folder) == by_unit(some_records(kept))
            # What could not be written is not tried again: the run that meant it has ended.
            ledger.flush()
        assert raised.value.errno == errno.EFBIG
        assert raised.value.filename == str(ledger.file)
        later = add_all(ledger, some_records(2, first=90))
        ledger.close()
        assert said_in(folder) == by_unit(some_records(kept), later)


def fill(disk: Path) -> Callable[[], None]:
    """Take all that is left of a disk, and return what gives it back."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))
    assert shutil.disk_usage(disk).free == 0
    return filler.unlink


def test_a_full_disk_costs_only_what_did_not_fit(small_disk: Path) -> None:
    folder = small_disk / "o.zarr.ledger"
    first = record_run(folder, some_records(3))
    before = first.read_bytes()
    ledger = begun(folder)
    give_back = fill(small_disk)
    later = add_all(ledger, some_records(1000, first=100))
    with pytest.raises(DestinationError, match=FULL_MESSAGE) as raised:
        ledger.flush()
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(ledger.file)
    # The last page of the file had some room.
    kept, rest = divmod(ledger.file.stat().st_size - HEADER_NBYTES, RECORD_NBYTES)
    assert rest == 0
    assert 0 < kept < len(later)
    assert said_in(folder) == by_unit(some_records(3), later[:kept])
    assert LedgerFolder(folder).header() == HEADER
    assert first.read_bytes() == before
    # No room for one byte more: neither for this run nor for the next one.
    names = sorted(file.name for file in folder.iterdir())
    with pytest.raises(OSError, match="No space left") as raised_by_begin:
        begun(folder, Header({"long": "x" * 5000}, PLAN))
    assert raised_by_begin.value.errno == errno.ENOSPC
    assert sorted(file.name for file in folder.iterdir()) == names
    give_back()
    after = add_all(ledger, some_records(2, first=5000))
    ledger.close()
    assert said_in(folder) == by_unit(some_records(3), later[:kept], after)


# --- Ledgers of several groups in one store.


def test_the_ledgers_of_groups_are_named_and_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "all.zarr.ledger"
    for number, group in enumerate(["b", "a", "plates/1/x"]):
        record_run(folder / group, some_records(2, first=10 * number))
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "lock").touch()
    ledger = LedgerFolder(folder)
    assert ledger.inner() == ["a", "b", "plates/1/x"]
    assert ledger.header() is None
    assert said_in(ledger.path) == {}
    assert LedgerFolder(folder / "plates").inner() == ["1/x"]
    assert LedgerFolder(folder / "a").inner() == []
    assert said_in(folder / "a") == by_unit(some_records(2, first=10))


def test_what_replaces_an_output_forgets_the_runs_before_it_alone(tmp_path: Path) -> None:
    folder = tmp_path / "all.zarr.ledger"
    record_run(folder, some_records(2))
    record_run(folder, some_records(2))
    inner = record_run(folder / "a", some_records(3))
    notes = folder / "000000.ledger"
    notes.write_text("a list of what is to be done")
    (folder / "lock").write_text("{}")
    content = inner.read_bytes()
    new = replace(HEADER, replaces="output", fingerprint={"model": "b"})
    record_run(folder, some_records(1, first=7), new)
    ledger = LedgerFolder(folder)
    assert ledger.header() == new
    assert said_in(folder) == by_unit(some_records(1, first=7))
    ledger.remove(ledger.replaced(), lambda: None)
    # What is no file of a ledger stays, whatever its name.
    assert sorted(entry.name for entry in folder.iterdir()) == ["000000.ledger", "000003.ledger", "a", "lock"]
    assert inner.read_bytes() == content
    assert record_run(folder, some_records(1, first=2), replace(new, replaces="")).name == "000004.ledger"
    assert said_in(folder) == by_unit(some_records(1, first=7), some_records(1, first=2))


# --- What others have made of it.


def test_files_of_one_ledger_must_be_about_the_same_output(tmp_path: Path) -> None:
    first = record_run(tmp_path, some_records(2))
    # Of a run that had more memory, where the output had another name.
    record_run(tmp_path, [], replace(HEADER, output="elsewhere", plan=replace(PLAN, window_nbytes=7)))
    assert LedgerFolder(tmp_path).header() == HEADER
    other = record_run(
        tmp_path, some_records(2), replace(HEADER, plan=plan_write((900, 300), "YX", (64, 64), (16, 16)))
    )
    for call in (LedgerFolder(tmp_path).header, LedgerFolder(tmp_path).records):
        with pytest.raises(ResumeError, match=f"{first} and {other}.*different outputs"):
            call()


def test_a_record_of_a_unit_that_the_plan_does_not_have_is_none(tmp_path: Path) -> None:
    record_run(tmp_path, [*some_records(1, first=PLAN.unit_count), *some_records(2)])
    assert said_in(tmp_path) == by_unit(some_records(2))


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": 3},
        {"array": []},
        {"output": None},
        {"replaces": "all"},
        {"more": 1},
        {"plan": {}},
        {"plan": PLAN.to_dict() | {"chunks": [0, 0]}},
        {"plan": PLAN.to_dict() | {"tilings": []}},
        {"plan": PLAN.to_dict() | {"units": "many"}},
    ],
    ids=str,
)
def test_a_header_that_was_made_by_hand_is_none(change: dict[str, Any], tmp_path: Path) -> None:
    fields = json.loads(HEADER.to_bytes().splitlines()[0].split(b" ", 2)[2]) | change
    text = json.dumps(fields).encode()
    (tmp_path / "000001.ledger").write_bytes(2 * (b"tilewright-ledger-5 %08x %s\n" % (crc32(text), text)))
    with pytest.raises(ResumeError, match="damaged"):
        LedgerFolder(tmp_path).header()


@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")],
    ids=["a folder", "a pipe", "a link that leads nowhere"],
)
def test_what_has_the_name_of_a_file_and_is_none_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    record_run(tmp_path, some_records(2))
    path = tmp_path / "000002.ledger"
    make(path)
    with pytest.raises(ResumeError, match=str(path)):
        LedgerFolder(tmp_path).header()


def test_what_is_no_folder_of_a_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("notes")
    with pytest.raises(DestinationError, match="is no folder"):
        LedgerFolder(tmp_path / "file").header()
    with pytest.raises(OSError, match="is no folder, or lies in none") as raised:
        begun(tmp_path / "file" / "o.ledger")
    assert str(tmp_path / "file") in str(raised.value.filename)
