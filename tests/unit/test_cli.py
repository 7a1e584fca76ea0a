"""What a person types is done, and what a person types wrong costs one line and no traceback."""

import json
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from time import monotonic
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from distributed import LocalCluster

from tilewright import __version__, plan_write
from tilewright.cli.commands import commands as main
from tilewright.cli.model_reference import ModelReference, ModelReferenceError

CUT_2D = ("--axes", "YX", "--tile-size", "16,16", "--overlap", "4,4")
CUT_3D = ("--axes", "ZYX", "--tile-size", "64,256,256", "--overlap", "16,64,64")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run_in_shell(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    # As in a shell, also where the tests run in the background, which ignores Ctrl-C.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "from tilewright.cli import main; main()"
    command = [sys.executable, "-c", start, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def one_line_of(result: Result) -> str:
    """The only line on standard error."""
    lines = result.stderr.splitlines()
    assert result.exit_code == 1, result.output
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def image(tmp_path: Path) -> np.ndarray:
    """An image, which lies at ``raw.zarr`` in the temporary folder."""
    image = np.random.default_rng(0).random((40, 50), dtype=np.float32)
    zarr.create_array(tmp_path / "raw.zarr", data=image, chunks=(20, 20))
    return image


def write_models(folder: Path, text: str) -> Path:
    path = folder / "models.py"
    path.write_text(dedent(text))
    return path


def predict(folder: Path, model: object, *options: object) -> Result:
    return run("predict", folder / "raw.zarr", folder / "out.zarr", "--model", model, *CUT_2D, *options)


def predicted(folder: Path) -> np.ndarray:
    return zarr.open_array(folder / "out.zarr" / "0", mode="r")[:]


def test_a_range_of_values_is_stored_in_whole_numbers(image: np.ndarray, tmp_path: Path) -> None:
    path = write_models(tmp_path, "import numpy as np\ndef make_model():\n    return np.negative")
    model = f"{path}:make_model"
    assert predict(tmp_path, model, "--dtype", "int8", "--value-range", -1, 0).exit_code == 0
    np.testing.assert_array_equal(predicted(tmp_path), np.rint((1 - image.astype(float)) * 255) - 128)
    again = predict(tmp_path, model, "--value-range", 0, 1, "--if-exists", "overwrite")
    assert "got dtype=None; give one, such as --dtype uint8" in one_line_of(again)


COMPLETED = {
    "predict --if-exists over": {"plain,overwrite", "plain,overwrite-foreign"},
    "predict ra": {"file,ra"},
    "verify --ledger out": {"file,out"},
    "rep": {"plain,repair"},
}


@pytest.mark.parametrize("typed", COMPLETED)
def test_a_shell_completes_names_and_files(typed: str) -> None:
    words = {"COMP_WORDS": f"tilewright {typed}", "COMP_CWORD": str(len(typed.split()))}
    environment = {"_TILEWRIGHT_COMPLETE": "bash_complete", **words}
    done = CliRunner(env=environment).invoke(main, prog_name="tilewright")
    assert set(done.output.split()) == COMPLETED[typed]


# Imports


HEAVY = {"torch", "numpy", "dask", "distributed", "zarr", "tifffile", "pytorch_lightning"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("commands", "not_imported"),
    [
        ([["--help"], ["predict", "--help"], ["plan", "--shape", "1000,2048,2048", *CUT_3D]], HEAVY),
        ([["plan", "raw.zarr", *CUT_2D]], {"torch"}),
    ],
    ids=["help and the plan of a shape", "the plan of a source"],
)
def test_what_needs_no_libraries_imports_none(
    commands: list[list[str]], not_imported: set[str], image: np.ndarray, tmp_path: Path
) -> None:
    code = f"""
        import sys
        from tilewright.cli.commands import commands as main
        for arguments in {commands!r}:
            try:
                main(arguments)
            except SystemExit as end:
                assert not end.code, end.code
        assert not {not_imported!r} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", dedent(code)], check=True, timeout=60, capture_output=True, cwd=tmp_path)


def test_the_version_is_that_of_the_library() -> None:
    assert run("--version").output.strip() == f"tilewright, version {__version__}"


# plan


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("--chunks auto --shards auto", {"shards": "auto"}),
        ("--shards none", {}),
        (
            "--layout aligned --chunks 32,64,64 --shards 64,128,128 --dtype uint16 --channels 2 --memory 8GiB",
            {
                "layout": "aligned",
                "chunks": (32, 64, 64),
                "shards": (64, 128, 128),
                "dtype": "uint16",
                "channels": 2,
                "memory_nbytes": 8 * 2**30,
            },
        ),
    ],
)
def test_plan_prints_the_plan_of_a_shape_and_passes_every_option_on(options: str, expected: dict[str, Any]) -> None:
    result = run("plan", "--shape", "256,512,512", *CUT_3D, *options.split())
    assert result.exit_code == 0
    assert result.stdout.strip() == str(plan_write((256, 512, 512), "ZYX", (64, 256, 256), (16, 64, 64), **expected))


def test_plan_reads_the_shape_of_a_source_and_creates_nothing(image: np.ndarray, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = run("plan", tmp_path / "raw.zarr", *CUT_2D)
    assert result.stdout.strip() == str(plan_write((40, 50), "YX", (16, 16), (4, 4)))
    assert sorted(tmp_path.rglob("*")) == before


PLAN = ["plan", "--shape", "8,8", *CUT_2D]
PREDICT = ["predict", "raw.zarr", "out.zarr", *CUT_2D, "--model"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", *CUT_2D], "either a SOURCE or its --shape"),
        (["plan", "raw.zarr", "--shape", "8,8", *CUT_2D], "either a SOURCE or its --shape"),
        (["plan", "--shape", "8,,8", *CUT_2D], "'8,,8' is not whole numbers such as 64,256,256"),
        ([*PLAN, "--chunks", "large"], "'large' is not whole numbers such as"),
        ([*PLAN, "--memory", "much"], "'much' is no size such as 8GiB"),
        ([*PLAN, "--memory", "infGB"], "'infGB' is no size such as 8GiB"),
        ([*PLAN, "--dtype", "float33"], "'float33' is not one of"),
        ([*PREDICT, "model"], "'model' is neither package.module:name"),
        ([*PREDICT, ":name"], "':name' is neither package.module:name"),
        ([*PREDICT, "gone.py:name"], "there is no file"),
        ([*PREDICT, "gone.pt"], "there is no file"),
        ([*PREDICT, "numpy:negative", "--device", "toaster"], "'toaster' cannot be used"),
        ([*PREDICT, "numpy:negative", "--scheduler", "scheduler.json"], "nor a file that exists"),
    ],
)
def test_what_cannot_be_read_is_a_usage_error_that_repeats_it(
    arguments: list[str], words: str, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shape", "8,8", "--axes", "yx", "--tile-size", "4,4", "--overlap", "2,2"], "unknown letters"),
        (["--shape", "8,8,8", *CUT_2D], "names 2 axes, but the source has 3"),
        (["--shape", "8,8", "--axes", "YX", "--tile-size", "4,4", "--overlap", "4,4"], "larger than the overlap"),
        (["--shape", "8,8", *CUT_2D, "--chunks", "3,3", "--shards", "4,4"], "shard"),
        (["gone.zarr", *CUT_2D], "the source gone.zarr does not exist"),
        *(
            (["--shape", "1000,2048,2048", *CUT_3D, "--memory", size], "(1000 bytes)")
            for size in ("1000", "1kB", "1e3", "0.9765625KiB")
        ),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: list[str], words: str) -> None:
    assert words in one_line_of(run("plan", *arguments))


# predict


@pytest.mark.slow
def test_predict_in_a_shell_writes_the_prediction_of_a_model_in_a_file(image: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "weights.py").write_text("SLOPE = 2\n")
    write_models(
        tmp_path,
        """
        from torch import nn
        from weights import SLOPE

        class Line(nn.Module):
            def forward(self, batch):
                return SLOPE * batch + 1
        """,
    )
    done = run_in_shell("predict", "raw.zarr", "out.zarr", "--model", "models.py:Line", *CUT_2D, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    # A log has whole lines, and nothing that moves the cursor.
    assert [line.partition(",")[0] for line in done.stderr.splitlines()] == ["tilewright: 0%", "tilewright: 100%"]
    assert "\r" not in done.stderr
    assert "Write plan" in done.stdout
    assert "Report" in done.stdout
    np.testing.assert_array_equal(predicted(tmp_path), 2 * image + 1)


@pytest.mark.parametrize("name", ["double", "make_double", "Doubler", "nested.double"])
def test_a_name_may_be_that_of_a_model_or_of_what_makes_one(name: str, image: np.ndarray, tmp_path: Path) -> None:
    path = write_models(
        tmp_path,
        """
        class Doubler:
            def __call__(self, batch):
                return batch * 2

        def double(batch):
            return batch * 2

        def make_double():
            return double

        class nested:
            double = Doubler()
        """,
    )
    result = predict(tmp_path, f"{path}:{name}", "--batch-size", 3, "--dtype", "float64")
    assert result.exit_code == 0, result.output
    written = zarr.open_array(tmp_path / "out.zarr/0", mode="r")
    assert written.dtype == np.float64
    np.testing.assert_array_equal(written[:], image * 2)


def test_a_module_is_found_in_the_current_folder(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package_of_models").mkdir()
    (tmp_path / "package_of_models/nets.py").write_text("def negate(batch):\n    return -batch\n")
    monkeypatch.chdir(tmp_path)
    assert predict(tmp_path, "package_of_models.nets:negate").exit_code == 0
    np.testing.assert_array_equal(predicted(tmp_path), -image)


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    path = write_models(tmp_path, "def model(batch): return 1")
    reference = ModelReference.parse(f"{path}:model")
    assert reference()(None) == 1
    write_models(tmp_path, "def model(batch): return 'another'")
    assert reference()(None) == "another"


def test_a_torchscript_file_is_a_model_and_a_file_of_weights_is_none(image: np.ndarray, tmp_path: Path) -> None:
    import torch

    class Square(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch * batch

    torch.save(torch.nn.Conv2d(1, 1, 3).state_dict(), tmp_path / "weights.pt")
    line = one_line_of(predict(tmp_path, tmp_path / "weights.pt"))
    assert "cannot be loaded as TorchScript" in line
    assert "path/to/file.py:name" in line
    with warnings.catch_warnings():
        # It is deprecated in new versions.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Square()).save(tmp_path / "square.pt")
    assert predict(tmp_path, tmp_path / "square.pt", "--device", "cpu").exit_code == 0
    np.testing.assert_array_equal(predicted(tmp_path), image * image)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("models.py:make_modl", "has no 'make_modl'; did you mean make_model?"),
        ("models.py:Sized", "cannot be made without arguments"),
        ("models.py:number", "is int, which is no model: 7"),
        ("no_such.module:name", "there is no module 'no_such.module'"),
    ],
)
def test_a_name_that_is_no_model_is_one_line(
    name: str, words: str, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_models(
        tmp_path,
        """
        number = 7
        def make_model(): ...
        class Sized:
            def __init__(self, size): ...
        """,
    )
    assert words in one_line_of(predict(tmp_path, name))
    assert not (tmp_path / "out.zarr").exists()


def test_a_module_that_a_file_misses_is_shown_with_the_traceback(image: np.ndarray, tmp_path: Path) -> None:
    path = write_models(tmp_path, "import no_such_module")
    result = predict(tmp_path, f"{path}:name")
    assert result.exit_code == 1
    assert 'models.py", line 1' in result.stderr
    with pytest.raises(ModuleNotFoundError):
        ModelReference.parse(f"{path}:name")()
    with pytest.raises(ModelReferenceError):
        ModelReference.parse("no_such_module:name")()


@pytest.mark.parametrize("tile", [1, 2], ids=["first tile", "second tile"])
@pytest.mark.parametrize("error", ["RuntimeError", "ValueError", "OSError", "EOFError"])
def test_an_error_in_the_model_is_shown_with_its_traceback(
    error: str, tile: int, image: np.ndarray, tmp_path: Path
) -> None:
    path = write_models(
        tmp_path,
        f"""
        calls = []

        def layer(batch):
            raise {error}('too small')

        def model(batch):
            calls.append(1)
            return layer(batch) if len(calls) >= {tile} else batch
        """,
    )
    result = predict(tmp_path, f"{path}:model")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "in layer" in result.stderr
    assert f"{error}: too small" in result.stderr
    if tile == 1:
        assert result.stderr.splitlines()[-1] == f"Error: the model raised {error}, see above"
        assert not (tmp_path / "out.zarr").exists()


def test_another_size_from_the_model_is_one_line(image: np.ndarray, tmp_path: Path) -> None:
    path = write_models(tmp_path, "def model(batch): return batch[..., 1:]")
    assert "(16, 16) and returned (16, 15)" in one_line_of(predict(tmp_path, f"{path}:model"))


def test_an_output_that_exists_is_left_alone_unless_it_may_be_overwritten(image: np.ndarray, tmp_path: Path) -> None:
    assert predict(tmp_path, "numpy:negative").exit_code == 0
    assert "--if-exists overwrite" in one_line_of(predict(tmp_path, "numpy:positive"))
    np.testing.assert_array_equal(predicted(tmp_path), -image)
    overwrite = ("numpy:positive", "--if-exists", "overwrite")
    assert predict(tmp_path, *overwrite).exit_code == 0
    np.testing.assert_array_equal(predicted(tmp_path), image)
    for options, shown in (((), "units"), (("--no-progress",), "")):
        found = predict(tmp_path, *overwrite, *options).stderr
        assert shown in found if shown else found == ""


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["auto", "none", "zstd", "blosc", "gzip"])
def test_compressors_go_by_name_in_both_formats(name: str, zarr_format: int, image: np.ndarray, tmp_path: Path) -> None:
    result = predict(tmp_path, "numpy:negative", "--compressor", name, "--zarr-format", zarr_format)
    assert result.exit_code == 0, result.output
    written = zarr.open_array(tmp_path / "out.zarr/0", mode="r")
    assert written.metadata.zarr_format == zarr_format
    names = [type(codec).__name__.removesuffix("Codec").lower() for codec in written.compressors]
    assert names == {"auto": ["blosc"], "none": []}.get(name, [name])
    np.testing.assert_array_equal(written[:], -image)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_with_a_sentence_and_130(image: np.ndarray, tmp_path: Path) -> None:
    write_models(
        tmp_path,
        """
        import os
        import signal
        import threading

        calls = []

        def model(batch):
            calls.append(1)
            if len(calls) == 3:
                assert threading.current_thread() is not threading.main_thread()
                os.kill(os.getpid(), signal.SIGINT)
                while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                    threading.Event().wait(0.01)
                os.kill(os.getpid(), signal.SIGINT)
            return batch
        """,
    )
    command = ("predict", "raw.zarr", "out.zarr", "--model", "models.py:model", *CUT_2D, "--no-progress")
    done = run_in_shell(*command, folder=tmp_path)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == (
        "Interrupted. If out.zarr was begun, it is incomplete: go on with --if-exists resume."
    )


# A cluster of other processes


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def test_the_workers_of_a_cluster_load_the_model_from_its_file(
    cluster: LocalCluster, image: np.ndarray, tmp_path: Path
) -> None:
    path = write_models(
        tmp_path,
        """
        import os

        def make_model():
            number = os.getpid()
            return lambda batch: 0 * batch + number
        """,
    )
    pids = [process.pid for process in (worker.process for worker in cluster.workers.values())]
    result = predict(tmp_path, f"{path}:make_model", "--scheduler", cluster.scheduler_address, "--dtype", "float64")
    assert result.exit_code == 0, result.output
    assert set(predicted(tmp_path).ravel()) <= {float(np.float32(p)) for p in pids}


def test_an_error_on_a_worker_shows_the_traceback_of_the_model(
    cluster: LocalCluster, image: np.ndarray, tmp_path: Path
) -> None:
    path = write_models(tmp_path, "def layer(batch): raise ValueError('odd')\ndef model(batch): return layer(batch)\n")
    (tmp_path / "scheduler.json").write_text(json.dumps({"address": cluster.scheduler_address}))
    result = predict(tmp_path, f"{path}:model", "--scheduler", tmp_path / "scheduler.json")
    assert result.exit_code == 1
    assert "in layer" in result.stderr
    assert "ValueError: odd" in result.stderr
    wrong = predict(tmp_path, f"{path}:modle", "--scheduler", tmp_path / "scheduler.json")
    assert "did you mean model?" in one_line_of(wrong)


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [
        ("tls://127.0.0.1:8786", "TLS expects a `ssl_context` argument"),
        ("foo://x", "unknown address scheme 'foo'"),
        ("silent", "no scheduler answers within 5 seconds"),
        ("tcp://x", "missing port number"),
        ("worker", "a Worker answers there, and no scheduler"),
    ],
)
def test_a_wrong_address_of_a_scheduler_costs_one_line_within_seconds(
    scheduler: str, reason: str, cluster: LocalCluster, image: np.ndarray, tmp_path: Path
) -> None:
    (worker,) = cluster.workers.values()
    with silent_server() as silent:
        address = {"silent": silent, "worker": worker.worker_address}.get(scheduler, scheduler)
        since = monotonic()
        line = one_line_of(predict(tmp_path, "numpy:negative", "--scheduler", address))
    assert monotonic() - since < 10
    assert f"the cluster {address} cannot be used: " in line
    assert reason in line


@pytest.mark.parametrize("content", ["some text", "[]", '{"address": 3}', ""])
def test_a_file_that_is_no_scheduler_file_is_named(content: str, image: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_text(content)
    line = one_line_of(predict(tmp_path, "numpy:negative", "--scheduler", tmp_path / "scheduler.json"))
    assert f"{tmp_path / 'scheduler.json'} is no scheduler file" in line


# demo


def test_the_demo_says_where_its_picture_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tilewright.demo

    def fake(directory: Path, *, seed: int, echo: object) -> object:
        assert (directory, seed) == (tmp_path, 5)
        return type("Result", (), {"picture": directory / "demo.png"})

    monkeypatch.setattr(tilewright.demo, "run_demo", fake)
    result = run("demo", "--directory", tmp_path, "--seed", 5)
    assert result.stdout == f"The picture is {tmp_path / 'demo.png'}\n"


@pytest.mark.parametrize("missing", ["matplotlib", "skimage"])
def test_the_demo_without_its_libraries_says_how_to_install_them(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("tilewright.demo")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    line = one_line_of(run("demo", "--directory", tmp_path))
    assert 'pip install "tilewright[demo]"' in line
