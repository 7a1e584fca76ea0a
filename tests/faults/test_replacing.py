"""What is replaced is ours, stays whole until the first unit of the new is stored, and no other thing goes with it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.faults.resuming import IMAGE, Company, ledger_files, ledger_of, negated, predict, resume, unchanged
from tests.faults.support import hand_over
from tests.support import tree

import tilewright as tw
from tilewright.errors import DestinationExistsError, ResumeError

OTHER: dict[str, Any] = {"chunks": (16, 16), "layout": "compact"}
pytestmark = pytest.mark.usefixtures("current")


def fails(tiles: np.ndarray) -> np.ndarray:
    """A model that predicts the first tile only, by which it is probed."""
    if tiles.flat[0]:
        raise ArithmeticError("this model fails")
    return tiles


@pytest.fixture
def other(tmp_path: Path) -> dict[str, bytes]:
    """The bytes of an undisturbed run of another model, with other chunks."""
    predict(tmp_path / "other" / "out.zarr", negated, **OTHER)
    return tree(tmp_path / "other" / "out.zarr")


def test_nothing_is_left_of_what_was_replaced(output: Path, other: dict[str, bytes]) -> None:
    predict(output, negated, if_exists="overwrite", **OTHER)
    assert tree(output) == other
    assert [path.name for path in ledger_of(output).iterdir()] == ["000002.ledger"]
    assert not list(output.parent.glob("*.replaced-*"))
    assert tw.verify(output, progress=False).is_complete


class TakesNothing(zarr.storage.LocalStore):
    """A folder that takes metadata only."""

    async def set(self, key: str, value: Any) -> None:
        if key.rpartition("/")[2].isdigit():
            raise ArithmeticError("this store fails")
        await super().set(key, value)


@pytest.mark.parametrize("what", ["the model", pytest.param("the store", marks=pytest.mark.slow)])
def test_a_run_that_fails_before_its_first_unit_gives_the_place_back(what: str, output: Path) -> None:
    model, destination = (fails, output) if what == "the model" else (negated, TakesNothing(output))
    with unchanged(output.parent), pytest.raises(ArithmeticError, match=f"this {what[4:]} fails"):
        predict(destination, model, if_exists="overwrite", **OTHER)


@pytest.mark.parametrize("at", ["the intent", "the move", "the array", "the first unit", "the removal"])
@pytest.mark.parametrize("goes_on_by", ["overwrite", "resume"])
def test_a_replacement_goes_on_from_each_step(
    at: str, goes_on_by: str, output: Path, other: dict[str, bytes], tmp_path: Path
) -> None:
    # What a killed run leaves after each step, made of the old output and of an undisturbed new one.
    new, aside = tmp_path / "new" / "out.zarr", output.with_name("out.zarr.replaced-000002")
    shutil.copytree(output, new)
    shutil.copytree(ledger_of(output), ledger_of(new))
    predict(new, negated, if_exists="overwrite", **OTHER)
    (session,) = ledger_files(new)
    copied = shutil.copyfile(session, ledger_of(output) / session.name)
    raw = copied.read_bytes()
    header_nbytes = 2 * (raw.index(b"\n") + 1)
    if at not in ("the first unit", "the removal"):
        os.truncate(copied, header_nbytes)
    if at != "the intent":
        output.rename(aside)
    if at not in ("the intent", "the move"):
        shutil.copytree(new, output)
    if at == "the array":
        shutil.rmtree(output / "0" / "c")
    if at == "the removal":
        shutil.rmtree(aside / "0")
    report = predict(output, negated, if_exists=goes_on_by, **OTHER)
    is_kept = goes_on_by == "resume" and at in ("the first unit", "the removal")
    assert report.kept_unit_count == (report.plan.unit_count if is_kept else 0)
    assert tree(output) == other
    assert not aside.exists()
    assert tw.verify(output, progress=False).is_complete
    assert (ledger_of(output) / "000001.ledger").exists() is False


def test_before_the_intent_the_old_output_is_completed_by_its_own_arguments_only(output: Path, finished: Path) -> None:
    with pytest.raises(ResumeError, match="begun from something else"):
        resume(output, negated, **OTHER)
    assert tree(output) == tree(finished)


# --- What is of others.

PLACES = {
    "a folder of documents": {"thesis.txt": "my life"},
    "metadata that are a sentence": {"zarr.json": "to be or not to be", "thesis.txt": "my life"},
    "empty metadata": {".zgroup": "", "thesis.txt": "my life"},
}


STORES: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: folder,
    "logging": lambda folder: zarr.storage.LoggingStore(zarr.storage.LocalStore(folder), log_level="ERROR"),
    "wrapper": lambda folder: zarr.storage.WrapperStore(zarr.storage.LocalStore(folder)),
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("if_exists", ["overwrite", "overwrite-foreign"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_zarr_is_kept_and_named(place: str, if_exists: str, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in PLACES[place].items():
        (folder / name).write_text(content)
    with unchanged(tmp_path), pytest.raises(DestinationExistsError, match=r"in the way: .*thesis\.txt"):
        predict(STORES[kind](folder), Company(), if_exists=if_exists)


def test_arrays_and_files_of_others_in_the_same_group_are_kept_and_named(output: Path) -> None:
    zarr.open_group(output).create_array("labels", shape=(4,), dtype="int8")[:] = 1
    before = tree(output.parent)
    with pytest.raises(DestinationExistsError, match=r"in the way: labels\. .*'overwrite-foreign'"):
        predict(output, Company(), if_exists="overwrite")
    (output / "notes.txt").write_text("by hand")
    with pytest.raises(DestinationExistsError, match=r"in the way: notes\.txt"):
        predict(output, Company(), if_exists="overwrite-foreign")
    (output / "notes.txt").unlink()
    assert tree(output.parent) == before


def test_a_group_of_another_tool_is_replaced_by_an_explicit_word_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, finished: Path
) -> None:
    path = tmp_path / "theirs.zarr"
    zarr.open_group(path, mode="w").create_array("0", shape=(4, 4), dtype="int8", chunks=(2, 2))[:] = 1
    with unchanged(tmp_path), pytest.raises(DestinationExistsError, match=r"in the way: the group itself, 0\."):
        predict(path, Company(), if_exists="overwrite")
    predict(path, Company(), if_exists="overwrite-foreign")
    assert "is replaced, with all Zarr groups and arrays in it" in caplog.text
    assert tree(path) == tree(finished)


def test_an_array_that_took_the_place_of_an_output_is_not_taken_for_it(output: Path) -> None:
    # The ledger stayed, and the place was used for something else.
    shutil.rmtree(output)
    zarr.open_group(output, mode="w").create_array("0", shape=(4, 4), dtype="int8")[:] = 1
    with unchanged(output), pytest.raises(DestinationExistsError, match="'overwrite-foreign'"):
        predict(output, Company(), if_exists="overwrite")


def test_an_output_is_known_for_ours_without_its_ledger(output: Path, finished: Path) -> None:
    shutil.rmtree(ledger_of(output))
    predict(output, Company(), if_exists="overwrite")
    assert tree(output) == tree(finished)


def test_a_folder_of_a_user_that_is_named_like_a_ledger_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "p.zarr.ledger"
    folder.mkdir()
    (folder / "2024.ledger").write_text("what the group owes")
    predict(tmp_path / "p.zarr", Company())
    assert sorted(path.name for path in folder.iterdir()) == ["000001.ledger", "2024.ledger"]
    shutil.rmtree(tmp_path / "p.zarr")
    (folder / "000001.ledger").write_text("what the group owes")
    with (
        unchanged(tmp_path),
        pytest.raises(DestinationExistsError, match=r"000001\.ledger has the name of a file of a ledger"),
    ):
        predict(tmp_path / "p.zarr", Company())


# --- What is too much.


def test_objects_of_another_grid_are_reported_and_removed(output: Path, finished: Path) -> None:
    (output / "0" / "c" / "99").mkdir()
    for name in ("99/0", "0/99", f"0/0.{'0' * 32}.partial"):
        (output / "0" / "c" / name).write_bytes(b"left over")
    (output / "0" / "c" / "notes.txt").write_text("by hand")
    verification = tw.verify(output, progress=False)
    assert sorted(verification.surplus) == ["c/0/0." + "0" * 32 + ".partial", "c/0/99", "c/99/0", "c/notes.txt"]
    assert not verification.is_complete
    assert "surplus      4" in str(verification)
    resume(output, Company())
    # What is no object of an array is for its owner to remove.
    assert tw.verify(output, progress=False).surplus == ["c/notes.txt"]
    (output / "0" / "c" / "notes.txt").unlink()
    assert tree(output) == tree(finished)


NO_METADATA = [b"", b"{", b"[]", b"null", b"3", b"[" * 100_000, b"\xff"]
GROUP = b'{"zarr_format": 3, "node_type": "group"}'
BAD_GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": [1]}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("zarr.json", content) for content in (*NO_METADATA, BAD_GROUP)),
        *(("0/zarr.json", content) for content in (*NO_METADATA, BAD_GROUP, GROUP)),
    ],
    ids=lambda value: value[:12],
)
def test_metadata_that_are_none_are_refused_by_name(name: str, content: bytes, output: Path) -> None:
    (output / name).write_bytes(content)
    before = tree(output.parent)
    for call in (
        lambda: tw.verify(output, progress=False),
        lambda: resume(output, Company()),
        lambda: tw.repair(output, Company(), IMAGE, progress=False),
    ):
        with pytest.raises(ResumeError, match=r"zarr\.json|0" if content == GROUP else "cannot be read"):
            call()
    if content != GROUP:
        with pytest.raises(DestinationExistsError, match=f"in the way: {name}"):
            predict(output, Company(), if_exists="overwrite")
    assert tree(output.parent) == before


def test_one_module_removes_and_replaces() -> None:
    words = (".unlink(", "os.remove(", "rmtree(", ".rmdir(", ".rename(", "os.replace(", ".delete(", ".delete_dir(")
    source = Path(tw.__file__).parent
    allowed = {"stores/removal.py"}
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    }
    assert found <= allowed


def test_half_written_metadata_of_a_store_that_images_share_are_removed(tmp_path: Path) -> None:
    partial = f"zarr.{'0' * 32}.partial"
    for path in (tmp_path / "prediction.zarr" / partial, tmp_path / "prediction.zarr" / "others" / partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{")
    dataset = tw.IterableTiledPredDataset(IMAGE, axes="YX", tile_size=(128, 128), overlaps=(16, 16))
    hand_over(tw.WriteTilesZarr(), dataset, tmp_path)
    assert not (tmp_path / "prediction.zarr" / partial).exists()
    # What lies in the group of another image is for its own run.
    assert (tmp_path / "prediction.zarr" / "others" / partial).exists()
