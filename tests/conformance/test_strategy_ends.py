"""A run of any strategy ends whole, or with an error that names what is missing; then the strategy begins again."""

import copy
import os
import pickle
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.strategy_cases import (
    CACHE,
    EXAMPLES,
    IMAGE,
    STACK,
    WHOLE,
    Kind,
    Make,
    fail_for_b,
    hand_over,
    save_slowly,
    tiff,
    trainer_of,
    write,
    writers_of,
)
from tests.support import running_clusters, tree

from tilewright.errors import ImageWriteError, IncompleteImageError


def test_an_incomplete_image_is_named_with_what_it_misses_and_the_others_are_whole(
    kind: Kind, client_name: str | None, make: Make, tmp_path: Path
) -> None:
    images = {name: STACK[:2, number:, :20] for number, name in enumerate("abc")}
    dataset = kind.dataset([tiff(tmp_path / f"{name}.tif", image) for name, image in images.items()], "SYX")
    items = list(dataset)
    image_of = ["abc"[int(getattr(where, "sample_id", where)) // 2] for _, where in items]

    @settings(max_examples=EXAMPLES[client_name] // 2)
    @given(
        lost=st.sets(st.integers(0, len(items) - 1), min_size=1, max_size=8),
        lost_images=st.sets(st.sampled_from("abc"), max_size=2),
        twice=st.booleans(),
    )
    def check(lost: set[int], lost_images: set[str], twice: bool) -> None:
        lost = lost | {number for number, name in enumerate(image_of) if name in lost_images}
        folder, strategy = Path(tempfile.mkdtemp(dir=tmp_path)), make()
        kept = [item for number, item in enumerate(items) if number not in lost]
        strategy.prepare(trainer_of(dataset), folder)
        # What comes twice does not stand for what is missing.
        hand_over(strategy, dataset, folder, kept + kept * twice, batch_size=1 + twice if kind.is_tiled else 1)
        with pytest.raises(IncompleteImageError) as caught:
            strategy.finalize()
        parts = {part.split(".tif ")[0].rsplit("/", 1)[1]: part for part in str(caught.value).split("; image ")}
        missing = {name: 0 for name, number in zip(image_of, range(len(items)), strict=True) if number in lost}
        for number in lost:
            where = items[number][1]
            region = getattr(where, "stitch_coords", ((0, 40 - "abc".index(image_of[number])), (0, 20)))
            missing[image_of[number]] += int(np.prod([stop - start for start, stop in region]))
        assert list(parts) == sorted(missing)
        for name, count in missing.items():
            is_all = count == images[name].size
            assert (f"{name}.tif is missing: " if is_all else f"{name}.tif misses {count} elements of ") in parts[name]
        whole = {name: kind.expected(dataset, image) for name, image in images.items() if name not in missing}
        kind.check(folder, whole, whole=False)
        before = tree(folder)
        strategy.finalize()
        assert tree(folder) == before

    check()


def test_a_data_loader_of_which_nothing_came_is_incomplete(kind: Kind, make: Make, tmp_path: Path) -> None:
    datasets = [kind.dataset(tiff(tmp_path / f"{name}.tif")) for name in "ab"]
    with pytest.raises(IncompleteImageError, match=r"^image .*b\.tif is missing"):
        write(make(), datasets, tmp_path / "out")
    kind.check(tmp_path / "out", {"a": kind.expected(datasets[0], IMAGE)})


def test_a_strategy_ends_as_often_as_it_is_asked_to_and_begins_again(kind: Kind, make: Make, tmp_path: Path) -> None:
    dataset, strategy = kind.dataset(list(STACK)), make()
    expected = {number: kind.expected(dataset, image) for number, image in enumerate(STACK)}
    clusters = running_clusters()
    for end in (strategy.finalize, strategy.abort, strategy.finalize):
        assert not end()
    assert running_clusters() == clusters
    reports = write(strategy, dataset, tmp_path / "whole")
    before = tree(tmp_path)
    for end in (strategy.finalize, strategy.abort, strategy.finalize):
        assert end() in (None, reports)
    strategy.prepare(trainer_of(dataset), tmp_path / "nothing")
    with pytest.raises(IncompleteImageError, match=r"is missing: .*is missing: .*is missing: "):
        strategy.finalize()
    assert tree(tmp_path) == before
    hand_over(strategy, dataset, tmp_path / "aborted", list(dataset)[:-1])
    strategy.abort()
    assert running_clusters() == clusters
    write(strategy, dataset, tmp_path / "again")
    assert {name: data for name, data in tree(tmp_path).items() if name.startswith("whole")} == before
    for folder in ("whole", "again"):
        kind.check(tmp_path / folder, expected)


def test_an_output_that_exists_is_replaced_where_that_is_asked_for(kind: Kind, make: Make, tmp_path: Path) -> None:
    strategy = make()
    for image in (IMAGE, IMAGE[:21]):
        (tmp_path / "prediction_0.npy.calls").unlink(missing_ok=True)
        dataset = kind.dataset(image)
        write(strategy, dataset, tmp_path)
        kind.check(tmp_path, {0: kind.expected(dataset, image)})


@pytest.mark.parametrize("change", ["another dataset", "one dataset more", "another folder"])
def test_a_batch_of_another_run_is_refused_while_one_is_open(
    change: str, kind: Kind, make: Make, tmp_path: Path
) -> None:
    dataset, other, strategy = kind.dataset(list(STACK)), kind.dataset(list(STACK)), make()
    items, expected = list(dataset), {number: kind.expected(dataset, image) for number, image in enumerate(STACK)}
    given, folder = {
        "another dataset": (other, tmp_path / "out"),
        "one dataset more": ([dataset, other], tmp_path / "out"),
        "another folder": (dataset, tmp_path / "other"),
    }[change]
    message = rf"a run into .*out has begun and not ended, .* of another one, into .*{folder.name}; call finalize"
    hand_over(strategy, dataset, tmp_path / "out", items[:2])
    datasets = given if isinstance(given, list) else [given]
    with pytest.raises(RuntimeError, match=message):
        strategy.prepare(trainer_of(*datasets), folder)
    # The run that is open goes on.
    write(strategy, dataset, tmp_path / "out", items[2:])
    kind.check(tmp_path / "out", expected)
    hand_over(strategy, dataset, tmp_path / "out", items[:2])
    with pytest.raises(RuntimeError, match=message):
        hand_over(strategy, given, folder, items[2:])
    # That was an error in the midst of a run, which has let go of it.
    strategy.finalize()
    assert not (tmp_path / "other").exists()


def test_a_strategy_that_has_not_begun_travels_and_is_copied(kind: Kind, tmp_path: Path) -> None:
    dataset, strategy = kind.dataset(), kind.make()
    for number, other in enumerate((pickle.loads(pickle.dumps(strategy)), copy.deepcopy(strategy), strategy)):
        write(other, dataset, tmp_path / str(number))
        kind.check(tmp_path / str(number), {0: kind.expected(dataset, IMAGE)})


def test_where_no_client_is_given_it_is_the_current_one_which_is_left_open(
    kind: Kind, two_processes: Client, tmp_path: Path
) -> None:
    dataset, strategy, clusters = kind.dataset(), kind.make(), running_clusters()
    with two_processes.as_current():
        hand_over(strategy, dataset, tmp_path)
        assert running_clusters() == clusters
        strategy.finalize()
    kind.check(tmp_path, {0: kind.expected(dataset, IMAGE)})
    if not kind.is_zarr:
        workers = set(two_processes.run(os.getpid).values())
        assert workers.issuperset(writers_of(tmp_path / kind.output(0)))
    assert two_processes.submit(sum, (1, 2), pure=False).result(timeout=20) == 3


@pytest.mark.parametrize("kind", [CACHE, WHOLE], ids=["CacheTiles", "WriteImage"])
def test_an_image_that_cannot_be_written_is_named_and_the_others_are_on_disk(
    kind: Kind, client: Client | None, make: Make, tmp_path: Path
) -> None:
    dataset = kind.dataset([tiff(tmp_path / f"{name}.tif") for name in "abcd"])
    strategy, expected = make(write_func=fail_for_b), kind.expected(dataset, IMAGE)
    # Without a cluster the batch that completes it raises, and lets go of that run.
    incomplete = r"; image \S*d\.tif [^;]*(; \S*d\.npy is not written)?$"
    runs = {"acd": (None, "$"), "ac": (-1, incomplete)} if client else {"a": (None, "$")}
    for written, (count, also) in runs.items():
        folder = tmp_path / written
        message = rf"^image \S*b\.tif could not be written to {re.escape(str(folder))}/b\.npy: ValueError: no ink left"
        with pytest.raises(ImageWriteError, match=message + also) as caught:
            write(strategy, dataset, folder, list(dataset)[:count], batch_size=1)
        assert isinstance(caught.value.__cause__, ValueError)
        assert not re.search(r"[ac]\.tif", str(caught.value))
        strategy.finalize()
        kind.check(folder, dict.fromkeys(written, expected))


@pytest.mark.parametrize("kind", [CACHE, WHOLE], ids=["CacheTiles", "WriteImage"])
def test_prediction_waits_for_images_that_are_being_written_where_only_one_may_be_held(
    kind: Kind, make: Make, tmp_path: Path
) -> None:
    dataset = kind.dataset([STACK] * 4, "SYX")
    batch_count, unwritten = 0, []

    def model(batch: np.ndarray) -> np.ndarray:
        nonlocal batch_count
        # The batch before this one was taken, so that all images before its own were let go of.
        unwritten.append((batch_count - 1) // (len(items) // 4) - len(list(tmp_path.glob("*.calls"))))
        batch_count += 1
        return batch

    items = list(dataset)
    write(make(write_func=save_slowly, memory_nbytes=STACK.size * 4), dataset, tmp_path, model=model, batch_size=1)
    assert max(unwritten) <= 0
    kind.check(tmp_path, dict.fromkeys(range(4), kind.expected(dataset, STACK)))
