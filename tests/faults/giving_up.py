"""An image of which each tile is known by its first element, and what a run stores that gave up some of its units."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr

import tilewright as tw
from tilewright.errors import UnitGivenUpError
from tilewright.ledger.ledger import LedgerFolder
from tilewright.ledger.records import Status
from tilewright.plan import WritePlan
from tilewright.plan.describe import describe_region

# Every element is another one.
IMAGE = np.arange(100 * 124, dtype=np.float32).reshape(100, 124)
TILES: dict[str, Any] = {"axes": "YX", "tile_size": (32, 32), "overlap": (8, 8)}
# With chunks, each tile lies in up to four units; with shards, several tiles begin in each unit.
CHUNKS: dict[str, Any] = {"chunks": {"chunks": (24, 24)}, "shards": {"chunks": (12, 12), "shards": (48, 48)}}
IN_THE_MIDDLE = float(IMAGE[60, 60])
"""In one tile only, of either layout."""


def seen_by(plan: WritePlan, tile: int) -> np.ndarray:
    """What the model sees of a tile."""
    position = plan.tile_position(tile)
    return IMAGE[*(slice(*tiling.read(index)) for tiling, index in zip(plan.tilings, position, strict=True))]


def batches_of(plan: WritePlan, batch_size: int) -> list[list[tuple[int, ...]]]:
    """The batches of the tiles that begin in each unit."""
    batches = []
    for unit in range(plan.unit_count):
        tiles = plan.tiles_starting_in(unit)
        batches.append([tiles[i : i + batch_size] for i in range(0, len(tiles), batch_size)])
    return batches


def batches_with(plan: WritePlan, batch_size: int, *elements: float) -> list[tuple[int, ...]]:
    every = [batch for batches in batches_of(plan, batch_size) for batch in batches]
    return [batch for batch in every if any(np.isin(seen_by(plan, tile), elements).any() for tile in batch)]


def units_with(plan: WritePlan, batches: list[tuple[int, ...]]) -> list[int]:
    return sorted({unit for batch in batches for tile in batch for unit in plan.units_of_tile(tile)})


def ledger_of(output: Path) -> LedgerFolder:
    return LedgerFolder(output.with_name(f"{output.name}.ledger"))


def check_given_up(error: UnitGivenUpError, output: Path, units: list[int], kept: int = 0, fill: float = 0.0) -> None:
    """Exactly these units were given up, wherever one asks, and all others hold the prediction."""
    report = error.report
    plan = report.plan
    assert sorted(report.given_up) == units
    assert report.unit_count == plan.unit_count - len(units) - kept
    assert report.kept_unit_count == kept
    assert f"{len(units)} units given up" in str(report)
    assert f"{output}: {len(units)} of {plan.unit_count} units were given up and hold the fill value: " in str(error)
    for unit in list(report.given_up)[:5]:
        assert f"{describe_region(plan.axes, plan.unit_region(unit))} ({report.given_up[unit]})" in str(error)
    assert str(error).count("; and ") == (len(units) > 5)
    records = list(ledger_of(output).records())
    assert [record.unit for record in records] == list(range(plan.unit_count))
    assert [record.unit for record in records if record.status is Status.GIVEN_UP] == units
    assert tw.verify(output, progress=False).conditions == dict.fromkeys(units, "given up")
    expected = -IMAGE
    for unit in units:
        expected[*(slice(*interval) for interval in plan.unit_region(unit))] = fill
    np.testing.assert_array_equal(zarr.open_array(output / "0", mode="r")[...], expected)
