"""No window says what only a part of an image says, and none is lost with the process that would have written it."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.faults.resuming import (
    CLIENTS,
    IMAGE,
    Company,
    assert_is_whole,
    flip,
    header_of,
    object_files,
    predict,
    records_of,
    resume,
)
from tests.support import BreaksOn, tree

import tilewright as tw
from tilewright.errors import UnitGivenUpError

pytestmark = pytest.mark.usefixtures("current")


def channels_in(output: Path) -> list[dict[str, Any]]:
    document = json.loads(next(path for path in output.iterdir() if path.name in ("zarr.json", ".zattrs")).read_text())
    said = document.get("attributes", document)
    found: list[dict[str, Any]] = said.get("ome", said).get("omero", {"channels": []})["channels"]
    return found


def predict_and_die(output: Path, name: str, options: dict[str, Any]) -> None:
    """Predict, and die when a document is about to get its name while the ledger has all units."""

    def die(event: str, arguments: tuple[Any, ...]) -> None:
        is_named = event == "os.rename" and os.fspath(arguments[1]) == f"{output}/{name}"
        if is_named and len(records_of(output)) == header_of(output).plan.unit_count:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    predict(output, Company(), **options)


@pytest.mark.parametrize(("zarr_format", "name"), [(2, ".zattrs"), (3, "zarr.json")])
def test_a_run_that_is_killed_after_its_last_unit_leaves_the_windows_to_the_next_one(
    zarr_format: int, name: str, tmp_path: Path
) -> None:
    output, options = tmp_path / "out.zarr", {"zarr_format": zarr_format, "levels": 2}
    predict(tmp_path / "whole.zarr", Company(), **options)
    process = CLIENTS.Process(target=predict_and_die, args=(output, name, options))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    # All of it is there and proven, but for the windows, and a document that has not got its name.
    assert not channels_in(output)
    assert len(list(output.glob(f"{name}.*.partial"))) == 1
    assert tw.verify(output, progress=False).is_complete
    assert resume(output, Company(), **options).unit_count == 0
    assert len(channels_in(output)) == 1
    assert_is_whole(output, tree(tmp_path / "whole.zarr"))


def test_an_output_with_units_that_were_given_up_has_no_windows(tmp_path: Path) -> None:
    output, bad = tmp_path / "out.zarr", float(IMAGE[100, 100])
    with pytest.raises(UnitGivenUpError):
        predict(output, BreaksOn(bad))
    assert not channels_in(output)
    # What is complete keeps its windows while it is repaired.
    assert resume(output, BreaksOn(-1)).is_complete
    (channel,) = whole = channels_in(output)
    assert (channel["window"]["min"], channel["window"]["max"]) == (IMAGE.min(), IMAGE.max())
    for file in object_files(output):
        flip(file)
    with pytest.raises(UnitGivenUpError):
        resume(output, BreaksOn(bad))
    assert channels_in(output) == whole
    np.testing.assert_array_equal(resume(output, BreaksOn(-1)).array[...], IMAGE)
    assert channels_in(output) == whole
