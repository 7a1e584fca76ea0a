"""With any executor, the output is a plain NumPy stitching, bit for bit, in the same stored bytes."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies import in_small_units
from tests.support import Case, PositionModel, Receipts, SeesItsCompany, cases, read_level, run, tree
from zarr.storage import MemoryStore

from tilewright.assemble import crop
from tilewright.coordinator import Coordinator
from tilewright.coordinator.invariants import check_invariants
from tilewright.executors.placement import Placement
from tilewright.executors.serial import SerialExecutor
from tilewright.executors.work import Work
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.unit_writer import UnitWriter
from tilewright.plan import plan_write
from tilewright.runs.run import Run

SHARED_CLUSTER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def check(case: Case, folder: Path, client: Client | None = None) -> dict[str, bytes]:
    """Run a case, compare it with the reference in two readers, and return all stored files."""
    array = run(case, folder, client)
    expected = case.expected()
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array[...], expected)
    for level, values in enumerate(case.levels()):
        np.testing.assert_array_equal(read_level(folder, level, case.zarr_format), case.as_stored(values))
    return tree(folder)


@settings(max_examples=80)
@given(cases())
def test_serial_executor_equals_numpy_stitching(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(case, Path(folder) / "serial")


@pytest.mark.slow
@settings(max_examples=50, suppress_health_check=SHARED_CLUSTER)
@given(case=cases())
def test_in_process_cluster_equals_numpy_stitching_and_stores_the_bytes_of_the_serial_executor(
    embedded: Client, case: Case
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stored = check(case, Path(folder) / "embedded", embedded)
        run(case, Path(folder) / "serial")
        assert stored == tree(Path(folder) / "serial")


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=SHARED_CLUSTER)
@given(case=cases())
def test_two_processes_equal_numpy_stitching_and_store_the_bytes_of_the_serial_executor(
    two_processes: Client, case: Case
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stored = check(case, Path(folder) / "cluster", two_processes)
        run(case, Path(folder) / "serial")
        assert stored == tree(Path(folder) / "serial")


def fixed_case(layout: str, dtype: str, shards: tuple[int, ...] | None, zarr_format: int = 3, levels: int = 1) -> Case:
    """An image of many units, in which chunks straddle tiles."""
    image = np.random.default_rng(1).integers(0, 60_000, (2, 13, 30, 27)).astype("uint16")
    plan = plan_write(
        shape=image.shape,
        axes="SZYX",
        tile_size=(8, 16, 16),
        overlap=(3, 4, 5),
        layout=layout,
        chunks=(5, 6, 7) if shards is None or layout == "compact" else (4, 6, 6),
        shards=shards,
        dtype=dtype,
        channels=2,
        levels=levels,
    )
    plan = in_small_units(plan)
    assert plan.unit_count > 4
    assert plan.units_are_independent == (layout == "aligned")
    return Case(image, "SZYX", plan, PositionModel(2, dtype), "auto", zarr_format, batch_size=3)


FIXED = {
    "compact": fixed_case("compact", "float32", None),
    "compact in shards": fixed_case("compact", "int32", (5, 12, 14)),
    "compact in Zarr 2": fixed_case("compact", "float16", None, 2),
    "aligned": fixed_case("aligned", "float32", None),
    "aligned in shards": fixed_case("aligned", "uint8", (4, 12, 12)),
    "compact with levels": fixed_case("compact", "float32", None, levels=3),
    "aligned with levels": fixed_case("aligned", "uint8", (4, 12, 12), levels=4),
    "aligned in Zarr 2": fixed_case("aligned", "int32", None, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("executor", ["serial", "embedded", "two_processes"])
def test_many_units_that_need_many_tiles(
    name: str, executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = None if executor == "serial" else request.getfixturevalue(executor)
    stored = check(FIXED[name], tmp_path / executor, client)
    run(FIXED[name], tmp_path / "reference")
    assert stored == tree(tmp_path / "reference")


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("executor", ["serial", "embedded"])
def test_a_store_in_memory_holds_the_bytes_of_a_folder(
    name: str, executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Uncompressed, what the store is given may be the very memory that the next unit is put together in.
    case = replace(FIXED[name], compressors=None)
    store = MemoryStore()
    run(case, store, None if executor == "serial" else request.getfixturevalue(executor))
    run(case, tmp_path)
    assert {key: value.to_bytes() for key, value in store._store_dict.items()} == tree(tmp_path)


def test_labels_above_the_limit_of_float32_survive(tmp_path: Path) -> None:
    array = run(FIXED["aligned in Zarr 2"], tmp_path)
    assert array.dtype == "int32"
    assert (array[...] > 2**24).all()
    assert len(np.unique(array[...] % 2)) == 2


# --- Tiles of another predictor come in any order, some of them twice.


def hand_over(
    case: Case, folder: Path, order: list[int], client: Client | None = None, at_once: int = 1
) -> dict[str, bytes]:
    """Hand over the tiles of a case in this order, and return all stored files."""
    predictions = {
        tile: case.model(case.prediction().read_tile(case.plan, tile)[np.newaxis])[0]
        for tile in range(case.plan.tile_count)
    }
    arrays = case.create(folder)
    writer = UnitWriter(case.plan, tuple(map(ObjectEncoder, arrays)))
    receipts = Receipts()
    coordinator = Coordinator(case.plan)
    if client is None:
        executor = SerialExecutor(Work(case.plan, writer))
    else:
        executor = Placement(client).executor(case.plan, writer)
    try:
        handing = Run(coordinator, executor, receipts)
        for start in range(0, len(order), at_once):
            tiles = order[start : start + at_once]
            handing.hand_over(tiles, [crop(predictions[tile], case.plan, tile) for tile in tiles])
            check_invariants(coordinator)
        handing.finish()
    finally:
        executor.close()
    assert coordinator.is_complete
    assert coordinator.live_nbytes == 0
    assert len(receipts) == case.plan.unit_count
    return tree(folder)


@pytest.mark.slow
@settings(max_examples=50)
@given(cases(), st.data())
def test_tiles_in_any_order_and_twice_give_the_same_bytes(case: Case, data: st.DataObject) -> None:
    tiles = list(range(case.plan.tile_count))
    twice = data.draw(st.lists(st.sampled_from(tiles), max_size=5), label="twice")
    seed = data.draw(st.integers(0, 2**16), label="seed")
    order = np.random.default_rng(seed).permutation(tiles + twice).tolist()
    with tempfile.TemporaryDirectory() as folder:
        stored = hand_over(case, Path(folder) / "shuffled", order)
        run(case, Path(folder) / "reference")
        assert stored == tree(Path(folder) / "reference")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "aligned in shards", "compact with levels", "aligned with levels"])
@pytest.mark.parametrize("executor", ["embedded", "two_processes"])
def test_tiles_in_any_order_and_twice_give_the_same_bytes_on_a_cluster(
    name: str, executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case = FIXED[name]
    tiles = list(range(case.plan.tile_count))
    order = np.random.default_rng(5).permutation(tiles + tiles[::7]).tolist()
    stored = hand_over(case, tmp_path / "shuffled", order, request.getfixturevalue(executor), at_once=8)
    run(case, tmp_path / "reference")
    assert stored == tree(tmp_path / "reference")


# --- A run that is resumed writes what is missing, in the bytes of one that was never ended.


def check_resumed(case: Case, kept: set[int], folder: Path, client: Client | None = None) -> None:
    """Write the units that are not kept, by themselves, and compare them with those of a whole run."""
    case = replace(case, model=SeesItsCompany(case.model))
    run(case, folder / "whole")
    expected = tree(folder / "whole")
    missing = set(range(case.plan.unit_count)) - kept
    shutil.copytree(folder / "whole", folder / "resumed")
    encoders = list(map(ObjectEncoder, case.create(folder / "whole")))
    for unit in missing:
        for position in case.plan.objects_of_unit(unit):
            (folder / "resumed" / encoders[case.plan.array_of_unit(unit)].key(position)).unlink()
    run(case, folder / "resumed", client, kept)
    assert tree(folder / "resumed") == expected


@pytest.mark.slow
@settings(max_examples=60)
@given(cases(), st.data())
def test_what_is_missing_gets_the_bytes_of_a_whole_run(case: Case, data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.integers(0, case.plan.unit_count - 1)), label="kept")
    with tempfile.TemporaryDirectory() as folder:
        check_resumed(case, kept, Path(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["compact", "compact in shards", "aligned", "aligned in Zarr 2", "compact with levels", "aligned with levels"],
)
@pytest.mark.parametrize("executor", ["embedded", "two_processes"])
def test_what_is_missing_gets_the_bytes_of_a_whole_run_on_a_cluster(
    name: str, executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case = FIXED[name]
    kept = {unit for unit in range(case.plan.unit_count) if unit % 3 != 1}
    check_resumed(case, kept, tmp_path, request.getfixturevalue(executor))
