"""A trainer of CAREamics writes what CAREamics stitches in memory, bit for bit, and goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from tests.careamics.conftest import Trained, image_of
from tests.support import read_level

import tilewright as tw
from tilewright.errors import DestinationError, ResumeError

Train = Callable[[str, str], Trained]


def written(folder: Path, axes: str) -> list[np.ndarray]:
    """The outputs in a folder, in the order of their names, on the axes of the source; as stored without axes."""
    found = []
    for path in sorted(folder.rglob("zarr.json")):
        if "tilewright" in json.loads(path.read_text())["attributes"]:
            level = read_level(path.parent, 0)
            names = "".join(name for name in "STCZYX" if name in axes)
            found.append(level.transpose([names.index(name) for name in axes]) if axes else level)
    return found


@pytest.mark.parametrize("algorithm", ["n2v", "care"])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("YX", (70, 90)),
        ("YX", (20, 90)),
        ("SYX", (3, 50, 40)),
        ("TYX", (2, 50, 40)),
        ("YXS", (50, 40, 2)),
        ("ZYX", (18, 50, 40)),
        ("ZYX", (5, 50, 20)),
    ],
)
def test_tiles_are_written_as_careamics_stitches_them(
    algorithm: str, axes: str, shape: tuple[int, ...], train: Train, tmp_path: Path
) -> None:
    trained = train(algorithm, "ZYX" if "Z" in axes else "YX")
    image = image_of(shape)
    options = {"axes": axes} | ({"output_axes": axes} if algorithm == "care" else {})
    for order in ("STCZYX", "source"):
        (expected,) = trained.predict(image, tw.WriteTilesZarr(axes=order), tmp_path / order, **options)
        (found,) = written(tmp_path / order, axes if order == "STCZYX" else "")
        np.testing.assert_array_equal(found, expected, strict=True)


def test_channels_are_written(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "CYX")
    (expected,) = trained.predict(image_of((2, 50, 40)), tw.WriteTilesZarr(), tmp_path)
    np.testing.assert_array_equal(written(tmp_path, "CYX")[0], expected)


@pytest.mark.parametrize("kind", ["array", "tiff", "zarr"])
def test_each_image_is_written_under_its_name(kind: str, train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    images = [image_of((70, 50), seed=1), image_of((40, 90), seed=2)]
    sources: list[Any] = images
    if kind == "tiff":
        sources = [tmp_path / "first" / "raw.tiff", tmp_path / "second" / "raw.tiff"]
        for path, image in zip(sources, images, strict=True):
            path.parent.mkdir()
            tifffile.imwrite(path, image)
    elif kind == "zarr":
        # Two stores, whose arrays have the same name.
        sources = [f"file://{tmp_path}/{name}.zarr/raw" for name in ("first", "second")]
        for path, image in zip(sources, images, strict=True):
            zarr.open_group(path.removeprefix("file://").rpartition("/")[0]).create_array("raw", data=image)
    expected = trained.predict(sources, tw.WriteTilesZarr(), tmp_path / "out", data_type=kind)
    found = written(tmp_path / "out", "YX")
    assert len(found) == 2
    for values, image in zip(found, expected, strict=True):
        np.testing.assert_array_equal(values, image)


class Calibrated:
    """Image stack of another library: a file of elements, which are read for each patch, and made brighter."""

    original_axes = "YX"

    def __init__(self, path: Path) -> None:
        self.source = path
        self._image = np.load(path, mmap_mode="r")
        self.original_data_shape = self._image.shape
        self.data_shape = (1, 1, *self._image.shape)
        self.data_dtype = self._image.dtype

    def extract_patch(self, sample_idx: int, channels: Any, coords: Any, patch_size: Any) -> np.ndarray:
        (top, left), (height, width) = coords, patch_size
        read = self._image[top : top + height, left : left + width] + 100
        return np.pad(read, [(0, height - read.shape[0]), (0, width - read.shape[1])])[np.newaxis]


def load_calibrated(source: Any, axes: str) -> list[Calibrated]:
    return [Calibrated(Path(path)) for path in source]


@pytest.mark.parametrize("kind", ["a function that reads files", "image stacks"])
def test_formats_of_the_user_are_read_by_their_reader(kind: str, train: Train, tmp_path: Path) -> None:
    from careamics.dataset.factory import ImageStackLoading, ReadFuncLoading

    trained = train("n2v", "YX")
    paths = [tmp_path / name / "raw.npy" for name in ("first", "second")]
    for seed, path in enumerate(paths):
        path.parent.mkdir()
        np.save(path, image_of((40 + 30 * seed, 90), seed=seed))
    loading = ImageStackLoading(load_calibrated) if kind == "image stacks" else ReadFuncLoading(np.load)
    options = {"data_type": "custom", "loading": loading}
    expected = trained.predict(paths, tw.WriteTilesZarr(), tmp_path / "out", **options)
    for found, image in zip(written(tmp_path / "out", "YX"), expected, strict=True):
        np.testing.assert_array_equal(found, image)
    assert sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("raw.zarr")) == [
        Path("first/raw.zarr"),
        Path("second/raw.zarr"),
    ]
    np.save(paths[1], image_of((70, 90), seed=9))
    with pytest.raises(ResumeError, match=r"source: .* then"):
        trained.predict(paths, tw.WriteTilesZarr(if_exists="resume"), tmp_path / "out", **options)


def test_tiles_are_cached_and_whole_images_are_written(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    images = [image_of((64, 48)), image_of((64, 48), seed=1)]
    tiff = {"write_func": tw.write_tiff, "write_extension": ".tiff", "axes": "source"}
    tiled = trained.predict(images, tw.CacheTiles(**tiff), tmp_path / "tiles")
    whole = trained.predict(images, tw.WriteImage(**tiff), tmp_path / "images", tile_size=None)
    for number in range(2):
        for folder, expected in (("tiles", tiled), ("images", whole)):
            found = tifffile.imread(tmp_path / folder / f"prediction_{number}.tiff")
            np.testing.assert_array_equal(found, expected[number], strict=True)


@pytest.mark.parametrize(
    ("strategy", "options", "words"),
    [
        (tw.WriteImage(tw.write_tiff, ".tiff"), {}, "predicts tiles here, which WriteImage does not take"),
        (tw.WriteTilesZarr(), {"tile_size": None}, "predicts whole images here, which WriteTilesZarr does not take"),
        (tw.CacheTiles(tw.write_tiff, ".tiff"), {"tile_size": None}, "whole images here, which CacheTiles does not"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused(
    strategy: Any, options: dict[str, Any], words: str, train: Train, tmp_path: Path
) -> None:
    trained = train("n2v", "YX")
    with pytest.raises(TypeError, match=words):
        trained.predict(image_of((64, 48)), strategy, tmp_path, **options)
    assert not list(tmp_path.rglob("*.*"))
    # The next run is not hindered by it.
    trained.predict(image_of((64, 48)), tw.WriteTilesZarr(), tmp_path)


def test_another_array_is_not_taken_for_the_one_that_was_begun(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    trained.predict(image_of((64, 48)), tw.WriteTilesZarr(), tmp_path)
    with pytest.raises(ResumeError, match=r"source: .* then"):
        trained.predict(image_of((64, 48), seed=1), tw.WriteTilesZarr(if_exists="resume"), tmp_path)


def test_an_image_that_is_complete_is_not_predicted_again(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    first, second = image_of((64, 48)), image_of((64, 48), seed=1)
    expected = trained.predict([first, second])
    strategy = tw.WriteTilesZarr(chunks=(32, 32))
    trained.predict(first, strategy, tmp_path)
    trainer, model = trained.careamist.trainer, trained.careamist.model
    calls: list[int] = []
    hook = model.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        for _ in range(2):
            trained.writer.write_strategy = tw.WriteTilesZarr(chunks=(32, 32), if_exists="resume")
            trained.writer.dirpath, trained.writer.writing_predictions = tmp_path, True
            module = trained.data_module([first, second], new_batch_size=3)
            trainer.predict(model, datamodule=module, return_predictions=False)
    finally:
        hook.remove()
        trained.writer.writing_predictions = False
    for found, image in zip(written(tmp_path, "YX"), expected, strict=True):
        np.testing.assert_array_equal(found, image)
    # Six tiles of the second image, in batches of three; nothing in the second run.
    assert len(calls) == 2


def calls_of(trained: Trained, predict: Callable[[], Any]) -> tuple[int, Any]:
    """Predict, and return how often the network was called, and what was returned."""
    calls: list[int] = []
    hook = trained.careamist.model.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        returned = predict()
    finally:
        hook.remove()
    return len(calls), returned


@pytest.mark.parametrize("order", ["STCZYX", "source"])
@pytest.mark.parametrize(
    ("axes", "shape", "call_count"), [("YX", (64, 48), 2), ("YXS", (64, 48, 2), 4), ("YX", (20, 64), 1)]
)
def test_what_a_resumed_run_returns_is_whole(
    axes: str, shape: tuple[int, ...], call_count: int, order: str, train: Train, tmp_path: Path
) -> None:
    trained = train("n2v", "YX")
    images = [image_of(shape, seed=seed) for seed in range(2)]
    expected = trained.predict(images, axes=axes)
    trained.predict(images[0], tw.WriteTilesZarr(axes=order), tmp_path, axes=axes)
    for wanted in (call_count, 1):
        resumed = tw.WriteTilesZarr(axes=order, if_exists="resume")
        calls, returned = calls_of(trained, partial(trained.predict, images, resumed, tmp_path, axes=axes))
        assert calls == wanted
        for image, found in zip(expected, returned, strict=True):
            np.testing.assert_array_equal(found, image)


def test_what_is_stored_in_another_type_is_predicted_again_where_it_is_returned(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    image = image_of((64, 48))
    expected = trained.predict(image, tw.WriteTilesZarr(dtype="uint8"), tmp_path)
    stored = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = partial(trained.predict, image, tw.WriteTilesZarr(dtype="uint8", if_exists="resume"), tmp_path)
    calls, returned = calls_of(trained, again)
    assert calls == 2
    np.testing.assert_array_equal(returned, expected)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == stored


@pytest.mark.parametrize(
    "strategy",
    [
        tw.WriteTilesZarr(if_exists="overwrite"),
        tw.CacheTiles(tw.write_tiff, ".tiff"),
        tw.WriteImage(tw.write_tiff, ".tiff"),
    ],
    ids=["WriteTilesZarr", "CacheTiles", "WriteImage"],
)
def test_an_output_of_an_array_is_replaced(strategy: Any, train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    options = {"tile_size": None} if isinstance(strategy, tw.WriteImage) else {}
    stored = []
    for seed in range(2):
        (expected,) = trained.predict(image_of((64, 48), seed=seed), strategy, tmp_path, **options)
        found = written(tmp_path, "YX") or [tifffile.imread(tmp_path / "prediction_0.tiff").squeeze()]
        np.testing.assert_array_equal(found[0], expected)
        stored.append(found[0])
    assert not np.array_equal(*stored)


def test_a_memory_map_of_the_place_of_the_output_is_not_replaced(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    np.save(tmp_path / "prediction_0.npy", image_of((64, 48)))
    mapped = np.load(tmp_path / "prediction_0.npy", mmap_mode="r")
    with pytest.raises(DestinationError, match="source"):
        trained.predict(mapped, tw.CacheTiles(save_array, ".npy"), tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "prediction_0.npy"), image_of((64, 48)))


def save_array(file_path: Path, img: np.ndarray) -> None:
    np.save(file_path, img)


@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_what_careamics_writes_besides_is_whole_in_a_resumed_run(kind: str, train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    image, source = image_of((64, 48)), str(tmp_path / "raw.tiff")
    if kind == "zarr":
        zarr.open_group(tmp_path / "raw.zarr").create_array("raw", data=image)
        source = f"file://{tmp_path}/raw.zarr/raw"
    else:
        tifffile.imwrite(source, image)
    (expected,) = trained.predict(source, data_type=kind)
    tiles = {"data_type": kind, "tile_size": trained.tile_size, "tile_overlap": trained.overlap, "batch_size": 3}
    for number in range(2):
        theirs = tmp_path / f"theirs {number}"
        trained.writer.write_strategy = tw.WriteTilesZarr(if_exists="resume")
        trained.writer.dirpath, trained.writer.writing_predictions = tmp_path / "ours", True
        try:
            trained.careamist.predict_to_disk(source, prediction_dir=theirs, write_type=kind, **tiles)
        finally:
            trained.writer.writing_predictions = False
        arrays = [path.parent for path in theirs.rglob("zarr.json") if "shape" in json.loads(path.read_text())]
        (found,) = arrays or theirs.rglob("*.tiff")
        read = zarr.open_array(found, mode="r")[:] if kind == "zarr" else tifffile.imread(found)
        np.testing.assert_array_equal(read.squeeze(), expected)
        np.testing.assert_array_equal(written(tmp_path / "ours", "YX")[0], expected)


SCRIPT = Path(__file__).with_name("killed_run.py")


def test_a_killed_run_of_eight_images_predicts_what_is_missing(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    checkpoint = next(trained.careamist.work_dir.rglob("*last*.ckpt"))
    images = [image_of((64, 48), seed=seed) for seed in range(8)]
    np.save(tmp_path / "images.npy", images)

    def run(kill_at: int) -> tuple[int, int]:
        command = [sys.executable, "-W", "ignore", SCRIPT, checkpoint, tmp_path, str(kill_at)]
        ended = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
        calls = len((tmp_path / "calls").read_text())
        (tmp_path / "calls").unlink()
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        return ended.returncode, calls

    total = 8 * 6
    assert run(kill_at=20) == (-signal.SIGKILL, 20)
    status, calls = run(kill_at=0)
    assert status == 0
    # Tiles that were in memory when the process died are predicted again: those of one image at most.
    assert total - 20 <= calls <= total - 20 + 2 * 6
    for found, image in zip(written(tmp_path / "out", "YX"), trained.predict(images, batch_size=1), strict=True):
        np.testing.assert_array_equal(found, image)
