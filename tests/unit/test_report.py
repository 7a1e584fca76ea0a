"""The report of a run is one file that tells what was done, however the run ended; progress is told everywhere."""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
from base64 import b64decode
from contextlib import nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.strategies import in_small_units, write_plans

import tilewright as tw
from tilewright.cli.commands import commands
from tilewright.ledger.receipts import StageSeconds, UnitReceipt
from tilewright.plan import WritePlan
from tilewright.plan.describe import format_nbytes
from tilewright.runs.progress import Progress, ProgressLine
from tilewright.runs.report import Report, Tally
from tilewright.runs.reporting.ending import Ending
from tilewright.runs.reporting.history import MOST_CELLS, MOST_PROCESSES, MOST_STEPS, History
from tilewright.runs.reporting.png import encode_png
from tilewright.stopping import StopRequest

CUT = {"axes": "YX", "tile_size": (12, 12), "overlap": (4, 4), "chunks": (8, 8)}
MOST_NBYTES = 2 * 2**20
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The text of a page, all places that it refers to, and whether its tags match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts, self.places, self.open = [], [], []
        self.feed(html)
        self.close()
        assert not self.open
        assert not re.search(r"url\(|@import|https?://", html)
        assert all(place.startswith("data:image/png;base64,") for place in self.places)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.places += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.open += [tag] * (tag not in VOID and not tag.isupper())

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts += [data] * (self.open[-1:] != ["style"])


class Clock:
    """Seconds that pass as the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def receipt(unit: int, process: str = "1 on here") -> UnitReceipt:
    return UnitReceipt(unit, 1, 100, seconds=StageSeconds(model=0.25), peak_memory_nbytes=2**20, process=process)


def fails_where_negative(tiles: np.ndarray) -> np.ndarray:
    if (tiles < 0).any():
        raise ValueError("a <negative> tile")
    return tiles


def in_two_types(tiles: np.ndarray) -> np.ndarray:
    return tiles.astype("complex64") if tiles.min() else tiles


def predict(output: Path, image: np.ndarray, model: Any = fails_where_negative, **options: Any) -> Report:
    plan = in_small_units(tw.plan_write(image.shape, dtype=image.dtype, **CUT), 2**12)
    return tw.predict_to_zarr(model, image, output, plan=plan, progress=False, **options)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((256, 256), np.float32)


@given(write_plans(), st.data())
def test_a_history_counts_each_unit_once_in_its_cell_its_time_and_its_process(plan: WritePlan, data: Any) -> None:
    states = data.draw(st.lists(st.sampled_from("wkgm"), min_size=plan.unit_count, max_size=plan.unit_count))
    clock = Clock()
    history = History(plan, clock)
    history.kept([unit for unit, state in enumerate(states) if state == "k"])
    for unit, state in enumerate(states):
        clock.now += data.draw(st.sampled_from([0.0, 0.01, 1e3]))
        if state == "w":
            history.written(receipt(unit, f"{unit % 3} on here"))
        elif state == "g":
            history.given_up(unit)
        history.in_flight(unit)
    for number, (array, units) in enumerate(zip(plan.arrays, history.levels, strict=True)):
        assert units.factors == (1,) * len(array.unit_counts)
        of_level = [state for unit, state in enumerate(states) if plan.array_of_unit(unit) == number]
        for state, found in zip("wkg", (units.written, units.kept, units.given_up), strict=True):
            np.testing.assert_array_equal(found, np.reshape([each == state for each in of_level], array.unit_counts))
    written = [unit for unit, state in enumerate(states) if state == "w"]
    nbytes = sum(map(plan.unit_nbytes, written))
    assert nbytes == history.written_nbytes == history.timeline.nbytes.sum()
    assert nbytes == sum(process.nbytes for process in history.processes.values())
    assert history.timeline.unit_counts.sum() == sum(p.unit_count for p in history.processes.values()) == len(written)
    assert history.timeline.live(clock.now + 1)[-1] == plan.unit_count - 1


def test_pictures_are_png_that_another_reader_reads() -> None:
    for channels in (1, 2, 3, 4):
        pixels = np.random.default_rng(0).integers(0, 255, (5, 7, channels), np.uint8)
        with Image.open(BytesIO(encode_png(pixels))) as read:
            np.testing.assert_array_equal(np.asarray(read).reshape(pixels.shape), pixels)


def test_a_report_of_a_thousand_units_tells_what_was_given_up_where_and_why(image: np.ndarray, tmp_path: Path) -> None:
    image[100, 100] = -1
    with pytest.raises(tw.errors.UnitGivenUpError) as raised:
        predict(tmp_path / "o.zarr", image, report=tmp_path / "r.html")
    report = raised.value.report
    assert report.plan.unit_count == 1024
    html = (tmp_path / "r.html").read_text()
    assert len(html) < MOST_NBYTES
    page = Page(html)
    given_up = len(report.given_up)
    assert f"Not complete: {given_up:,} write unit" in page.text
    assert "a <negative> tile" in page.text
    assert f"{report.unit_count:,} of 1,024 write units are stored" in page.text
    assert "Y 96:104, X 96:104" in page.text
    for nbytes in (report.output_nbytes, report.stored_nbytes, report.peak_live_nbytes, report.peak_memory_nbytes):
        assert format_nbytes(nbytes) in page.text
    assert len(page.places) == 3  # the map, and a plane of source and prediction
    assert report.output_nbytes == image.nbytes - sum(map(report.plan.unit_nbytes, report.given_up))
    assert report.history.levels[0].given_up.sum() == given_up
    said = json.loads(json.dumps(report.to_dict()))
    assert (said["state"], said["unit_count"], len(said["given_up"])) == ("given up", report.unit_count, given_up)
    assert said["digest"] == ""
    # What reads as the fill value is no value of a picture.
    assert f"Prediction: values of the pictures, from {report.array[:][report.array[:] > 0].min():.4g}" in page.text
    Page(report._repr_html_())
    Page(report.plan._repr_html_())


def test_a_report_of_a_resumed_run_knows_what_was_kept_and_saves_itself(image: np.ndarray, tmp_path: Path) -> None:
    predict(tmp_path / "o.zarr", image)
    report = predict(tmp_path / "o.zarr", image, if_exists="resume")
    assert report.is_complete
    assert (report.kept_nbytes, report.output_nbytes) == (image.nbytes, 0)
    report.save(tmp_path / "r.html")
    assert "Complete: all 1,024 write units are stored." in Page((tmp_path / "r.html").read_text()).text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.zarr", "o.zarr.ledger", "r.html"]


def test_a_plane_that_is_too_large_to_be_read_is_shown_as_a_whole_from_the_level_that_fits(tmp_path: Path) -> None:
    image = np.zeros((6000, 6000), np.uint8)
    image[2500:3500, 2500:3500] = 255
    cut = {"axes": "YX", "tile_size": (1000, 1000), "overlap": (0, 0), "chunks": (500, 500)}
    report = tw.predict_to_zarr(np.positive, image, tmp_path / "o.zarr", **cut, levels=3, progress=False)
    html = report.to_html()
    assert len(html) < MOST_NBYTES
    page = Page(html)
    assert "Prediction, all of it at level 1 Y 0:3000 in steps of 10; X 0:3000 in steps of 10" in page.text
    assert "Prediction, a part at full resolution Y " in page.text
    pictures = [np.asarray(Image.open(BytesIO(b64decode(place.partition(",")[2])))) for place in page.places[-3:]]
    whole, of_source, of_prediction = pictures
    assert whole.shape == (300, 300)
    np.testing.assert_array_equal(whole[125:175, 125:175], 255)
    np.testing.assert_array_equal(of_source, of_prediction)
    for level, shape in enumerate(("6,000 × 6,000 36 tiles", "3,000 × 3,000 ", "1,500 × 1,500 ")):
        assert f" {level} {shape}" in page.text


def test_a_history_and_its_page_stay_small_for_a_run_of_200_000_units() -> None:
    plan = tw.plan_write((2048, 5120, 5120), "ZYX", (64,) * 3, (0,) * 3, chunks=(64,) * 3, dtype="uint8")
    plan = in_small_units(plan)
    assert plan.unit_count > 200_000
    clock = Clock()
    history = History(plan, clock)
    for unit in range(plan.unit_count):
        clock.now += 0.5
        if unit % 1000:
            history.written(receipt(unit, f"{unit % 1300} on here"))
        else:
            history.given_up(unit)
        history.in_flight(unit)
    assert history.levels[0].written.size <= MOST_CELLS
    assert len(history.processes) <= MOST_PROCESSES + 1
    assert len(history.timeline.rates(clock.now)) <= MOST_STEPS
    array = zarr.create_array({}, shape=plan.shape, chunks=plan.chunks, dtype="uint8")
    given_up = dict.fromkeys(range(0, plan.unit_count, 1000), "too bright")
    report = Tally(unit_count=plan.unit_count - len(given_up)).report(
        plan, array, 0, given_up, history, Ending("given up")
    )
    html = replace(report, total_seconds=clock.now).to_html()
    assert len(html) < MOST_NBYTES
    assert f"{len(given_up):,} write units were given up" in Page(html).text


def test_an_error_of_a_run_is_reported_and_goes_on_also_where_no_report_can_be_written(
    image: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image[:] = -1
    for name in ("r.html", "missing/r.html"):
        with pytest.raises(ValueError, match="negative"):
            predict(tmp_path / name.replace("/", "-"), image, report=tmp_path / name)
    assert "missing/r.html could not be written" in caplog.text
    text = Page((tmp_path / "r.html").read_text()).text
    assert "Failed before anything was written" in text
    assert "ValueError: a <negative> tile" in text

    image[:192] = 0
    with pytest.raises(tw.errors.ModelOutputError):
        predict(tmp_path / "o.zarr", image, in_two_types, report=tmp_path / "r.html")
    found = re.search(r"Failed at (\d+)%: (\d+) of 1,024 write units are stored", (tmp_path / "r.html").read_text())
    assert found is not None
    assert 0 < int(found[2]) == len(list((tmp_path / "o.zarr/0/c").glob("*/*"))) < 1024


def test_a_repair_is_reported_also_where_it_fails(image: np.ndarray, tmp_path: Path) -> None:
    output, page = tmp_path / "o.zarr", tmp_path / "r.html"
    tw.predict_to_zarr(np.negative, image, output, **CUT, progress=False)
    next((output / "0/c").glob("*/*")).unlink()
    with pytest.raises(tw.errors.ResumeError):
        tw.repair(output, np.square, image, progress=False, report=page)
    assert "Failed before anything was written. " in Page(page.read_text()).text
    zarr.create_array(tmp_path / "raw.zarr", data=image, chunks=(64, 64))
    tw.predict_to_zarr(np.negative, tmp_path / "raw.zarr", output, **CUT, progress=False, if_exists="overwrite")
    next((output / "0/c").glob("*/*")).unlink()
    command = ["repair", str(output), "--model", "numpy:negative", "--report", str(page)]
    assert CliRunner().invoke(commands, command).exit_code == 0
    assert "Complete: " in Page(page.read_text()).text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.zarr", "o.zarr.ledger", "r.html", "raw.zarr"]


HEADS = {
    "complete": "Complete: all 4 write units are stored.",
    "failed": "Failed at 50%: 2 of 4 write units are stored, and 2 are missing.",
    "given up": "Not complete: 1 write unit was given up, and 3 of 4 write units are stored.",
    "incomplete": "Failed at 50%: 2 of 4 write units are stored, and 2 are missing.",
    "stopped": "Stopped at 75%: 3 of 4 write units are stored, and 1 is missing.",
}
"""The second of three images, where something happens in its third unit."""
ERRORS: dict[str, type[Exception]] = {
    "failed": ValueError,
    "given up": tw.errors.UnitGivenUpError,
    "incomplete": tw.errors.IncompleteImageError,
    "stopped": tw.errors.RunStoppedError,
}


@pytest.mark.parametrize("ends", HEADS)
def test_each_image_of_a_trainer_has_a_page_however_the_run_ends(ends: str, tmp_path: Path) -> None:
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    blocked = tmp_path / "out/prediction.zarr/1/0/c/2"

    class Network(pl.LightningModule):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 6 and ends == "failed":
                raise ValueError("a <bad> tile")
            if batch_idx == 6 and ends == "given up":
                blocked.parent.mkdir(parents=True, exist_ok=True)
                blocked.write_text("no folder")
            if batch_idx == 6 and ends == "stopped":
                os.kill(os.getpid(), signal.SIGTERM)
            return batch

    # An image of four units, one for each frame; a batch has one of them.
    images = list(np.random.default_rng(0).random((3, 4, 384, 384), np.float32))
    dataset = tw.IterableTiledPredDataset(images, axes="TYX", tile_size=(192, 192), overlaps=(0, 0))
    writer = tw.PredictionWriterCallback(tw.WriteTilesZarr(levels=1, report=tmp_path / "pages"), tmp_path / "out")
    limit = {"limit_predict_batches": 6} if ends == "incomplete" else {}
    trainer = pl.Trainer(callbacks=[writer], logger=False, enable_progress_bar=False, **limit)
    loader = DataLoader(dataset, collate_fn=tw.collate_tiles, batch_size=4)
    with pytest.raises(ERRORS[ends]) if ends in ERRORS else nullcontext():
        trainer.predict(Network(), loader, return_predictions=False)
    pages = {path.name: Page(path.read_text()) for path in (tmp_path / "pages/prediction.zarr").iterdir()}
    heads = [pages.pop(f"{number}.html").text.split(" report of a prediction ")[1] for number in range(3)]
    assert not pages
    assert heads[0].startswith(HEADS["complete"])
    assert heads[1].startswith(HEADS[ends])
    never_begun = {"failed": "Failed", "incomplete": "Failed", "stopped": "Stopped"}.get(ends)
    assert heads[2].startswith(f"{never_begun} before anything was written." if never_begun else HEADS["complete"])
    assert "What it looks like" in heads[0]


def test_the_pages_of_a_trainer_need_a_folder() -> None:
    with pytest.raises(
        ValueError, match=r"report must be a folder, in which each image has a page, got 'report\.html'"
    ):
        tw.WriteTilesZarr(report="report.html")


def test_a_command_that_is_told_to_stop_leaves_a_report_and_one_json_object(image: np.ndarray, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "raw.zarr", data=image, chunks=(64, 64))
    model = """
        import os, signal
        calls = []
        def model(tiles):
            calls.append(1)
            print("a model that prints")
            if len(calls) == 500:
                os.kill(os.getpid(), signal.SIGTERM)
            return -tiles
    """
    (tmp_path / "models.py").write_text(dedent(model))
    options = "--axes YX --tile-size 12,12 --overlap 4,4 --chunks 8,8 --memory 32KiB --json --report r.html"
    command = [sys.executable, "-m", "tilewright.cli", "predict", "raw.zarr", "out.zarr", "--model", "models.py:model"]
    command += options.split()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 75, done.stderr
    said = json.loads(done.stdout)
    assert (said["state"], said["is_complete"]) == ("stopped", False)
    text = Page((tmp_path / "r.html").read_text()).text
    units = said["planned_unit_count"]
    assert 0 < said["unit_count"] < units
    assert f"Stopped at {100 * said['unit_count'] // units}%: {said['unit_count']} of {units} write units" in text
    assert "SIGTERM" in text


def test_every_command_prints_one_json_object(image: np.ndarray, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "raw.zarr", data=image, chunks=(64, 64))
    raw, out = str(tmp_path / "raw.zarr"), str(tmp_path / "out.zarr")
    cut = ["--axes", "YX", "--tile-size", "64,64", "--overlap", "8,8", "--json"]

    def run(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(commands, [*arguments, "--json"])
        assert result.exit_code in (0, 3), result.stderr
        return json.loads(result.stdout)

    plan = run("plan", raw, *cut)
    assert plan["tile_count"] == WritePlan.from_dict(plan["plan"]).tile_count
    assert run("predict", raw, out, "--model", "numpy:negative", *cut)["object_count"] == plan["object_count"]
    digest = run("verify", out)["digest"]
    next((tmp_path / "out.zarr/0/c").glob("*/*")).unlink()
    assert [unit["condition"] for unit in run("verify", out)["units"]] == ["missing"]
    assert run("repair", out, "--model", "numpy:negative")["unit_count"] == 1
    verified = run("verify", out)
    assert verified["is_complete"]
    assert verified["digest"] == digest == run("repair", out, "--model", "numpy:negative")["digest"] != ""


def test_a_region_of_a_coarser_level_names_its_level_in_json(image: np.ndarray, tmp_path: Path) -> None:
    output, cut = tmp_path / "o.zarr", CUT | {"levels": 3}
    plan = in_small_units(tw.plan_write(image.shape, dtype=image.dtype, **cut), 2**12)
    image[100, 100] = -1
    with pytest.raises(tw.errors.UnitGivenUpError) as raised:
        tw.predict_to_zarr(fails_where_negative, image, output, plan=plan, progress=False)
    report, found = raised.value.report, tw.verify(output, progress=False).to_dict()["units"]
    said = report.to_dict()["given_up"]
    assert {place["level"] for place in said} == {place["level"] for place in found} == {0, 1, 2}
    text = Page(report.to_html()).text
    counts = [sum(place["level"] == level for place in said) for level in range(3)]
    assert f"With them, {counts[1] + counts[2]} units of coarser levels could not be made." in text
    for level, array in enumerate(plan.arrays):
        units = math.prod(array.unit_counts)
        assert f" {units:,} {units - counts[level]:,} {counts[level]} 0 " in text
    for place in (*said, *found):
        whole = zarr.open_array(output, path=str(place["level"]), mode="r").shape
        words = ", ".join(f"{name} {start}:{stop}" for name, (start, stop) in zip("YX", place["region"], strict=True))
        assert plan.describe_place(place["unit"]) == f"level {place['level']}, " * (place["level"] > 0) + words
        assert all(start < stop <= extent for (start, stop), extent in zip(place["region"], whole, strict=True))


def test_progress_is_whole_lines_in_a_log_and_goes_to_the_logger(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tilewright")
    plan = in_small_units(tw.plan_write((32, 32), dtype="uint8", **CUT))
    progress = Progress(True, StopRequest(), interval_seconds=0)
    progress.expect(plan)
    progress.kept(4, 256)
    for unit in range(4, plan.unit_count):
        progress.written(unit)
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [record.message for record in caplog.records]
    assert [line.partition(",")[0] for line in lines[:2]] == ["tilewright: 25%", "tilewright: 31%"]
    assert "5/16 units" in lines[1]
    assert "to go" in lines[1]
    assert lines[-1].startswith("tilewright: 100%, 16/16 units")
    assert all(line.isprintable() for line in lines)
    # In between there are none where the time has not come.
    with ProgressLine(3, "verifying", shown=True) as line:
        for _ in range(3):
            line.update(1)
    assert [text.split()[1] for text in capsys.readouterr().err.splitlines()] == ["0%,", "100%,"]
