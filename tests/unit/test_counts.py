"""What a run costs is counted: one tenth more tasks, copies or bytes than it is known to cost is a fault."""

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client

import tilewright as tw
from tilewright.assemble import UnitTiles
from tilewright.executors.held_tiles import HeldTiles
from tilewright.model.own_memory import LOOKED_AT
from tilewright.plan import plan_write

TERABYTE = 10**12
KNOWN_TASKS_PER_TERABYTE = {
    "volume of float32": ((2500, 10_000, 10_000), "ZYX", (64, 256, 256), (16, 64, 64), "float32", 9_620),
    "volume of uint8": ((5000, 14_000, 14_300), "ZYX", (64, 256, 256), (16, 64, 64), "uint8", 11_430),
    "slide": ((500_000, 500_000), "YX", (512, 512), (64, 64), "float32", 11_030),
    "frames": ((250_000, 1024, 1024), "TYX", (256, 256), (64, 64), "float32", 7_950),
    "ten terabytes": ((8000, 17_000, 18_400), "ZYX", (64, 256, 256), (16, 64, 64), "float32", 9_210),
}


@pytest.mark.parametrize("name", KNOWN_TASKS_PER_TERABYTE)
def test_a_terabyte_costs_no_more_tasks_than_it_is_known_to(name: str) -> None:
    shape, axes, tile_size, overlap, dtype, known = KNOWN_TASKS_PER_TERABYTE[name]
    plan = plan_write(shape, axes, tile_size, overlap, dtype=dtype)
    per_terabyte = plan.task_count / (plan.output_nbytes / TERABYTE)
    assert per_terabyte <= 1.1 * known
    assert per_terabyte <= 20_000


@pytest.mark.parametrize("layout", ["aligned", "compact"])
def test_no_more_tasks_are_submitted_than_the_plan_says(
    layout: str, two_processes: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: Counter[str] = Counter()
    submit = two_processes.submit

    def counted(function: Any, *rest: Any, **options: Any) -> Any:
        submitted[function.__name__] += 1
        return submit(function, *rest, **options)

    monkeypatch.setattr(two_processes, "submit", counted)
    zarr.save_array(str(tmp_path / "in.zarr"), np.random.default_rng(0).random((1100, 1100), dtype=np.float32))
    report = tw.predict_to_zarr(
        np.negative,
        tmp_path / "in.zarr",
        tmp_path / "out.zarr",
        axes="YX",
        tile_size=(128, 128),
        overlap=(32, 32),
        chunks=(96, 96),
        layout=layout,
        client=two_processes,
        progress=False,
    )
    units = report.plan.unit_count
    assert units > 1
    assert submitted.pop("_probe") == 1
    finest, coarser = report.plan.finest_unit_count, units - report.plan.finest_unit_count
    made = {"write": coarser, "receipt_of": units - 1}
    assert dict(submitted) == made | (
        {"produce": finest} if layout == "aligned" else {"write": units, "predict": submitted["predict"]}
    )
    assert sum(submitted.values()) <= report.plan.task_count


@pytest.mark.parametrize("options", [{"chunks": (16, 24)}, {"chunks": (8, 12), "shards": (24, 24)}])
def test_each_element_is_copied_once_between_the_model_and_the_encoder_and_put_once(
    options: dict[str, Any], embedded: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbytes: Counter[str] = Counter()
    part, hold, replace = UnitTiles.part, HeldTiles.hold, os.replace

    def counted_part(self: UnitTiles, position: tuple[int, ...]) -> Any:
        made = part(self, position)
        nbytes["assembled"] += made.nbytes
        return made

    def counted_hold(self: HeldTiles, tile: int, valid: Any) -> None:
        hold(self, tile, valid)
        nbytes["copied to wait"] += 0 if np.shares_memory(self[tile], valid) else valid.nbytes
        nbytes["copied to be safe"] += valid.nbytes if valid.base is None else 0

    def counted_replace(partial: str | Path, path: str | Path) -> None:
        # Each object gets its name when it is whole.
        nbytes["put"] += Path(partial).stat().st_size if "/0/c/" in str(path) else 0
        replace(partial, path)

    monkeypatch.setattr(UnitTiles, "part", counted_part)
    monkeypatch.setattr(HeldTiles, "hold", counted_hold)
    monkeypatch.setattr(os, "replace", counted_replace)
    image = np.random.default_rng(0).random((96, 96), dtype=np.float32)
    dataset = tw.IterableTiledPredDataset(image, "YX", (32, 32), (8, 8))
    trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset))
    writer = tw.WriteTilesZarr(client=embedded, compressors=None, **options)
    for number, (tile, information) in enumerate(dataset):
        writer.write_batch(trainer, None, tile[np.newaxis], None, ([], [information]), number, 0, tmp_path)
    (report,) = writer.finalize()
    # The image ends where objects end, so that nothing is put that is not of the image, but for the index of a shard.
    assert nbytes["assembled"] == report.plan.output_nbytes == image.nbytes
    assert nbytes["copied to wait"] == 0
    assert nbytes["copied to be safe"] == sum(map(report.plan.tile_nbytes, range(LOOKED_AT)))
    index_nbytes = 0 if report.plan.shards is None else report.plan.object_count * (16 * 6 + 4)
    assert nbytes["put"] == image.nbytes + index_nbytes
