"""Calls that write, what lies there before, and what a user calls next where such a call was killed."""

import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array
import numpy as np
import tifffile

import tilewright as tw
from benchmarks.forked import Call, Point, play

IMAGE = np.arange(60 * 70, dtype="float32").reshape(60, 70)
LEVELS = 3
REQUEST: dict[str, Any] = {
    "axes": "YX",
    "tile_size": (32, 32),
    "overlap": (8, 8),
    "levels": LEVELS,
    "progress": False,
    "compressors": None,
}
OLD: dict[str, Any] = {"chunks": (16, 16), "layout": "aligned", "memory_nbytes": 12288}
NEW: dict[str, Any] = {"chunks": (24, 24), "layout": "aligned", "memory_nbytes": 12288}
ELSEWHERE = "elsewhere/ledger"
BYSTANDERS = {
    "notes.txt": "mine",
    "lock": "mine",
    "out.zarr.old/notes.txt": "mine",
    "out.zarr.txt": "mine",
    "out.zarr.partial": "mine",
    "theirs.zarr/zarr.json": '{"zarr_format": 3, "node_type": "group"}',
    "mine.ledger/000007.ledger": "mine",
    "elsewhere/notes.txt": "mine",
    "predictions/notes.txt": "mine",
    "predictions/d.zarr/zarr.json": '{"zarr_format": 3, "node_type": "group"}',
}
"""Files of others, by name, which look like those of tilewright where they can."""


@dataclass(frozen=True)
class Scenario:
    """A call that is killed.

    Parameters
    ----------
    call : callable
        What is killed; takes the folder.
    before : callable
        Makes what lies there before.
    ways : sequence of callable
        What may be called after it; the last one must succeed wherever another one was refused.
    outputs : sequence of (str, str)
        The outputs that must be proven complete, and their ledgers, relative to the folder.
    replaced : sequence of str
        Outputs that are there, whole, and are replaced.
    begun : sequence of str
        Outputs that are there, half-written, and are replaced.
    alone : callable, optional
        Leaves the same where nothing was there before.
    """

    call: Call
    before: Call = lambda folder: None
    ways: Sequence[Call] = ()
    outputs: Sequence[tuple[str, str]] = ()
    replaced: Sequence[str] = ()
    begun: Sequence[str] = ()
    alone: Call | None = None


def double(tiles: np.ndarray) -> np.ndarray:
    """The model of the old output."""
    return 2 * tiles


def negative(tiles: np.ndarray) -> np.ndarray:
    """The model of the new one."""
    return -tiles


def prove(folder: Path, outputs: Sequence[tuple[str, str]]) -> None:
    """Raise where an output is not proven complete, or has objects that are none of its own."""
    for output, ledger in outputs:
        verification = tw.verify(folder / output, progress=False, **_place(folder, ledger))
        if not verification.is_complete or verification.writer:
            raise RuntimeError(str(verification))


# --- Predictions.


def predict(folder: Path, ledger: str, if_exists: str, *, is_new: bool = False) -> None:
    """Predict the image, as the old output or as the new one."""
    model, options = (negative, NEW) if is_new else (double, OLD)
    place = _place(folder, ledger)
    tw.predict_to_zarr(model, IMAGE, folder / "out.zarr", if_exists=if_exists, **REQUEST, **options, **place)


def repair(folder: Path, ledger: str) -> None:
    """Repair the old output."""
    tw.repair(folder / "out.zarr", double, IMAGE, progress=False, **_place(folder, ledger))


def spoilt(folder: Path, ledger: str) -> None:
    """Leave the old output with objects that are gone, short or other than they were."""
    predict(folder, ledger, "fail")
    _spoil(folder / "out.zarr")


def half_written(folder: Path, ledger: str) -> None:
    """Leave the old output as a run that was killed in the middle does, and as damage does."""
    for at in range(40, 110, 3):
        ended = play(partial(predict, ledger=ledger, if_exists="fail"), folder, Point(at))
        if ended.status == -signal.SIGKILL and not play(partial(_check_half, ledger=ledger), folder).fault:
            _spoil(folder / "out.zarr")
            return
        for place in ("out.zarr", "out.zarr.ledger", ledger or "out.zarr.ledger"):
            shutil.rmtree(folder / place, ignore_errors=True)
    raise RuntimeError("no kill has left a half of the output")


def _check_half(folder: Path, ledger: str) -> None:
    verification = tw.verify(folder / "out.zarr", progress=False, **_place(folder, ledger))
    count = verification.plan.unit_count
    if not count // 4 <= len(verification.conditions) <= 3 * count // 4:
        raise RuntimeError(str(verification))


def _spoil(output: Path) -> None:
    # A killed run may have left an empty file under a temporary name: there is nothing in it to spoil.
    objects = [path for path in sorted(output.glob("*/c/**/*")) if path.is_file() and path.stat().st_size]
    for number, path in enumerate(objects):
        if number % 6 == 1:
            path.write_bytes(b"spoilt")
        elif number % 6 == 3:
            path.unlink()
        elif number % 6 == 5:
            raw = bytearray(path.read_bytes())
            raw[7] ^= 1
            path.write_bytes(raw)


def _place(folder: Path, ledger: str) -> dict[str, Any]:
    return {"ledger": folder / ledger} if ledger else {}


def _of_predictions(ledger: str) -> dict[str, Scenario]:
    name = ", ledger elsewhere" if ledger else ""
    proven, there = [("out.zarr", ledger)], ["out.zarr"]
    start, old_resumed, again = (
        partial(predict, ledger=ledger, if_exists=word) for word in ("fail", "resume", "overwrite")
    )
    new, new_resumed = (
        partial(predict, ledger=ledger, if_exists=word, is_new=True) for word in ("overwrite", "resume")
    )
    fresh = partial(predict, ledger=ledger, if_exists="fail", is_new=True)
    half, damaged = partial(half_written, ledger=ledger), partial(spoilt, ledger=ledger)
    repaired = partial(repair, ledger=ledger)
    return {
        f"start{name}": Scenario(start, ways=[old_resumed], outputs=proven),
        f"resume{name}": Scenario(old_resumed, half, [old_resumed], proven, alone=start),
        f"overwrite{name}": Scenario(new, start, [new_resumed, new], proven, there, alone=fresh),
        f"overwrite a half{name}": Scenario(new, half, [new_resumed, new], proven, begun=there, alone=fresh),
        f"overwrite by the same{name}": Scenario(again, start, [old_resumed, again], proven, there, alone=start),
        f"repair{name}": Scenario(repaired, damaged, [repaired], proven, alone=start),
    }


# --- Functions that write one image.


def write_zarr_of(folder: Path, value: int, *, is_lazy: bool) -> None:
    """Write an image to Zarr."""
    tw.write_zarr(folder / "out.zarr", _image(value, is_lazy=is_lazy), chunks=(24, 24))


def write_tiff_of(folder: Path, value: int, *, is_lazy: bool, **options: Any) -> None:
    """Write an image to a TIFF file."""
    tw.write_tiff(folder / "out.tiff", _image(value, is_lazy=is_lazy), **options)


def _image(value: int, *, is_lazy: bool) -> Any:
    image = IMAGE + value
    return dask.array.from_array(image, chunks=(30, 40)) if is_lazy else image


def _of_functions() -> dict[str, Scenario]:
    writes = {
        "write_zarr": ("out.zarr", write_zarr_of, {}),
        "write_tiff": ("out.tiff", write_tiff_of, {}),
        "write_tiff, encoded": ("out.tiff", write_tiff_of, {"compression": "zlib"}),
    }
    scenarios = {}
    for name, (output, function, options) in writes.items():
        for is_lazy in (False, True):
            full = f"{name}{' from dask' if is_lazy else ''}"
            old, new = (partial(function, value=value, is_lazy=is_lazy, **options) for value in (0, 1))
            scenarios[full] = Scenario(new, ways=[new])
            scenarios[f"{full}, again"] = Scenario(new, old, [new], replaced=[output], alone=new)
    return scenarios


# --- Trainers.

Images = Sequence[Any]


def train(
    folder: Path, if_exists: str, *, is_new: bool = False, of_arrays: bool = False, to_tiff: bool = False
) -> None:
    """Let a stand-in for a trainer predict three images."""
    images: Images = [IMAGE + ord(name) for name in "abc"] if of_arrays else [folder / f"{name}.tif" for name in "abc"]
    dataset = tw.IterableTiledPredDataset(images, axes="YX", tile_size=(32, 32), overlaps=(8, 8))
    chunks, model = (NEW["chunks"], negative) if is_new else (OLD["chunks"], double)
    writer: Any = tw.CacheTiles(tw.write_tiff, ".tiff")
    if not to_tiff:
        writer = tw.WriteTilesZarr(
            if_exists=if_exists, chunks=chunks, compressors=None, window_nbytes=8192, levels=LEVELS
        )
    loader = SimpleNamespace(dataset=dataset, batch_size=1)
    trainer = SimpleNamespace(predict_dataloaders=loader, world_size=1, lightning_module=None)
    place = folder / "predictions"
    writer.prepare(trainer, place)
    for number, (tile, information) in enumerate(dataset):
        prediction = model(np.asarray(tile))[np.newaxis]
        writer.write_batch(trainer, None, prediction, None, ([], [information]), number, 0, place)
    writer.finalize()


def write_images(folder: Path) -> None:
    """Write the sources of the stand-in for a trainer."""
    for name in "abc":
        tifffile.imwrite(folder / f"{name}.tif", IMAGE + ord(name))
        # Outputs tell when their source was written.
        os.utime(folder / f"{name}.tif", (0, 0))


def _after_images(folder: Path, call: Call) -> None:
    write_images(folder)
    call(folder)


def _spoilt_images(folder: Path, call: Call, outputs: Sequence[str]) -> None:
    _after_images(folder, call)
    for output in outputs:
        _spoil(folder / output)


def _of_trainers() -> dict[str, Scenario]:
    scenarios = {}
    for of_arrays in (False, True):
        name = " of arrays" if of_arrays else ""
        start, old_resumed = (partial(train, if_exists=word, of_arrays=of_arrays) for word in ("fail", "resume"))
        new, new_resumed = (
            partial(train, if_exists=word, is_new=True, of_arrays=of_arrays) for word in ("overwrite", "resume")
        )
        outputs = [f"prediction.zarr/{number}" for number in range(3)] if of_arrays else ["a.zarr", "b.zarr", "c.zarr"]
        there = [f"predictions/{output}" for output in outputs]
        proven = [(output, "") for output in there]
        before = partial(_after_images, call=start)
        fresh = partial(_after_images, call=partial(train, if_exists="fail", is_new=True, of_arrays=of_arrays))
        spoilt_before = partial(_spoilt_images, call=start, outputs=there)
        scenarios |= {
            f"trainer{name}": Scenario(start, write_images, [old_resumed], proven),
            f"trainer{name}, resume": Scenario(old_resumed, spoilt_before, [old_resumed], proven, alone=before),
            f"trainer{name}, overwrite": Scenario(new, before, [new_resumed, new], proven, there, alone=fresh),
        }
    cached, older = (partial(train, if_exists="", to_tiff=True, is_new=is_new) for is_new in (True, False))
    tiffs = [f"predictions/{name}.tiff" for name in "abc"]
    before = partial(_after_images, call=older)
    return scenarios | {
        "trainer to TIFF": Scenario(cached, write_images, [cached]),
        "trainer to TIFF, again": Scenario(
            cached, before, [cached], replaced=tiffs, alone=partial(_after_images, call=cached)
        ),
    }


KINDS = {
    "predictions": _of_predictions("") | _of_predictions(ELSEWHERE),
    "functions": _of_functions(),
    "trainers": _of_trainers(),
}
SCENARIOS = {name: scenario for kind in KINDS.values() for name, scenario in kind.items()}
