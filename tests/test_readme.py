"""Everything that the README shows runs, and gives what it says."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

import tilewright as tw
from tilewright import coordinator
from tilewright.coordinator.transitions import transition_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_LINES = 300
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
NETWORKS = """
import numpy as np

def sharpen(tiles):
    return 2 * tiles - np.roll(tiles, 1, axis=-1)
"""


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


@pytest.fixture
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*is taken from the working directory")
@pytest.mark.filterwarnings("ignore:.*litlogger.*", "ignore:.*GPU available.*")
def test_every_python_block_runs_in_order(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    try:
        for number, text in enumerate(blocks("python")):
            if "from careamics" in text and find_spec("careamics") is None:
                # `tests/careamics` runs it.
                continue
            runnable = text.replace("tcp://scheduler:8786", scheduler)
            exec(compile(runnable, f"README, Python block {number}", "exec"), names)
    finally:
        client = names.get("client")
        if isinstance(client, Client):
            client.close()
    prediction, written = names["prediction"], names["written"]
    assert prediction.shape == written.shape == names["shape"]
    # The two ways cut other tiles, so they agree up to what a network does at the border of a tile: nothing here.
    np.testing.assert_allclose(prediction[:], written[:], rtol=0, atol=1e-5)
    assert blocks("text")[0].rstrip() in capsys.readouterr().out
    assert names["verification"].is_complete
    assert names["report"].kept_unit_count == names["report"].plan.unit_count


@pytest.mark.parametrize(
    "documented",
    [tw.WriteTilesZarr, tw.CacheTiles, tw.WriteImage, tw.WriteStrategy, tw.extract_tiles, tw.stitch_prediction],
)
def test_what_the_readme_names_has_an_example_that_runs_as_a_doctest(documented: Any) -> None:
    assert f"`{documented.__name__}`" in README
    (found,) = doctest.DocTestFinder(recurse=False).find(documented, globs={})
    assert any(example.want for example in found.examples)


@pytest.mark.slow
def test_every_tilewright_command_runs(tmp_path: Path) -> None:
    import zarr

    source = zarr.create_array(tmp_path / "raw.zarr", shape=(48, 200, 220), dtype="float32", chunks=(16, 64, 64))
    source[:] = 1
    (tmp_path / "networks.py").write_text(NETWORKS)
    commands = [line for text in blocks("console") for line in text.splitlines() if line.startswith("tilewright ")]
    assert len(commands) == 4
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "tilewright"
        subprocess.run(
            [sys.executable, "-m", "tilewright.cli", *arguments], cwd=tmp_path, check=True, env=dict(os.environ)
        )
    assert zarr.open_array(tmp_path / "shell.zarr" / "0", mode="r").shape == (48, 200, 220)


def test_the_install_commands_are_what_continuous_integration_runs() -> None:
    continuous_integration = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for text in blocks("console") for line in text.splitlines() if line.startswith("python3 ")]
    assert len(commands) == 2
    for command in commands:
        for step in command.split(" && "):
            assert step in continuous_integration


def test_the_table_of_transitions_is_that_of_the_code() -> None:
    assert coordinator.__doc__ is not None
    shown = [line for line in coordinator.__doc__.splitlines() if line.startswith("|")]
    head, rule, *rows = map(cells, shown)
    made_head, _, *made_rows = map(cells, transition_table().splitlines())
    assert (head, rows) == (made_head, made_rows)
    assert all(set(cell) == {"-"} for cell in rule)
    assert len({len(line) for line in shown}) == 1, "the columns are even"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_plan_that_is_shown_is_the_plan_that_is_made() -> None:
    plan = tw.plan_write((1000, 8192, 8192), axes="ZYX", tile_size=(64, 256, 256), overlap=(16, 64, 64))
    assert blocks("text")[0].strip() == str(plan)


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"[^!]\[[^\]]*\]\(([^)]*)\)", README):
        path, _, anchor = target.partition("#")
        text = (ROOT / path).read_text(encoding="utf-8") if path else README
        assert not anchor or anchor in anchors(text), target


def anchors(text: str) -> set[str]:
    """Return where a link into a page can lead: to its headings, as GitHub names them, and to what has an id."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    named = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return named | set(re.findall(r'<a id="(.*?)">', text))


def test_the_picture_is_there() -> None:
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")
