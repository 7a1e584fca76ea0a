"""What is wrong with an output is found by its ledger alone and named by its region, and mending it spares the rest."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.faults.resuming import IMAGE, REQUEST
from tests.support import BreaksOn, empty, identities, is_metadata, lengthen, shorten, tree
from zarr.storage import LocalStore, MemoryStore

import tilewright as tw
from tilewright.cli.commands import commands as main
from tilewright.errors import DestinationError, OutputInUseError, ResumeError, SourceError, UnitGivenUpError
from tilewright.ledger.ledger import LedgerFolder
from tilewright.ledger.records import Record, Status, record_nbytes
from tilewright.locks.lock import WriterLock

INCOMPLETE = 3
UNITS = 12


def predict(destination: Any, client: Client, model: Any = np.negative, source: Any = IMAGE, **options: Any) -> None:
    tw.predict_to_zarr(model, source, destination, client=client, **REQUEST | options)


def verify(destination: Any, **options: Any) -> tw.Verification:
    return tw.verify(destination, progress=False, **options)


def repair(destination: Any, client: Client, model: Any = np.negative, source: Any = IMAGE, **options: Any) -> Any:
    return tw.repair(destination, model, source, client=client, progress=False, **options)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(embedded: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete output beside the file that it was predicted from."""
    folder = tmp_path_factory.mktemp("finished")
    predict(folder / "out.zarr", embedded)
    return folder / "out.zarr"


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    return copy_of(finished, tmp_path)


@pytest.fixture
def processes(two_processes: Client) -> Iterator[Client]:
    """The cluster of two other processes, as the current one."""
    with two_processes.as_current():
        yield two_processes


def copy_of(output: Path, folder: Path) -> Path:
    for path in (output, ledger_of(output)):
        shutil.copytree(path, folder / path.name)
    return folder / output.name


def ledger_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.ledger")


def object_files(output: Path) -> list[Path]:
    return sorted(path for path in output.rglob("*") if path.is_file() and not is_metadata(path.name))


def plan_of(output: Path) -> tw.WritePlan:
    header = LedgerFolder(ledger_of(output)).header()
    assert header is not None
    return header.plan


def files_of_unit(output: Path, unit: int) -> list[Path]:
    return [output.joinpath("0", "c", *map(str, position)) for position in plan_of(output).objects_of_unit(unit)]


# Faults


def flip_first(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])


def flip_last(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 128]))


FAULTS: dict[Callable[[Path], None], str] = {
    Path.unlink: "missing",
    shorten: "short",
    empty: "short",
    lengthen: "damaged",
    flip_first: "damaged",
    flip_last: "damaged",
}


def give_up(output: Path, unit: int) -> None:
    """Say in the ledger that a unit was given up, as a run does that could not predict a tile of it."""
    (file,) = ledger_of(output).glob("*.ledger")
    with file.open("ab") as opened:
        opened.write(Record(unit, Status.GIVEN_UP, extremes=bytes(plan_of(output).extremes_nbytes)).to_bytes())


def spoil(output: Path) -> dict[int, str]:
    """Let every fault befall one unit, and return what should be found."""
    expected = {}
    for unit, (fault, condition) in enumerate(FAULTS.items()):
        fault(files_of_unit(output, unit)[unit % 3])
        expected[unit] = condition
    give_up(output, len(FAULTS))
    return expected | {len(FAULTS): "given up"}


# verify


def test_a_complete_output_is_proven_so(output: Path) -> None:
    before, files = tree(output.parent), identities([path for path in output.parent.rglob("*") if path.is_file()])
    verification = verify(output)
    assert verification.is_complete
    assert verification.conditions == {}
    assert verification.writer == ""
    assert verification.stored_nbytes == sum(file.stat().st_size for file in object_files(output))
    assert str(verification).splitlines() == [
        "Verification",
        f"  array        {output}/0",
        f"  units        {UNITS} of 120 objects, {verification.stored_nbytes / 1024:.1f} KiB",
        f"  intact       {UNITS}: the output is complete",
        f"  digest       {verification.digest}",
    ]
    # It only reads.
    assert tree(output.parent) == before
    assert identities(list(files)) == files


@pytest.mark.parametrize("executor", [None, "embedded", "processes"])
def test_every_fault_is_told_from_the_others_and_named_by_its_region(
    executor: str | None, output: Path, request: pytest.FixtureRequest
) -> None:
    client = None if executor is None else request.getfixturevalue(executor)
    stored_nbytes = verify(output).stored_nbytes
    expected = spoil(output)
    verification = verify(output, client=client)
    assert verification.conditions == expected
    assert not verification.is_complete
    assert verification.units("short") == [1, 2]
    assert verification.units("intact") == []
    regions = [verification.plan.unit_region(unit) for unit in expected]
    lines = [
        f"    {condition}: Y {rows[0]}:{rows[1]}, X {columns[0]}:{columns[1]}"
        for condition, (rows, columns) in zip(expected.values(), regions, strict=True)
    ]
    assert str(verification).splitlines()[3:] == [
        f"  intact       {UNITS - 7}",
        "  missing      1",
        "  short        2",
        "  damaged      3",
        "  given up     1",
        *lines,
    ]
    # What was given up is not stored.
    assert verification.stored_nbytes < stored_nbytes


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=25)
def test_a_fault_of_any_object_is_one_of_its_unit_and_of_no_other(data: st.DataObject, finished: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = copy_of(finished, Path(folder))
        units = data.draw(st.sets(st.integers(0, plan_of(output).unit_count - 1)))
        expected = {}
        for unit in units:
            fault = data.draw(st.sampled_from(list(FAULTS)))
            fault(data.draw(st.sampled_from(files_of_unit(output, unit))))
            expected[unit] = FAULTS[fault]
        assert verify(output).conditions == expected


def test_of_many_faults_ten_are_shown_and_the_others_counted(embedded: Client, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    predict(output, embedded, layout="aligned", memory_nbytes=2**17)
    shutil.rmtree(output / "0" / "c")
    lines = str(verify(output)).splitlines()
    assert lines[3:5] == ["  intact       0", "  missing      16"]
    assert len([line for line in lines if line.startswith("    missing: Y ")]) == 10
    assert lines[-1] == "    and 6 more"


@pytest.mark.parametrize("lost", [".", "0", "0/zarr.json", "0/c"])
def test_of_an_output_that_is_gone_everything_is_missing(lost: str, output: Path) -> None:
    path = output / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert verify(output).conditions == dict.fromkeys(range(UNITS), "missing")
    assert command("verify", output).exit_code == INCOMPLETE


def test_the_last_record_of_a_unit_counts(output: Path) -> None:
    (file,) = ledger_of(output).glob("*.ledger")
    raw = file.read_bytes()
    first = raw[2 * (raw.index(b"\n") + 1) :][: record_nbytes(plan_of(output))]
    unit = Record.from_bytes(first).unit
    give_up(output, unit)
    assert verify(output).conditions == {unit: "given up"}
    file.write_bytes(file.read_bytes() + first)
    assert verify(output).is_complete


# Where an output is


def paths_of(output: Path) -> dict[str, Any]:
    """What may be given for an output; relative paths are taken from the folder that it lies in."""
    return {
        "a path": output,
        "text": str(output),
        "a slash behind it": f"{output}/",
        "a relative path": "out.zarr",
        "a relative path with a slash": "out.zarr/",
        "a roundabout path": f"../{output.parent.name}/out.zarr",
        "a path through its array": output / "0" / "..",
        "the array": output / "0",
        "the array, with a slash": f"{output}/0/",
        "the array, relative": "out.zarr/0",
        "a store": LocalStore(output),
        "a read-only store": LocalStore(output, read_only=True),
    }


@pytest.mark.parametrize("name", paths_of(Path("x")))
def test_an_output_is_found_and_mended_however_it_is_named(
    name: str, output: Path, finished: Path, embedded: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(output.parent)
    flip_first(files_of_unit(output, 3)[0])
    assert verify(paths_of(output)[name]).conditions == {3: "damaged"}
    before = tree(output.parent)
    if "read-only" in name:
        with pytest.raises(DestinationError, match="read-only"):
            repair(paths_of(output)[name], embedded)
        assert tree(output.parent) == before
        return
    assert repair(paths_of(output)[name], embedded).unit_count == 1
    assert tree(output) == tree(finished)
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.zarr", "out.zarr.ledger"]


def test_the_working_directory_may_be_the_output(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(output)
    assert verify(".").is_complete
    assert verify("0").is_complete
    assert command("verify", ".").exit_code == 0


@pytest.mark.parametrize("kind", ["a folder", "memory"])
def test_a_ledger_elsewhere_is_looked_for_there(kind: str, finished: Path, embedded: Client, tmp_path: Path) -> None:
    ledger = tmp_path / "elsewhere"
    if kind == "memory":
        output: Any = MemoryStore()
        predict(output, embedded, ledger=ledger)
        del output._store_dict["0/c/3/3"]
    else:
        output = copy_of(finished, tmp_path)
        ledger_of(output).rename(ledger)
        object_files(output)[0].unlink()
    with pytest.raises(ResumeError, match="has no ledger"):
        verify(output)
    assert list(verify(output, ledger=ledger).conditions.values()) == ["missing"]
    assert repair(output, embedded, ledger=ledger).unit_count == 1
    assert verify(output, ledger=ledger).is_complete
    if kind == "a folder":
        assert verify(LocalStore(output), ledger=ledger).is_complete
        assert command("verify", output, "--ledger", ledger).exit_code == 0


@pytest.mark.parametrize("there", ["nothing", "an array", "an empty ledger", "another ledger"])
def test_without_a_ledger_nothing_can_be_said(there: str, output: Path, embedded: Client, tmp_path: Path) -> None:
    given: dict[str, Any] = {"ledger": tmp_path / "no such folder"} if there == "another ledger" else {}
    if there == "nothing":
        shutil.rmtree(output)
    if there != "another ledger":
        shutil.rmtree(ledger_of(output))
    if there == "an empty ledger":
        ledger_of(output).mkdir()
    before = sorted(tmp_path.rglob("*"))
    words = f"the output {output} has no ledger {given.get('ledger', ledger_of(output))}; without it"
    for call in (lambda: verify(output, **given), lambda: repair(output, embedded, **given)):
        with pytest.raises(ResumeError) as caught:
            call()
        assert words in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


# repair


@pytest.mark.parametrize("executor", ["embedded", "processes"])
def test_exactly_what_is_wrong_is_written_again(
    executor: str, output: Path, finished: Path, request: pytest.FixtureRequest
) -> None:
    client = request.getfixturevalue(executor)
    expected = spoil(output)
    before = identities(object_files(output))
    report = repair(output, client)
    assert (report.unit_count, report.kept_unit_count) == (len(expected), UNITS - len(expected))
    after = identities(object_files(output))
    touched = {file for unit in expected for file in files_of_unit(output, unit)}
    assert {file for file in after if after[file] != before.get(file)} == touched
    assert tree(output) == tree(finished)
    assert verify(output).is_complete
    # Where nothing is wrong, nothing is written.
    report = repair(output, client)
    assert (report.unit_count, report.kept_unit_count) == (0, UNITS)
    assert identities(object_files(output)) == after


KINDS: dict[str, dict[str, Any]] = {
    "sharded": {"chunks": (12, 12), "shards": (24, 24)},
    "sharded, uncompressed": {"chunks": (12, 12), "shards": (24, 24), "compressors": None},
    "aligned": {"layout": "aligned"},
    "uncompressed": {"compressors": None},
    "several codecs": {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()]},
    "blosc": {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="bitshuffle")},
    "another fill value": {"fill_value": 7, "dtype": "uint8"},
    "not a number": {"fill_value": float("nan")},
    "format 2": {"zarr_format": 2},
    "format 2, uncompressed": {"zarr_format": 2, "compressors": None},
    "format 2, not a number": {"zarr_format": 2, "fill_value": float("nan")},
    "all that is chosen": {"layout": "auto", "chunks": "auto"},
    "channels": {"source": np.stack([IMAGE, IMAGE[::-1]]), "axes": "CYX", "memory_nbytes": 2**19},
    "samples, in another order": {"source": np.stack([IMAGE, IMAGE[::-1]], axis=1), "axes": "YSX"},
    "batches": {"batch_size": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_output_of_any_kind_is_mended_by_what_its_ledger_and_its_metadata_say(
    kind: str, embedded: Client, tmp_path: Path
) -> None:
    options = dict(KINDS[kind])
    source, batch_size = options.pop("source", IMAGE), options.get("batch_size", 1)
    output = tmp_path / "out.zarr"
    predict(output, embedded, source=source, **options)
    before = tree(output)
    flip_last(object_files(output)[-1])
    assert list(verify(output).conditions.values()) == ["damaged"]
    assert repair(output, embedded, source=source, batch_size=batch_size).unit_count == 1
    assert tree(output) == before
    assert verify(output).is_complete


def test_the_file_that_it_was_predicted_from_is_known_and_needed_to_repair_alone(
    embedded: Client, tmp_path: Path
) -> None:
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE)
    output = tmp_path / "out.zarr"
    predict(output, embedded, source=tmp_path / "raw.zarr")
    flip_first(object_files(output)[0])
    assert repair(output, embedded, source=None).unit_count == 1
    (tmp_path / "raw.zarr").rename(tmp_path / "moved.zarr")
    assert verify(output).is_complete
    flip_first(object_files(output)[0])
    with pytest.raises(SourceError, match=r"the source .*raw\.zarr does not exist"):
        repair(output, embedded, source=None)
    assert len(verify(output).conditions) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": np.positive}, "model: numpy.negative then, numpy.positive now"),
        ({"source": None}, "was predicted from an array, not from a file; pass it as source"),
        ({"source": IMAGE + 1}, r"source: array \w+ then, array \w+ now"),
        ({"source": IMAGE[1:]}, r"source shape: \[240, 288\] then, \[239, 288\] now"),
        ({"source": IMAGE.astype("float64")}, "source dtype: <f4 then, <f8 now"),
    ],
)
def test_another_model_or_source_is_refused_and_nothing_is_touched(
    options: dict[str, Any], words: str, output: Path, embedded: Client
) -> None:
    spoil(output)
    before = tree(output.parent)
    with pytest.raises(ResumeError, match=words):
        repair(output, embedded, **options)
    assert tree(output.parent) == before


def test_a_unit_that_was_given_up_is_mended_by_a_model_that_can(embedded: Client, tmp_path: Path) -> None:
    source = IMAGE.copy()
    source[100, 100] = 7
    output = tmp_path / "out.zarr"
    with pytest.raises(UnitGivenUpError):
        predict(output, embedded, BreaksOn(7), source)
    expected = verify(output).conditions
    assert expected
    assert set(expected.values()) == {"given up"}
    with pytest.raises(UnitGivenUpError) as caught:
        repair(output, embedded, BreaksOn(7), source)
    assert caught.value.report.kept_unit_count == UNITS - len(expected)
    assert verify(output).conditions == expected
    # The same model, by its name.
    assert repair(output, embedded, BreaksOn(8), source).unit_count == len(expected)
    np.testing.assert_array_equal(zarr.open_group(output, mode="r")["0"][...], source)
    assert verify(output).is_complete


def test_who_writes_is_named_and_keeps_others_from_mending(output: Path, embedded: Client) -> None:
    flip_first(files_of_unit(output, 0)[0])
    lock = WriterLock(ledger_of(output), "it")
    lock.acquire()
    try:
        verification = verify(output)
        who = f"process {os.getpid()} on {socket.gethostname()}"
        assert verification.writer == who
        assert str(verification).splitlines()[-1] == f"  being written by {who}"
        assert verification.conditions == {0: "damaged"}
        with pytest.raises(OutputInUseError, match=f"is being written by process {os.getpid()} on"):
            repair(output, embedded)
    finally:
        lock.release()
    assert verify(output).writer == ""
    assert repair(output, embedded).unit_count == 1


# Outputs of a trainer


@pytest.fixture
def trained(embedded: Client, tmp_path: Path) -> Path:
    """A folder of outputs: of one file, and of two arrays."""
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE)
    dataset = tw.IterableTiledPredDataset([IMAGE, IMAGE[::-1], tmp_path / "raw.zarr"], "YX", (48, 48), (12, 12))
    trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset))
    writer = tw.WriteTilesZarr(embedded)
    for number, (tile, information) in enumerate(dataset):
        writer.write_batch(trainer, None, (tile[None], [information]), None, None, number, 0, tmp_path / "out")
    writer.finalize()
    return tmp_path / "out"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["raw.zarr", "raw.zarr/0", "prediction.zarr/0", "prediction.zarr/1", "prediction.zarr/1/0"]
)
def test_each_output_of_a_trainer_is_verified_by_its_own_name(name: str, trained: Path) -> None:
    assert verify(trained / name).is_complete
    number = "" if name.startswith("raw") else name.split("/")[1]
    group = trained / name.split("/", maxsplit=1)[0] / number
    flip_first(object_files(group)[0])
    assert verify(trained / name).conditions == {0: "damaged"}
    assert str(verify(trained / name)).splitlines()[1] == f"  array        {group}/0"
    others = {"raw.zarr", "prediction.zarr/0", "prediction.zarr/1"} - {str(group.relative_to(trained))}
    assert all(verify(trained / other).is_complete for other in others)


def test_a_store_of_several_outputs_names_them(trained: Path) -> None:
    with pytest.raises(ResumeError) as caught:
        verify(trained / "prediction.zarr")
    first, second = trained / "prediction.zarr" / "0", trained / "prediction.zarr" / "1"
    assert str(caught.value).endswith(f"holds several outputs; name one of them: {first}, {second}")
    result = command("verify", trained / "prediction.zarr")
    assert result.exit_code == 1
    assert f"{first}, {second}" in result.stderr


@pytest.mark.parametrize("name", ["raw.zarr", "prediction.zarr/0"])
def test_what_a_trainer_predicted_is_mended_by_a_trainer(name: str, trained: Path, embedded: Client) -> None:
    flip_first(object_files(trained / name)[0])
    before = tree(trained)
    with pytest.raises(ResumeError, match=r"was predicted by a trainer.*WriteTilesZarr\(if_exists='resume'\)"):
        repair(trained / name, embedded)
    assert tree(trained) == before


# The command line


CUT = (
    "--axes",
    "YX",
    "--tile-size",
    "48,48",
    "--overlap",
    "12,12",
    "--layout",
    "compact",
    "--chunks",
    "24,24",
    "--levels",
    "1",
)


def predict_by_command(model: object, *options: object) -> None:
    arguments = ("predict", "raw.zarr", "out.zarr", "--model", model, *CUT, "--memory", "256KiB", *options)
    result = command(*arguments)
    assert result.exit_code == 0, result.output


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output that was predicted by a command, in the working directory."""
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE)
    monkeypatch.chdir(tmp_path)
    predict_by_command("numpy:negative")
    return tmp_path / "out.zarr"


def test_a_person_verifies_mends_and_verifies(typed: Path) -> None:
    before = tree(typed)
    complete = command("verify", "out.zarr", "--no-progress")
    assert (complete.exit_code, complete.stderr) == (0, "")
    assert f"intact       {UNITS}: the output is complete" in complete.stdout
    expected = spoil(typed)
    found = command("verify", "out.zarr", "--no-progress")
    assert (found.exit_code, found.stderr) == (INCOMPLETE, "")
    assert found.stdout == f"{verify(typed)}\n"
    mended = command("repair", "out.zarr", "--model", "numpy:negative", "--no-progress")
    assert (mended.exit_code, mended.stderr) == (0, "")
    assert f"written      {len(expected)} units" in mended.stdout
    assert tree(typed) == before
    again = command("verify", "out.zarr")
    assert again.exit_code == 0
    assert "verifying: 100%" in again.stderr
    assert "checking: 100%" in command("repair", "out.zarr", "--model", "numpy:negative").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("repair", "out.zarr", "--model", "numpy:positive"), "model: numpy.negative then, numpy.positive now"),
        (("repair", "out.zarr", "--model", "numpy:positive"), "--if-exists overwrite"),
        (("repair", "raw.zarr", "--model", "numpy:negative"), "raw.zarr has no ledger"),
        (("verify", "raw.zarr"), "raw.zarr has no ledger"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: tuple[str, ...], words: str, typed: Path) -> None:
    result = command(*arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert words in line


def test_what_is_given_up_again_has_the_status_of_what_is_incomplete(typed: Path, tmp_path: Path) -> None:
    models = tmp_path / "models.py"
    corner = float(IMAGE[-1, -1])
    # The same code, which fails where a file is there: other code is another model.
    models.write_text(
        "from pathlib import Path\n"
        "def model(batch):\n"
        f"    assert not (Path('bad').exists() and (batch == {corner!r}).any()), 'a bad tile'\n"
        "    return -batch\n"
    )
    predict_by_command(f"{models}:model", "--if-exists", "overwrite")
    flip_first(files_of_unit(typed, UNITS - 1)[0])
    (tmp_path / "bad").touch()
    result = command("repair", "out.zarr", "--model", f"{models}:model")
    assert result.exit_code == INCOMPLETE
    assert f"1 of {UNITS} units were given up" in result.stderr
    assert "kept" in result.stdout
    found = command("verify", "out.zarr")
    assert found.exit_code == INCOMPLETE
    assert "given up     1" in found.stdout
    # An object that is known to be wrong does not stay.
    assert not files_of_unit(typed, UNITS - 1)[0].exists()
