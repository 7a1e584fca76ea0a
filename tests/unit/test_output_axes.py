"""An output with the axes of its source is one array of them, from plan to repair; what needs OME-Zarr is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from tests.support import is_metadata, read_by_tensorstore

import tilewright as tw
from tilewright.cli.commands import commands
from tilewright.errors import GeometryError, ResumeError

EXTENTS = {"S": 2, "T": 3, "C": 2, "Z": 9, "Y": 40, "X": 36}
ZARR = {"chunks": {}, "Zarr 2": {"zarr_format": 2}, "shards": {"shards": "auto"}}


def image_of(axes: str) -> np.ndarray:
    return np.random.default_rng(0).random([EXTENTS[name] for name in axes], dtype="float32")


def predict(image: np.ndarray, folder: Path, axes: str, **options: Any) -> tw.Report:
    depth = "Z" in axes
    tiles = {"tile_size": (6, 16, 16)[not depth :], "overlap": (2, 4, 4)[not depth :]}
    options = {"chunks": (5, 16, 12)[not depth :], "output_axes": "source", "progress": False} | tiles | options
    return tw.predict_to_zarr(np.negative, image, folder / "out.zarr", axes=axes, **options)


@pytest.mark.parametrize("options", ZARR.values(), ids=ZARR)
@pytest.mark.parametrize("axes", ["YXC", "XY", "YXS", "SYX", "TSYX", "ZCYX", "XYZ", "YSTX"])
def test_the_array_is_that_of_the_source_and_is_repaired(axes: str, options: dict[str, Any], tmp_path: Path) -> None:
    image = image_of(axes)
    report = predict(image, tmp_path, axes, report=tmp_path / "report.html", **options)
    assert isinstance(report.array, zarr.Array)
    assert len(report.plan.arrays) == 1
    array = tmp_path / "out.zarr" / "0"
    np.testing.assert_array_equal(read_by_tensorstore(array, options.get("zarr_format", 3)), -image)
    assert tw.verify(tmp_path / "out.zarr", progress=False).is_complete
    whole = {path: path.read_bytes() for path in array.rglob("*") if path.is_file() and not is_metadata(path.name)}
    lost = max(whole)
    lost.unlink()
    surplus = lost.with_name("99")
    surplus.touch()
    verification = tw.verify(tmp_path / "out.zarr", progress=False)
    assert verification.units("missing")
    assert verification.surplus == [surplus.relative_to(array).as_posix()]
    assert tw.repair(tmp_path / "out.zarr", np.negative, image, progress=False).unit_count == 1
    assert {path: path.read_bytes() for path in whole} == whole
    assert predict(image, tmp_path, axes, if_exists="resume", **options).unit_count == 0


def test_the_names_of_the_axes_are_stored_and_the_report_and_the_plan_show_them(tmp_path: Path) -> None:
    report = predict(image_of("YXC"), tmp_path, "YXC", chunks=(16, 12, 2), report=tmp_path / "report.html")
    assert report.array.metadata.dimension_names == ("y", "x", "c")
    assert (report.array.chunks, report.plan.chunks) == ((16, 12, 2), (2, 16, 12))
    assert report.to_dict()["stored_axes"] == "YXC"
    page = (tmp_path / "report.html").read_text()
    assert "plane = prediction[:, :, 0]  # a NumPy array YX" in page
    assert "YXC 40 × 36 × 2" in page
    assert "stored as    YXC (40, 36, 2), in chunks of (16, 12, 2)" in str(report.plan)


def test_the_same_order_is_an_image_of_ome_zarr(tmp_path: Path) -> None:
    report = predict(image_of("CYX"), tmp_path, "CYX")
    assert report.plan.stored_axes is None
    assert "ome" in zarr.open_group(tmp_path / "out.zarr", mode="r").attrs


def test_channels_of_the_model_come_before_the_spatial_axes(tmp_path: Path) -> None:
    image = image_of("SYX")
    tiles = {"tile_size": (16, 16), "overlap": (4, 4), "output_axes": "source", "progress": False}
    report = tw.predict_to_zarr(
        lambda batch: np.concatenate([batch, -batch], axis=1), image, tmp_path / "out.zarr", axes="SYX", **tiles
    )
    np.testing.assert_array_equal(report.array[:], np.stack([image, -image], axis=1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": 3}, "levels must be 1 for an output with the axes YXC of its source"),
        ({"scale": (1, 1)}, "need OME-Zarr, which has no image with the axes YXC"),
        ({"output_axes": "YXC"}, "output_axes must be 'STCZYX', or 'source'"),
        ({"chunks": (1, 16, 12, 2)}, "one number for each output axis YXC"),
    ],
)
def test_what_such_an_output_cannot_have_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=words):
        predict(image_of("YXC"), tmp_path, "YXC", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("axes", "words"), [("YXC", "axes: YXC then, CYX now"), ("SYX", "samples apart: False then")])
def test_a_run_in_the_other_order_does_not_go_on(axes: str, words: str, tmp_path: Path) -> None:
    predict(image_of(axes), tmp_path, axes)
    with pytest.raises(ResumeError, match=words):
        predict(image_of(axes), tmp_path, axes, output_axes="STCZYX", if_exists="resume")


def test_a_command_writes_the_axes_of_the_source(tmp_path: Path) -> None:
    zarr.save_array(tmp_path / "raw.zarr", image_of("YXC"))
    (tmp_path / "model.py").write_text("import numpy\n\nnegative = numpy.negative\n")
    options = ["--axes", "YXC", "--tile-size", "16,16", "--overlap", "4,4", "--output-axes", "source"]
    command = ["predict", str(tmp_path / "raw.zarr"), str(tmp_path / "out.zarr"), "--model"]
    ended = CliRunner().invoke(commands, [*command, f"{tmp_path}/model.py:negative", *options])
    assert ended.exit_code == 0, ended.output
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr/0", mode="r")[:], -image_of("YXC"))


@pytest.mark.parametrize("strategy", [tw.WriteTilesZarr, lambda **o: tw.CacheTiles(tw.write_tiff, ".tiff", **o)])
def test_a_strategy_takes_no_other_order(strategy: Any) -> None:
    with pytest.raises(GeometryError, match="axes must be 'STCZYX', or 'source'"):
        strategy(axes="YXC")


# --- What a tile has beyond an axis that is shorter.


def plus_sums_of_columns(batch: np.ndarray) -> np.ndarray:
    return batch.cumsum(axis=2) + batch.sum(axis=2, keepdims=True)


def test_zeros_are_behind_a_short_axis(tmp_path: Path) -> None:
    image, model = np.arange(10 * 36, dtype="float32").reshape(10, 36), plus_sums_of_columns
    tiles = {"tile_size": (16, 16), "overlap": (4, 4), "axes": "YX", "progress": False}
    report = tw.predict_to_zarr(model, image, tmp_path / "out.zarr", padding="zeros", **tiles)
    np.testing.assert_array_equal(report.array[:], image.cumsum(axis=0) + image.sum(axis=0))
    stored = tmp_path / "out.zarr" / "0" / "c" / "0" / "0"
    whole = stored.read_bytes()
    stored.unlink()
    tw.repair(tmp_path / "out.zarr", model, image, progress=False)
    assert stored.read_bytes() == whole
    with pytest.raises(ResumeError, match="padding: zeros then, reflect now"):
        tw.predict_to_zarr(model, image, tmp_path / "out.zarr", if_exists="resume", **tiles)
    with pytest.raises(GeometryError, match="padding must be one of"):
        tw.plan_write((10, 36), "YX", (16, 16), (4, 4), padding="edge")
