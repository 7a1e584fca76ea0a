"""What cannot be predicted or stored is tried a few times, given up by name, and takes nothing else with it."""

import asyncio
import errno
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.faults import giving_up
from tests.faults.giving_up import (
    CHUNKS,
    IMAGE,
    IN_THE_MIDDLE,
    TILES,
    batches_of,
    batches_with,
    ledger_of,
    seen_by,
    units_with,
)
from tests.faults.support import ROOT, hand_over
from tests.support import (
    Case,
    CountingStore,
    LayerError,
    Receipts,
    is_metadata,
    note,
    noted,
    raise_in_the_third_layer,
    stored_files,
)
from zarr.storage import LocalStore, MemoryStore

import tilewright as tw
from tilewright.cli.commands import commands as main
from tilewright.coordinator import Coordinator
from tilewright.coordinator.invariants import check_invariants
from tilewright.errors import ModelOutputError, SourceError, UnitGivenUpError
from tilewright.executors.placement import Placement
from tilewright.executors.serial import SerialExecutor
from tilewright.executors.work import Work
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.unit_writer import UnitWriter
from tilewright.plan import WritePlan, plan_write
from tilewright.runs import output_run
from tilewright.runs.run import Run
from tilewright.stores.patience import Patience
from tilewright.transport.clients import shares_memory

ATTEMPTS = 3
"""How often a tile is predicted, a unit written, and an object put in one of these, before it is given up."""
ALWAYS = 10**9
FILL = 0.5
"""No element of the image: those are whole."""
REQUEST: dict[str, Any] = TILES | {"fill_value": FILL, "compressors": None, "progress": False}
LAYOUTS = pytest.mark.parametrize("layout", ["compact", "aligned"])
BATCHES = pytest.mark.parametrize("batch_size", [1, 3])
IN_THIS_PROCESS = pytest.mark.parametrize("client", ["serial", "embedded", "of its own"], indirect=True)
ON_CLUSTERS = pytest.mark.parametrize("client", ["embedded", "two processes"], indirect=True)
IN_THE_FIRST_UNIT = float(IMAGE[10, 40])
"""In one tile only, of either layout, but not in the first tile."""

Unbroken = dict[tuple[str, str], dict[str, bytes]]
pytestmark = pytest.mark.usefixtures("small_units")


# --- Models. They reach workers by the name of this module.


@dataclass
class Fails:
    """Negate tiles; fail on a batch that holds an element, so many times, unless there is a file ``cured``."""

    folder: Path
    element: float
    times: int = ALWAYS

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        calls = [self._call(tile) for tile in tiles]
        if (tiles == self.element).any() and min(calls) <= self.times and not (self.folder / "cured").exists():
            raise_in_the_third_layer()
        return -tiles

    def _call(self, tile: np.ndarray) -> int:
        path = self.folder / f"{int(tile.flat[0])}.calls"
        note(str(path))
        return noted(path)

    def calls(self, plan: WritePlan) -> Counter[int]:
        """Return how often each tile was seen since the last time."""
        paths = {tile: self.folder / f"{int(seen_by(plan, tile).flat[0])}.calls" for tile in range(plan.tile_count)}
        calls = Counter({tile: noted(path) for tile, path in paths.items() if path.exists()})
        for path in paths.values():
            path.unlink(missing_ok=True)
        assert not list(self.folder.glob("*.calls"))
        return calls


class Unsendable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("no way out")


@dataclass
class Breaks:
    """A model that works once, and never again."""

    path: Path

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        note(str(self.path))
        if noted(self.path) > 1:
            raise_in_the_third_layer()
        return tiles


@dataclass
class HasManyExcuses:
    """A model that fails on most tiles, each time for another reason."""

    element: float

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if (tiles > self.element).any():
            raise ValueError(f"I do not like {int(tiles.flat[0])}")
        return -tiles


@dataclass
class DoesSomethingElse:
    """Negate tiles, but for a batch that holds an element."""

    element: float
    instead: Callable[[np.ndarray], np.ndarray]

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.instead(tiles) if (tiles == self.element).any() else -tiles


def return_twice_as_many_channels(tiles: np.ndarray) -> np.ndarray:
    return np.concatenate([-tiles, -tiles], axis=1)


def fail_unsendably(tiles: np.ndarray) -> np.ndarray:
    raise Unsendable("I stay here")


def leave(tiles: np.ndarray) -> np.ndarray:
    sys.exit(3)


# --- Where they run, and on what.


@pytest.fixture(params=["serial", "embedded", "two processes"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client | None]:
    """A cluster of each kind as the current one; the first has the executor that all others must equal."""
    if request.param == "of its own":
        # Each run opens one.
        yield None
        return
    if request.param == "serial":

        def serial_executor(placement: Any, plan: Any, writer: Any) -> SerialExecutor:
            return SerialExecutor(Work(plan, writer, placement._prediction))

        monkeypatch.setattr(Placement, "executor", serial_executor)
    found: Client = request.getfixturevalue("two_processes" if request.param == "two processes" else "embedded")
    with found.as_current():
        yield found


def be_impatient(patch: pytest.MonkeyPatch, answer_seconds: float = 30.0) -> None:
    """Do not wait for a store between attempts, nor long for an answer."""
    patience = Patience(pause_seconds=0.0, answer_seconds=answer_seconds)
    patch.setattr(output_run, "UnitWriter", partial(UnitWriter, patience=patience))


@pytest.fixture
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)


def predict(model: Any, source: Any, output: Any, *, stored: str = "chunks", **options: Any) -> tw.Report:
    return tw.predict_to_zarr(model, source, output, **REQUEST | CHUNKS[stored] | options)


def error_of(words: str, *arguments: Any, **options: Any) -> UnitGivenUpError:
    """Predict where some units cannot be written, and return the error that says so."""
    with pytest.raises(UnitGivenUpError, match=words) as caught:
        predict(*arguments, **options)
    return caught.value


@pytest.fixture(scope="module")
def unbroken(source: Path, embedded: Client, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """What runs that nothing happens to leave on the disk."""
    folder = tmp_path_factory.mktemp("unbroken")
    outputs = {}
    for layout in ("compact", "aligned"):
        for stored in CHUNKS:
            path = folder / f"{layout} {stored}.zarr"
            predict(np.negative, source, path, stored=stored, client=embedded, layout=layout)
            outputs[layout, stored] = stored_files(path)
    return outputs


# --- What is expected, from the words of the specification.

check_given_up = partial(giving_up.check_given_up, fill=FILL)


def calls_of(
    plan: WritePlan, batch_size: int, bad: list[tuple[int, ...]], *, in_groups: bool, fails: int = ALWAYS
) -> Counter[int]:
    """How often each tile is predicted, where some batches fail so many times."""
    # The first tile says what the model returns, before anything is planned; in this process that is of use later.
    calls = Counter([0] if in_groups or batch_size > 1 else [])
    attempts = min(fails + 1, ATTEMPTS)
    for batches in batches_of(plan, batch_size):
        ends = [i + 1 for i, batch in enumerate(batches) if batch in bad]
        begun, rest = (batches[: ends[0]], batches[ends[0] :]) if ends else ([], batches)
        if plan.units_are_independent:
            # A unit is predicted in one go, up to what fails.
            begun, rest = begun * attempts, [] if ends and fails >= ATTEMPTS else rest
        elif in_groups and ends and len(batches) > 1:
            # Which batch of a group has failed is unknown, so that this is no attempt of any.
            begun = begun * 2 + begun[-1:] * (min(fails, ATTEMPTS) - 1)
        else:
            begun = begun[:-1] + begun[-1:] * attempts
        calls.update(tile for batch in begun + rest for tile in batch)
    return calls


# --- Tiles that fail.


@LAYOUTS
@pytest.mark.parametrize(("stored", "batch_size"), [("chunks", 1), ("shards", 1), ("shards", 3)])
def test_a_bad_tile_costs_its_units_and_nothing_else(
    stored: str, batch_size: int, layout: str, client: Client, source: Path, unbroken: Unbroken, tmp_path: Path
) -> None:
    output = tmp_path / "o.zarr"
    model = Fails(tmp_path, IN_THE_MIDDLE)
    request = {"stored": stored, "layout": layout, "batch_size": batch_size}
    error = error_of("LayerError: layer 3: out of luck", model, source, output, **request)
    plan = error.report.plan
    assert plan.layout == layout
    bad = batches_with(plan, batch_size, model.element)
    units = units_with(plan, bad)
    assert len(bad) == 1
    assert isinstance(error.__cause__, LayerError)
    check_given_up(error, output, units)
    assert model.calls(plan) == calls_of(plan, batch_size, bad, in_groups=not shares_memory(client))
    # The same once more, where all others are written.
    request["if_exists"] = "resume"
    error = error_of("LayerError: layer 3: out of luck", model, source, output, **request)
    check_given_up(error, output, units, kept=plan.unit_count - len(units))
    calls = model.calls(plan)
    assert all(ATTEMPTS <= calls[tile] <= ATTEMPTS + 1 for tile in bad[0])
    # Nothing is predicted but what these units need, in the batches of a whole run.
    needed = {tile for unit in units for tile in plan.tiles_of_unit(unit)}
    every = [batch for batches in batches_of(plan, batch_size) for batch in batches]
    assert set(calls) <= {0, *(tile for batch in every if needed & set(batch) for tile in batch)}
    (tmp_path / "cured").touch()
    report = predict(model, source, output, **request)
    assert report.given_up == {}
    assert (report.unit_count, report.kept_unit_count) == (len(units), plan.unit_count - len(units))
    assert stored_files(output) == unbroken[layout, stored]
    assert tw.verify(output, progress=False).is_complete


@LAYOUTS
@pytest.mark.parametrize(("fails", "stored"), [(1, "shards"), (2, "shards"), (2, "chunks")])
def test_a_tile_that_fails_less_often_than_it_may_costs_nothing(
    fails: int, stored: str, layout: str, client: Client, source: Path, unbroken: Unbroken, tmp_path: Path
) -> None:
    model = Fails(tmp_path, IN_THE_MIDDLE, fails)
    report = predict(model, source, tmp_path / "o.zarr", stored=stored, layout=layout)
    assert report.given_up == {}
    assert stored_files(tmp_path / "o.zarr") == unbroken[layout, stored]
    bad = batches_with(report.plan, 1, model.element)
    in_groups = not shares_memory(client)
    assert model.calls(report.plan) == calls_of(report.plan, 1, bad, in_groups=in_groups, fails=fails)


BAD_TILES: dict[str, tuple[Callable[[Path], Any], str, str, type[BaseException]]] = {
    "in the first unit": (lambda folder: Fails(folder, IN_THE_FIRST_UNIT), "chunks", "out of luck", LayerError),
    "of another shape": (
        lambda folder: DoesSomethingElse(IN_THE_MIDDLE, return_twice_as_many_channels),
        "chunks",
        "ModelOutputError: the model returned 2 channels",
        ModelOutputError,
    ),
    "whose error cannot leave its worker": (
        lambda folder: DoesSomethingElse(IN_THE_MIDDLE, fail_unsendably),
        "shards",
        "I stay here",
        Exception,
    ),
}


@LAYOUTS
@BATCHES
@pytest.mark.parametrize("what", BAD_TILES)
@pytest.mark.usefixtures("client")
def test_a_bad_tile_of_another_kind_costs_no_more_than_others(
    what: str, batch_size: int, layout: str, source: Path, tmp_path: Path
) -> None:
    make, stored, words, cause = BAD_TILES[what]
    model, output = make(tmp_path), tmp_path / "o.zarr"
    error = error_of(words, model, source, output, stored=stored, layout=layout, batch_size=batch_size)
    assert isinstance(error.__cause__, cause)
    plan = error.report.plan
    check_given_up(error, output, units_with(plan, batches_with(plan, batch_size, model.element)))


@pytest.mark.usefixtures("client")
def test_each_unit_has_its_own_reason(source: Path, tmp_path: Path) -> None:
    # More reasons than errors are kept for.
    model = HasManyExcuses(IMAGE[40, 0])
    report = error_of(r"; and \d+ more", model, source, tmp_path / "o.zarr", layout="aligned").report
    assert len(report.given_up) > 10
    for unit, reason in report.given_up.items():
        (tile,) = report.plan.tiles_of_unit(unit)
        assert reason == f"ValueError: I do not like {int(seen_by(report.plan, tile).flat[0])}"


@IN_THIS_PROCESS
@LAYOUTS
@pytest.mark.usefixtures("client")
def test_a_model_that_exits_ends_the_run(layout: str, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.zarr"
    with pytest.raises(SystemExit):
        predict(DoesSomethingElse(IN_THE_MIDDLE, leave), source, output, layout=layout)
    found = tw.verify(output, progress=False)
    assert set(found.conditions.values()) == {"missing"}
    report = predict(DoesSomethingElse(-1.0, leave), source, output, layout=layout, if_exists="resume")
    assert report.unit_count == len(found.conditions)
    np.testing.assert_array_equal(report.array[...], -IMAGE)


@settings(max_examples=25)
@given(
    elements=st.lists(st.tuples(st.integers(0, 99), st.integers(32, 123)), min_size=1, max_size=3),
    layout=st.sampled_from(["compact", "aligned"]),
    stored=st.sampled_from(list(CHUNKS)),
    batch_size=st.integers(1, 4),
)
def test_whichever_tiles_are_bad_all_that_need_none_of_them_are_written(
    elements: list[tuple[int, int]], layout: str, stored: str, batch_size: int
) -> None:
    values = [float(IMAGE[element]) for element in elements]

    def model(tiles: np.ndarray) -> np.ndarray:
        if np.isin(tiles, values).any():
            raise_in_the_third_layer()
        return -tiles

    plan = plan_write(IMAGE.shape, **TILES, **CHUNKS[stored], layout=layout)
    case = Case(IMAGE, "YX", plan, model, batch_size=batch_size)
    (array,) = case.create(MemoryStore())
    coordinator = Coordinator(case.plan)
    receipts = Receipts()
    work = Work(case.plan, UnitWriter(case.plan, (ObjectEncoder(array),)), case.prediction())
    expected = units_with(case.plan, batches_with(case.plan, batch_size, *values))
    try:
        Run(coordinator, SerialExecutor(work), receipts).predict_and_write()
    except LayerError:
        # All that the first tiles have a part in is bad.
        assert receipts == []
        assert len(receipts.units_given_up) >= 3 or len(expected) == case.plan.unit_count
        return
    check_invariants(coordinator)
    assert sorted(receipts.units_given_up) == sorted(coordinator.given_up) == expected
    assert sorted(receipt.unit for receipt in receipts) == sorted(set(range(case.plan.unit_count)) - set(expected))


# --- Models that do not work at all.


def check_that_nothing_works(source: Any, folder: Path, **options: Any) -> int:
    """The error is that of the model, and says how often it was tried; how often the model was called."""
    with pytest.raises(LayerError, match="out of luck") as caught:
        tw.predict_to_zarr(Breaks(folder / "calls"), source, folder / "o.zarr", **REQUEST | options)
    assert any("was given up after 3 attempts" in message for message in caught.value.__notes__)
    return noted(folder / "calls")


@pytest.mark.parametrize(("columns", "chunk"), [(44, 44), (80, 30)], ids=["one unit", "three units"])
@LAYOUTS
@pytest.mark.usefixtures("client")
def test_where_nothing_works_a_small_image_is_the_error_of_the_model(
    layout: str, columns: int, chunk: int, tmp_path: Path
) -> None:
    image = IMAGE[:24, :columns].copy()
    assert check_that_nothing_works(image, tmp_path, chunks=(24, chunk), layout=layout) <= 1 + 3 * 3 + 3


@pytest.mark.usefixtures("client")
def test_where_nothing_works_a_large_image_is_the_error_of_the_model_soon(tmp_path: Path) -> None:
    np.save(tmp_path / "raw.npy", np.tile(IMAGE, (8, 8)))
    calls = check_that_nothing_works(np.load(tmp_path / "raw.npy", mmap_mode="r"), tmp_path, layout="aligned")
    plan = ledger_of(tmp_path / "o.zarr").header().plan
    assert plan.tile_count > 1000
    assert calls <= 1 + ATTEMPTS * plan.unit_count < plan.tile_count


# --- Stores that fail.


class Refuses(LocalStore):
    """A folder that refuses some keys so many times each, and counts how often each key was put."""

    def __init__(self, root: Path, notes: Path, times: dict[str, int], how: str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self.notes = notes
        self.times = times
        self.how = how

    def with_read_only(self, read_only: bool = False) -> "Refuses":
        return type(self)(self.root, self.notes, self.times, self.how, read_only=read_only)

    def _note_of(self, key: str) -> Path:
        return self.notes / f"{key.replace('/', '-')}.puts"

    def puts(self, key: str) -> int:
        return noted(self._note_of(key))

    async def set(self, key: str, value: Any) -> None:
        note(str(self._note_of(key)))
        if self.puts(key) <= self.times.get(key, 0):
            while self.how == "hangs" and not (self.notes / "answer").exists():
                await asyncio.sleep(0.02)
            raise (
                RuntimeError("no such bucket")
                if self.how == "RuntimeError"
                else OSError(errno.EIO, "Input/output error")
            )
        await super().set(key, value)


FAILURES: dict[str, tuple[str, type[Exception]]] = {
    "EIO": ("could not write: Input/output error", OSError),
    "RuntimeError": ("no such bucket", RuntimeError),
}


@pytest.mark.usefixtures("_impatience", "client")
@LAYOUTS
@pytest.mark.parametrize("how", FAILURES)
def test_an_object_that_cannot_be_stored_costs_its_unit_and_nothing_else(
    how: str, layout: str, source: Path, unbroken: Unbroken, tmp_path: Path
) -> None:
    output, key = tmp_path / "o.zarr", "0/c/2/2"
    store = Refuses(output, tmp_path, {key: ALWAYS}, how)
    reason, cause = FAILURES[how]
    error = error_of(reason, np.negative, source, store, layout=layout)
    plan = error.report.plan
    keys = {unit: [f"0/c/{y}/{x}" for y, x in plan.objects_of_unit(unit)] for unit in range(plan.unit_count)}
    (unit,) = [unit for unit in keys if key in keys[unit]]
    assert keys[unit] == [key]
    assert isinstance(error.__cause__, cause)
    check_given_up(error, output, [unit])
    puts = {key: store.puts(key) for keys_of_unit in keys.values() for key in keys_of_unit}
    assert puts == dict.fromkeys(puts, 1) | {key: ATTEMPTS * ATTEMPTS}
    assert predict(np.negative, source, output, layout=layout, if_exists="resume").unit_count == 1
    assert stored_files(output) == unbroken[layout, "chunks"]


@pytest.mark.usefixtures("_impatience", "client")
@LAYOUTS
@pytest.mark.parametrize("times", [2, 8])
def test_an_object_that_is_refused_less_often_than_it_may_costs_nothing(
    times: int, layout: str, source: Path, unbroken: Unbroken, tmp_path: Path
) -> None:
    store = Refuses(tmp_path / "o.zarr", tmp_path, {"0/c/2/2": times, "0/c/0/0": 1}, "EIO")
    assert predict(np.negative, source, store, layout=layout).given_up == {}
    assert stored_files(tmp_path / "o.zarr") == unbroken[layout, "chunks"]
    assert (store.puts("0/c/2/2"), store.puts("0/c/0/0"), store.puts("0/c/1/1")) == (times + 1, 2, 1)


class Unreliable(CountingStore):
    """A store in memory that refuses some keys so many times each."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__(store)
        self.times: dict[str, int] = {}

    async def set(self, key: str, value: Any) -> None:
        if self.sets[key] < self.times.get(key, 0):
            self.sets[key] += 1
            raise OSError("not now")
        await super().set(key, value)


def outcome(objects: list[str], times: dict[str, int]) -> tuple[bool, Counter[str]]:
    """Whether a unit of these objects is written in the end, and how often each was put."""
    puts: Counter[str] = Counter()
    for _ in range(ATTEMPTS):
        for key in objects:
            for _ in range(ATTEMPTS):
                puts[key] += 1
                if puts[key] > times.get(key, 0):
                    break
            else:
                break
        else:
            return True, puts
    return False, puts


@given(
    data=st.data(),
    layout=st.sampled_from(["compact", "aligned"]),
    stored=st.sampled_from([{"chunks": (12, 12)}, {"chunks": (24, 24)}, {"chunks": (12, 12), "shards": (24, 24)}]),
)
@settings(max_examples=25)
def test_however_often_objects_are_refused_no_more_is_put_than_may_be_and_no_other_unit_suffers(
    data: st.DataObject, layout: str, stored: dict[str, Any]
) -> None:
    case = Case(IMAGE, "YX", plan_write(IMAGE.shape, **TILES, **stored, layout=layout), np.negative)
    plan = case.plan
    objects = {
        unit: ["0/c/" + "/".join(map(str, position)) for position in plan.objects_of_unit(unit)]
        for unit in range(plan.unit_count)
    }
    # Where one unit is written, the run goes on.
    keys = [key for unit in range(1, plan.unit_count) for key in objects[unit]]
    times = data.draw(st.dictionaries(st.sampled_from(keys), st.integers(1, 12), max_size=12))
    store = Unreliable()
    store.times = times
    (array,) = case.create(store)
    writer = UnitWriter(plan, (ObjectEncoder(array),), Patience(pause_seconds=0.0))
    receipts = Receipts()
    Run(Coordinator(plan), SerialExecutor(Work(plan, writer, case.prediction())), receipts).predict_and_write()
    outcomes = {unit: outcome(objects[unit], times) for unit in objects}
    assert sorted(receipts.units_given_up) == [unit for unit, (is_written, _) in outcomes.items() if not is_written]
    assert sorted(receipt.unit for receipt in receipts) == [unit for unit in outcomes if outcomes[unit][0]]
    puts = Counter({key: count for key, count in store.sets.items() if not is_metadata(key)})
    assert puts == sum((puts_of_unit for _, puts_of_unit in outcomes.values()), Counter())
    for receipt in receipts:
        region = tuple(slice(*interval) for interval in plan.unit_region(receipt.unit))
        np.testing.assert_array_equal(array[region], -IMAGE[region])


def run_where_the_store_never_answers(folder: Path, client: Client, layout: str) -> tuple[Refuses, UnitGivenUpError]:
    store = Refuses(folder / "o.zarr", folder, {"0/c/2/2": ALWAYS}, "hangs")
    words = r"TimeoutError: .*no answer for .* seconds: '.*0/c/2/2'"
    return store, error_of(words, np.negative, IMAGE, store, layout=layout, client=client)


@LAYOUTS
def test_a_store_that_never_answers_is_not_waited_for(
    layout: str, embedded: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch, answer_seconds=0.1)
    store, error = run_where_the_store_never_answers(tmp_path, embedded, layout)
    plan = error.report.plan
    (unit,) = [unit for unit in range(plan.unit_count) if plan.objects_of_unit(unit) == ((2, 2),)]
    check_given_up(error, tmp_path / "o.zarr", [unit])
    assert store.puts("0/c/2/2") == ATTEMPTS * ATTEMPTS
    # Else pending tasks would be all that is left of this at the end of the tests.
    (tmp_path / "answer").touch()


def test_a_program_whose_store_never_answers_ends(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        import pytest
        from tests.faults import test_given_up as tests
        from tilewright.plan.choice import group
        from tilewright.transport.clients import open_embedded_cluster

        with pytest.MonkeyPatch.context() as patch, open_embedded_cluster(threads=2) as client:
            tests.be_impatient(patch, answer_seconds=0.1)
            patch.setattr(group, "SMALL_UNIT_NBYTES", 0)
            _, error = tests.run_where_the_store_never_answers(Path(sys.argv[1]), client, "compact")
            print(len(error.report.given_up), "given up")
    """
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "1 given up\n"), ended.stderr


# --- What was stored before.


@ON_CLUSTERS
@pytest.mark.parametrize("how", ["turned", "short", "missing"])
@LAYOUTS
@pytest.mark.usefixtures("client")
def test_a_damaged_unit_that_cannot_be_written_again_reads_as_the_fill_value(
    layout: str, how: str, source: Path, unbroken: Unbroken, tmp_path: Path
) -> None:
    output, cured = tmp_path / "o.zarr", tmp_path / "cured"
    model = Fails(tmp_path, IN_THE_MIDDLE)
    cured.touch()
    plan = predict(model, source, output, layout=layout).plan
    cured.unlink()
    (bad,) = batches_with(plan, 1, model.element)
    unit, *others = plan.units_of_tile(bad[0])
    ((y, x),) = plan.objects_of_unit(unit)
    chunk = output / "0" / "c" / str(y) / str(x)
    raw = chunk.read_bytes()
    damaged = {"turned": bytes([raw[0] ^ 1]) + raw[1:], "short": raw[:-7]}
    chunk.unlink() if how == "missing" else chunk.write_bytes(damaged[how])
    error = error_of("out of luck", model, source, output, layout=layout, if_exists="resume")
    # Those that are intact need no tile, also where they would need a bad one.
    assert len(others) == (0 if layout == "aligned" else 3)
    check_given_up(error, output, [unit], kept=plan.unit_count - 1)
    cured.touch()
    predict(model, source, output, layout=layout, if_exists="resume")
    assert stored_files(output) == unbroken[layout, "chunks"]


# --- Sources that cannot be read everywhere.


@LAYOUTS
@BATCHES
@pytest.mark.usefixtures("client")
def test_a_damaged_source_costs_the_units_that_need_it(batch_size: int, layout: str, tmp_path: Path) -> None:
    source = tmp_path / "raw.zarr"
    zarr.create_array(source, data=IMAGE, chunks=(25, 31))
    (source / "c" / "3" / "3").write_bytes(b"no codec has made this")
    words = rf"SourceError: could not read Y \d+:\d+, X \d+:\d+ of {source}"
    error = error_of(words, np.negative, source, tmp_path / "o.zarr", layout=layout, batch_size=batch_size)
    assert isinstance(error.__cause__, SourceError)
    plan = error.report.plan
    bad = batches_with(plan, batch_size, *IMAGE[75:, 93:].flat)
    check_given_up(error, tmp_path / "o.zarr", units_with(plan, bad))


# --- Trainers.


@ON_CLUSTERS
@pytest.mark.usefixtures("_impatience", "client")
def test_a_unit_of_an_image_that_cannot_be_written_costs_no_other_image(tmp_path: Path) -> None:
    for name in "abc":
        zarr.create_array(tmp_path / f"{name}.zarr", data=IMAGE + ord(name), chunks=(50, 62))
    out = tmp_path / "out"
    obstacle = out / "b.zarr" / "0" / "c" / "2" / "2"
    batches: list[int] = []

    def write_all(if_exists: str) -> list[tw.Report]:
        def put_in_the_way(batch: int) -> None:
            batches.append(batch)
            if obstacle.parents[2].exists() and if_exists == "fail":
                # A folder stands where the object should.
                (obstacle / "x").mkdir(parents=True, exist_ok=True)

        dataset = tw.IterableTiledPredDataset([tmp_path / f"{n}.zarr" for n in "abc"], "YX", (32, 32), (8, 8))
        strategy = tw.WriteTilesZarr(chunks=(24, 24), fill_value=FILL, if_exists=if_exists)
        return hand_over(strategy, dataset, out, np.negative, before_batch=put_in_the_way)

    with pytest.raises(UnitGivenUpError) as caught:
        write_all("fail")
    message = str(caught.value)
    assert f"{out / 'b.zarr'}: 1 of 30 units were given up and hold the fill value: Y 48:72, X 48:72 (" in message
    assert "IsADirectoryError" in message
    assert not any(str(out / f"{name}.zarr") in message for name in "ac")
    for name, condition in {"a": [], "b": ["given up"], "c": []}.items():
        assert list(tw.verify(out / f"{name}.zarr", progress=False).conditions.values()) == condition
    shutil.rmtree(obstacle, ignore_errors=True)
    tile_count = len(batches)
    reports = write_all("resume")
    assert 0 < len(batches) - tile_count <= 4 < tile_count
    assert sorted(report.unit_count for report in reports) == [0, 0, 1]
    for name in "abc":
        np.testing.assert_array_equal(zarr.open_array(out / f"{name}.zarr" / "0", mode="r")[...], -IMAGE - ord(name))


# --- The command line.


def test_the_command_line_says_what_was_given_up_and_how_to_go_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "models.py").write_text(
        "from pathlib import Path\n"
        "def negative(tiles):\n"
        f"    if (tiles == {IN_THE_MIDDLE}).any() and not Path({str(tmp_path / 'cured')!r}).exists():\n"
        "        raise RuntimeError('not this one')\n"
        "    return -tiles\n"
    )
    output = tmp_path / "o.zarr"
    tiles = ["--axes", "YX", "--tile-size", "32,32", "--overlap", "8,8"]
    stored = ["--layout", "aligned", "--chunks", "24,24", "--compressor", "none"]
    command = ["predict", str(source), str(output), "--model", f"{tmp_path / 'models.py'}:negative", *tiles, *stored]
    command.append("--no-progress")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 3, result.output
    assert "Report\n" in result.stdout
    assert "19 units, 29 objects: 1 units given up\n" in result.stdout
    (line,) = result.stderr.splitlines()
    assert "1 of 20 units were given up and hold the fill value: Y 48:72, X 48:72 (RuntimeError: not this one)" in line
    assert line.endswith("run again with --if-exists resume to try these once more")
    assert zarr.open_array(output / "0", mode="r")[60, 60] == 0
    result = CliRunner().invoke(main, ["verify", str(output)])
    assert result.exit_code == 3
    assert "given up: Y 48:72, X 48:72" in result.stdout
    (tmp_path / "cured").touch()
    result = CliRunner().invoke(main, [*command, "--if-exists", "resume"])
    assert result.exit_code == 0, result.output
    assert "19 units kept: all complete" in result.stdout
    np.testing.assert_array_equal(zarr.open_array(output / "0", mode="r")[...], -IMAGE)
