"""The test-suite of CAREamics 0.0.15, from which the specification comes, passes with the names of tilewright."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(sys.prefix) / "careamics-0.0.15"
"""Where `.ci/careamics` puts it."""
WRITER = "lightning/callbacks/prediction_writer_callback"
FILES = [
    "config/test_tile_information.py",
    "dataset/tiling/test_collate_tiles.py",
    "dataset/tiling/test_tiled_patching.py",
    "file_io/write",
    "prediction_utils/test_prediction_outputs.py",
    "prediction_utils/test_stitch_prediction.py",
    WRITER,
]
LEFT_OUT = {
    "private names of the cache": [
        f"{WRITER}/test_cache_tiles_write_strategy.py::test_{name}"
        for name in (
            "clear_cache",
            "get_image_tiles",
            "have_last_tile_false",
            "have_last_tile_true",
            "last_tile_index",
            "last_tile_index_error",
        )
    ],
    "private names of the callback": [
        f"{WRITER}/test_prediction_writer_callback.py::test_init_dirpath_{name}"
        for name in ("absolute_path", "relative_path")
    ],
    "functions are replaced in the module that is tested": [
        f"{WRITER}/test_cache_tiles_write_strategy.py::test_write_batch_last_tile",
        f"{WRITER}/test_prediction_writer_callback.py::test_from_write_func_params",
        f"{WRITER}/test_write_image_write_strategy.py::test_write_batch",
    ],
    "a dataset without any file, of which ours refuses to predict the first tile": [
        f"{WRITER}/test_cache_tiles_write_strategy.py::test_write_batch_no_last_tile",
    ],
    "tile information of one coordinate for two axes, which ours refuses; it cannot be changed": [
        "config/test_tile_information.py::test_defaults",
        "config/test_tile_information.py::test_tile_equality",
    ],
    "a path is compared with a text": [
        f"{WRITER}/test_file_path_utils.py::test_get_sample_file_path_{name}" for name in ("tiled_ds", "untiled_ds")
    ],
}


@pytest.mark.skipif(not SUITE.is_dir(), reason=".ci/careamics fetches the old test-suite")
def test_what_touches_no_private_names_passes() -> None:
    left_out = [f"--deselect=tests/{test}" for tests in LEFT_OUT.values() for test in tests]
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.careamics.old_names", *left_out, *(f"tests/{name}" for name in FILES)]
    path = os.pathsep.join([str(SUITE / "src"), str(Path(__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": path}
    ended = subprocess.run(command, cwd=SUITE, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    counts = re.search(r"(\d+) passed.*, (\d+) deselected", ended.stdout)
    assert counts is not None, ended.stdout
    assert int(counts[1]) == 80
    assert int(counts[2]) == len(left_out)
