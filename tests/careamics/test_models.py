"""A CAREamist and its checkpoint predict in `predict_to_zarr` what CAREamics predicts, with its own configuration."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from tests.careamics.conftest import Trained, image_of

import tilewright as tw
from tilewright.cli.commands import commands
from tilewright.examples import careamics

Train = Callable[[str, str], Trained]


@pytest.mark.parametrize("algorithm", ["n2v", "care"])
@pytest.mark.parametrize(
    ("axes", "shape"), [("YX", (70, 90)), ("YX", (20, 90)), ("ZYX", (18, 50, 40)), ("ZYX", (5, 50, 40))]
)
def test_a_careamist_and_its_checkpoint_predict_the_same(
    algorithm: str, axes: str, shape: tuple[int, ...], train: Train, tmp_path: Path
) -> None:
    trained = train(algorithm, axes)
    image = image_of(shape)
    (expected,) = trained.predict(image, batch_size=1)
    tiles = {"tile_size": trained.tile_size, "overlap": trained.overlap, "layout": "compact", "progress": False}
    checkpoints = trained.careamist.trainer.checkpoint_callback
    path = checkpoints.last_model_path if algorithm == "n2v" else checkpoints.best_model_path
    for number, model in enumerate((trained.careamist, path)):
        report = tw.predict_to_zarr(model, image, tmp_path / f"{number}.zarr", **tiles)
        np.testing.assert_array_equal(report.array[:], expected)


def test_channels_of_the_configuration_are_taken(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "CYX")
    image = image_of((2, 50, 40))
    (expected,) = trained.predict(image, batch_size=1)
    tiles = {"tile_size": trained.tile_size, "overlap": trained.overlap, "layout": "compact", "progress": False}
    report = tw.predict_to_zarr(trained.careamist, image, tmp_path / "out.zarr", **tiles)
    np.testing.assert_array_equal(report.array[:], expected)


def test_tiles_come_from_the_configuration_and_a_command_takes_a_checkpoint(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    image = image_of((70, 90))
    report = tw.predict_to_zarr(trained.careamist, image, tmp_path / "a.zarr", layout="compact", progress=False)
    assert (report.plan.axes, report.plan.tile_size, report.plan.overlap) == ("YX", (32, 32), (16, 16))
    zarr.save_array(tmp_path / "raw.zarr", image)
    path = trained.careamist.trainer.checkpoint_callback.last_model_path
    arguments = [tmp_path / "raw.zarr", tmp_path / "b.zarr", "--model", f"careamics:{path}", "--layout", "compact"]
    ended = CliRunner().invoke(commands, ["predict", *map(str, arguments)])
    assert ended.exit_code == 0, ended.output
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "b.zarr/0", mode="r")[:], report.array[:])


def test_a_module_alone_is_refused_with_what_to_pass(train: Train, tmp_path: Path) -> None:
    trained = train("n2v", "YX")
    with pytest.raises(TypeError, match="pass the CAREamist, or the path of its checkpoint"):
        tw.predict_to_zarr(trained.careamist.model, image_of((40, 40)), tmp_path / "out.zarr")


def test_a_tile_that_the_network_cannot_take_is_refused_and_a_smaller_one_has_its_own_overlap(
    train: Train, tmp_path: Path
) -> None:
    trained = train("n2v", "YX")
    with pytest.raises(ValueError, match="tile_size must be multiples of 4 for this model"):
        tw.predict_to_zarr(trained.careamist, image_of((40, 40)), tmp_path / "out.zarr", tile_size=(30, 32))
    assert not (tmp_path / "out.zarr").exists()
    report = tw.predict_to_zarr(trained.careamist, image_of((40, 40)), tmp_path / "out.zarr", tile_size=(16, 64))
    assert report.plan.overlap == (8, 32)


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "cut short"])
def test_a_damaged_checkpoint_is_named(content: bytes | None, train: Train, tmp_path: Path) -> None:
    whole = Path(train("n2v", "YX").careamist.trainer.checkpoint_callback.last_model_path).read_bytes()
    (tmp_path / "model.ckpt").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=r"model\.ckpt cannot be read as a checkpoint of CAREamics"):
        tw.predict_to_zarr(tmp_path / "model.ckpt", image_of((40, 40)), tmp_path / "out.zarr")


def test_an_untrained_model_is_refused(tmp_path: Path) -> None:
    from careamics.config.factories import create_n2v_config

    from careamics import CAREamist

    untrained = CAREamist(create_n2v_config("new", "array", "YX", [32, 32], 8), work_dir=tmp_path)
    with pytest.raises(ValueError, match="was not trained"):
        tw.predict_to_zarr(untrained, image_of((40, 40)), tmp_path / "out.zarr")


def test_the_guide_of_the_readme_writes_what_careamics_returns(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train("n2v", "YX")
    shutil.copy(trained.careamist.trainer.checkpoint_callback.last_model_path, tmp_path / "denoiser.ckpt")
    image = image_of((150, 170))
    tifffile.imwrite(tmp_path / "raw.tiff", image)
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (guide,) = (text for text in re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S) if "careamics" in text)
    exec(compile(guide, "README", "exec"), {"tw": tw, "client": None})
    (expected,) = trained.predict(image, tile_size=(64, 64), tile_overlap=(48, 48), batch_size=1)
    found = zarr.open_array("denoised.zarr/0", mode="r")[:]
    np.testing.assert_array_equal(found, expected)
    # The batch size of the checkpoint changes the last digits.
    found = zarr.open_array("denoised/raw.zarr/0", mode="r")[:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.ptp(expected))


def test_the_example_shows_the_same_values(tmp_path: Path) -> None:
    assert careamics.run(tmp_path) < 1e-5
