"""A unit is intact if, and only if, its objects are byte for byte what was stored; nothing found there is an error."""

import itertools
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import in_small_units
from tests.support import Case, CountingStore, PositionModel, Receipts, cases, identities, tree
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from tilewright.coordinator import Coordinator
from tilewright.executors.serial import SerialExecutor
from tilewright.executors.work import Work
from tilewright.geometry import AxisUnits
from tilewright.ledger.records import Record, Status
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.unit_checker import Condition, UnitChecker
from tilewright.objects.unit_writer import UnitWriter
from tilewright.plan import WritePlan, plan_write
from tilewright.runs.run import Run

SHAPE = (14, 17)
"""Its last objects reach beyond the image on both axes."""
INTACT, MISSING, SHORT, DAMAGED = Condition.INTACT, Condition.MISSING, Condition.SHORT, Condition.DAMAGED


@dataclass
class Written:
    """An array that was written, and what a ledger says of its units."""

    checker: UnitChecker
    records: dict[int, Record]

    @property
    def plan(self) -> WritePlan:
        return self.checker.plan

    @property
    def store(self) -> Any:
        return self.checker.encoders[0].array.store

    def keys(self, unit: int) -> list[str]:
        encoder = self.checker.encoders[self.plan.array_of_unit(unit)]
        return [encoder.key(position) for position in self.plan.objects_of_unit(unit)]

    def check(self, unit: int) -> Condition:
        return self.checker.check(self.records[unit])

    def others_are_intact(self, unit: int = -1) -> bool:
        return all(self.check(other) is INTACT for other in self.records if other != unit)

    def objects(self) -> Iterator[tuple[int, str, bytes]]:
        """Iterate over all objects: unit, key and content."""
        for unit in self.records:
            for key in self.keys(unit):
                yield unit, key, self.get(key)

    # What happens to stored objects, through the store as any other program sees it.

    def get(self, key: str) -> bytes:
        stored = sync(self.store.get(key, default_buffer_prototype()))
        assert stored is not None
        return bytes(stored.to_bytes())

    def put(self, contents: dict[str, bytes | None]) -> None:
        for key, content in contents.items():
            if content is None:
                sync(self.store.delete(key))
            else:
                sync(self.store.set(key, cpu.Buffer.from_bytes(content)))

    def check_with(self, unit: int, contents: dict[str, bytes | None]) -> Condition:
        """Look at a unit while some objects hold something else, or are gone."""
        before: dict[str, bytes | None] = {key: self.get(key) for key in contents}
        self.put(contents)
        try:
            return self.check(unit)
        finally:
            self.put(before)

    def path(self, key: str) -> Path:
        return Path(self.store.root) / key


def written(case: Case, destination: Any) -> Written:
    """Predict and write a case, and keep the receipts as a ledger does."""
    encoders = tuple(map(ObjectEncoder, case.create(destination)))
    receipts = Receipts()
    work = Work(case.plan, UnitWriter(case.plan, encoders), case.prediction())
    Run(Coordinator(case.plan), SerialExecutor(work), receipts).predict_and_write()
    records = {
        made.unit: Record(made.unit, Status.WRITTEN, made.object_count, made.stored_nbytes, made.digest, made.array)
        for made in receipts
    }
    assert sorted(records) == list(range(case.plan.unit_count))
    return Written(UnitChecker(case.plan, dict(enumerate(encoders))), records)


def in_units_of_objects(plan: WritePlan, count: int) -> WritePlan:
    """The same plan, in units of so many objects per axis: tiles straddle them."""
    units = tuple(
        AxisUnits(tiling.extent, count * stored)
        for tiling, stored in zip(plan.tilings, plan.arrays[0].stored_extents, strict=True)
    )
    return replace(plan, arrays=(replace(plan.arrays[0], units=units),))


# The options of the plan, the compressors and the format.
KINDS: dict[str, tuple[dict[str, Any], Any, int]] = {
    "straddling": ({}, None, 3),
    "aligned": ({"chunks": (3, 5), "layout": "aligned"}, None, 3),
    "sharded": ({"shards": (4, 10)}, None, 3),
    "format 2": ({}, None, 2),
    "compressed": ({}, "auto", 3),
}
STORES = ["folder", "memory"]


def case_of(kind: str) -> Case:
    options, compressors, zarr_format = KINDS[kind]
    image = np.random.default_rng(5).integers(0, 60_000, SHAPE).astype("uint16")
    options = {"chunks": (4, 5), "layout": "compact"} | options
    plan = plan_write(SHAPE, "YX", (8, 8), (2, 2), dtype="uint16", **options)
    plan = in_small_units(plan) if kind == "aligned" else in_units_of_objects(plan, 2)
    assert plan.units_are_independent == (kind == "aligned")
    assert plan.unit_count > 1
    return Case(image, "YX", plan, PositionModel(1, "uint16"), compressors, zarr_format)


@pytest.fixture(params=[(kind, store) for kind in KINDS for store in STORES], ids="-".join)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    kind, store = request.param
    return written(case_of(kind), MemoryStore() if store == "memory" else tmp_path / "o.zarr")


@pytest.fixture
def in_folder(tmp_path: Path) -> Written:
    return written(case_of("straddling"), tmp_path / "o.zarr")


def test_every_object_belongs_to_one_unit_of_which_any_changed_byte_is_damage(output: Written) -> None:
    assert output.others_are_intact()
    keys = [key for _, key, _ in output.objects()]
    assert len(set(keys)) == len(keys) == output.plan.object_count
    assert sum(len(content) for _, _, content in output.objects()) == sum(
        record.stored_nbytes for record in output.records.values()
    )
    for unit, key, content in output.objects():
        for place in {len(content) - 1, *range(0, len(content), max(1, len(content) // 6))}:
            changed = bytearray(content)
            changed[place] ^= 1 << (place % 8)
            assert output.check_with(unit, {key: bytes(changed)}) is DAMAGED, (key, place)
    assert output.others_are_intact()


Spoil = Callable[[bytes], bytes | None]

SPOILED: dict[str, tuple[Spoil, Condition]] = {
    "deleted": (lambda _: None, MISSING),
    "shorter by a byte": (lambda content: content[:-1], SHORT),
    "without its first byte": (lambda content: content[1:], SHORT),
    "half of it": (lambda content: content[: len(content) // 2], SHORT),
    "empty": (lambda _: b"", SHORT),
    "longer by a byte": (lambda content: content + b"\x00", DAMAGED),
    "twice": (lambda content: content + content, DAMAGED),
    "zeros": (lambda content: bytes(len(content)), DAMAGED),
    "one byte moved": (lambda content: content[1:] + content[:1], DAMAGED),
}


@pytest.mark.slow
def test_what_becomes_of_an_object_is_told_of_its_unit_and_of_no_other(output: Written) -> None:
    for unit, key, content in output.objects():
        for how, (spoil, expected) in SPOILED.items():
            changed = spoil(content)
            assert changed != content
            output.put({key: changed})
            assert output.check(unit) is expected, (how, key)
            # The objects of a unit look alike from the others.
            assert key != output.keys(unit)[0] or output.others_are_intact(unit), (how, key)
        output.put({key: content})
    assert output.others_are_intact()
    output.put({key: None for _, key, _ in list(output.objects())})
    assert {output.check(unit) for unit in output.records} == {MISSING}


def neighbours(output: Written) -> Iterator[tuple[int, str, str, bytes, bytes]]:
    """Each two objects of one unit that follow each other, and what they hold."""
    assert any(len(output.keys(unit)) > 1 for unit in output.records)
    for unit in output.records:
        for first, second in itertools.pairwise(output.keys(unit)):
            yield unit, first, second, output.get(first), output.get(second)


def test_objects_that_have_changed_places_are_damage(output: Written) -> None:
    swapped = 0
    for unit, first, second, held, other in neighbours(output):
        if held != other:
            swapped += len(held) == len(other)
            assert output.check_with(unit, {first: other, second: held}) is DAMAGED
    if output.checker.encoders[0].array.compressors == ():
        assert swapped
    # Nor is an object one of another unit.
    keys = [(unit, output.keys(unit)[0]) for unit in output.records]
    for (unit, key), (_, other_key) in itertools.pairwise(keys):
        foreign = output.get(other_key)
        expected = SHORT if len(foreign) < len(output.get(key)) else DAMAGED
        assert output.check_with(unit, {key: foreign}) is expected


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7])
def test_bytes_that_move_from_one_object_to_the_next_are_damage(count: int, output: Written) -> None:
    for unit, first, second, held, other in neighbours(output):
        # One after the other they are the same bytes as before.
        for moved in (
            {first: held[:-count], second: held[-count:] + other},
            {first: held + other[:count], second: other[count:]},
            {first: held + other, second: b""},
        ):
            assert output.check_with(unit, moved) is DAMAGED
        assert output.check(unit) is INTACT


@settings(max_examples=20)
@given(cases(), st.data())
def test_whatever_the_plan_a_change_of_one_object_is_noticed(case: Case, data: st.DataObject) -> None:
    output = written(case, MemoryStore())
    assert output.others_are_intact()
    unit, key, content = data.draw(st.sampled_from(list(output.objects())))
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, len(content)))
    changed = content[:start] + data.draw(st.binary(max_size=8)) + content[stop:]
    output.put({key: changed})
    expected = INTACT if changed == content else SHORT if len(changed) < len(content) else DAMAGED
    assert output.check(unit) is expected
    assert output.others_are_intact(unit)


# --- What only a folder has.


def test_a_file_in_place_of_a_folder_of_objects_is_damage(in_folder: Written) -> None:
    folder = in_folder.path(in_folder.keys(0)[0]).parent
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("no folder")
    assert in_folder.check(0) is DAMAGED
    folder.unlink()
    assert in_folder.check(0) is MISSING
    aside.rename(folder)
    assert in_folder.check(0) is INTACT


def unreadable(path: Path) -> None:
    path.write_bytes(path.with_name("aside").read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.unlink()
        pytest.skip("this user may read everything")


def on_a_broken_disk(path: Path) -> None:
    broken = Path("/proc/self/mem")
    if not broken.exists():
        pytest.skip("a file that fails when it is read is one of Linux")
    with broken.open("rb", buffering=0) as file, pytest.raises(OSError, match="Input/output error"):
        file.read(1)
    path.symlink_to(broken)


INSTEAD: dict[str, tuple[Callable[[Path], None], Condition]] = {
    "a folder": (Path.mkdir, DAMAGED),
    "a pipe": (os.mkfifo, DAMAGED),
    "a link to itself": (lambda path: path.symlink_to(path), DAMAGED),
    "a link that leads nowhere": (lambda path: path.symlink_to("nowhere"), MISSING),
    "a file that may not be read": (unreadable, DAMAGED),
    "a file of which the disk gives nothing": (on_a_broken_disk, DAMAGED),
}


@pytest.mark.parametrize("what", INSTEAD)
def test_what_else_is_in_the_place_of_an_object_is_no_error(what: str, in_folder: Written) -> None:
    make, expected = INSTEAD[what]
    for unit, key, _ in list(in_folder.objects()):
        path = in_folder.path(key)
        aside = path.rename(path.with_name("aside"))
        make(path)
        assert in_folder.check(unit) is expected
        assert in_folder.others_are_intact(unit)
        path.rmdir() if path.is_dir() else path.unlink()
        aside.rename(path)
    assert in_folder.others_are_intact()


def test_looking_changes_nothing(in_folder: Written, tmp_path: Path) -> None:
    before, files = tree(tmp_path), [path for path in tmp_path.rglob("*") if path.is_file()]
    seen = identities(files)
    assert in_folder.others_are_intact()
    assert tree(tmp_path) == before
    assert identities(files) == seen


@pytest.mark.parametrize("piece_nbytes", [1, 7, 40, 41])
def test_an_object_that_is_read_in_pieces_is_the_same(piece_nbytes: int, in_folder: Written) -> None:
    in_folder.checker = replace(in_folder.checker, piece_nbytes=piece_nbytes)
    assert in_folder.others_are_intact()
    key = in_folder.keys(0)[-1]
    content = in_folder.get(key)
    assert in_folder.check_with(0, {key: content[:-1] + bytes([content[-1] ^ 1])}) is DAMAGED
    assert in_folder.check_with(0, {key: content[:-1]}) is SHORT


# --- What is asked, and how often.


def test_each_object_is_read_once_and_written_never_and_none_of_a_unit_that_was_given_up() -> None:
    store = CountingStore()
    output = written(case_of("straddling"), store)
    store.gets.clear()
    store.sets.clear()
    assert output.checker.check(Record(0, Status.GIVEN_UP)) is Condition.GIVEN_UP
    assert not store.gets
    assert output.others_are_intact()
    assert store.gets == {key: 1 for unit in output.records for key in output.keys(unit)}
    assert not store.sets
    assert not store.deletes


class BreakingStore(CountingStore):
    """A store that cannot read one object, and says so in its own way."""

    broken = ""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key == self.broken:
            raise RuntimeError("503 slow down")
        return await super().get(key, prototype, byte_range)


def test_an_object_that_a_store_cannot_read_is_damage() -> None:
    store = BreakingStore()
    output = written(case_of("straddling"), store)
    store.broken = output.keys(0)[-1]
    assert output.check(0) is DAMAGED
    assert output.others_are_intact(0)


def test_a_checker_that_has_travelled_finds_the_same(in_folder: Written) -> None:
    in_folder.put({in_folder.keys(1)[0]: None})
    elsewhere = pickle.loads(pickle.dumps(in_folder.checker))
    assert elsewhere.check(in_folder.records[0]) is INTACT
    assert elsewhere.check(in_folder.records[1]) is MISSING


def test_the_array_that_is_checked_may_be_opened_anew_and_read_only(in_folder: Written) -> None:
    array = in_folder.checker.encoders[0].array
    opened = zarr.open_array(LocalStore(array.store.root, read_only=True), path=array.path, mode="r")
    again = UnitChecker(in_folder.plan, {0: ObjectEncoder(opened)})
    assert {again.check(record) for record in in_folder.records.values()} == {INTACT}
