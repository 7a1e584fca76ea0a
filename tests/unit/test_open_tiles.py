"""A run that is resumed sees the batches that hold a needed tile, each as it was, and no other batch."""

import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import tilewright as tw
from tilewright.datasets.iterable import collate_tiles
from tilewright.datasets.open_tiles import OpenTiles

IMAGES = [np.random.default_rng(seed).random((extent, 37), dtype=np.float32) for seed, extent in ((0, 43), (1, 22))]
TILE_COUNT = 168 + 84
"""Of the two images together."""

Key = tuple[int, Any]
"""What tells a tile from all others: its sample, and where it belongs."""
Batch = tuple[Key, ...]


@pytest.fixture
def dataset() -> Iterator[tw.IterableTiledPredDataset]:
    made = tw.IterableTiledPredDataset(IMAGES, "YX", (6, 6), (3, 3))
    yield made
    made.open_tiles.keep_all()


def key_of(information: Any) -> Key:
    return information.sample_id, tuple(information.stitch_coords)


def loader_of(dataset: Any, workers: int, batch_size: int | None, **options: Any) -> DataLoader[Any]:
    collate = None if batch_size is None else collate_tiles
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate, **options)


def batches_of(loader: Any, content: dict[Key, torch.Tensor]) -> list[Batch]:
    """The batches of a loader by their tiles, whose elements must be those of the image."""
    found = []
    for tiles, infos in loader:
        listed = [infos] if loader.batch_size is None else infos
        stacked = tiles[None] if loader.batch_size is None else tiles
        batch = tuple(map(key_of, listed))
        for key, tile in zip(batch, stacked, strict=True):
            torch.testing.assert_close(tile, content[key], rtol=0, atol=0)
        found.append(batch)
    # In the order of the workers, which is another where one of them has less to do.
    return sorted(found)


def content_of(dataset: Any) -> dict[Key, torch.Tensor]:
    """All tiles, in the order in which they are counted."""
    return {key_of(information): tile for tile, information in dataset}


def needed_mask(needed: Sequence[int]) -> np.ndarray:
    mask = np.zeros(TILE_COUNT, bool)
    mask[list(needed)] = True
    return mask


def some_needed(seed: int, count: int) -> list[int]:
    return sorted(np.random.default_rng(seed).choice(TILE_COUNT, count, replace=False).tolist())


NEEDED = {
    "none": [],
    "the first": [0],
    "the last": [TILE_COUNT - 1],
    "both sides of two images": [167, 168],
    "some": some_needed(3, 9),
    "all": range(TILE_COUNT),
}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 1, 4, 7, 1000])
def test_without_workers_the_batches_of_needed_tiles_come_as_they_were(batch_size: int | None, dataset: Any) -> None:
    content = content_of(dataset)
    assert len(content) == TILE_COUNT
    keys = list(content)
    loader = loader_of(dataset, 0, batch_size)
    before = batches_of(loader, content)
    for needed in NEEDED.values():
        dataset.open_tiles.keep(needed_mask(needed), batch_size)
        wanted = {keys[tile] for tile in needed}
        assert batches_of(loader, content) == [batch for batch in before if wanted & set(batch)]
    dataset.open_tiles.keep_all()
    assert batches_of(loader, content) == before


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_with_workers_the_batches_of_needed_tiles_come_as_they_were(batch_size: int, dataset: Any) -> None:
    content = content_of(dataset)
    keys = list(content)
    loader = loader_of(dataset, 2, batch_size)
    before = batches_of(loader, content)
    assert sorted(key for batch in before for key in batch) == sorted(keys)
    for name in ("none", "both sides of two images", "some"):
        dataset.open_tiles.keep(needed_mask(NEEDED[name]), batch_size)
        wanted = {keys[tile] for tile in NEEDED[name]}
        assert batches_of(loader, content) == [batch for batch in before if wanted & set(batch)]


@pytest.mark.slow
@pytest.mark.parametrize("needed", [[], some_needed(4, 5)], ids=["none", "some"])
def test_workers_that_have_begun_learn_which_tiles_are_needed(needed: list[int], dataset: Any) -> None:
    content = content_of(dataset)
    keys = list(content)
    batch_size, workers, prefetched = 3, 2, 2
    loader = loader_of(dataset, workers, batch_size, prefetch_factor=prefetched)
    before = batches_of(loader, content)
    started = iter(loader)
    first = next(started)
    dataset.open_tiles.keep(needed_mask(needed), batch_size)
    found = [tuple(map(key_of, infos)) for _, infos in (first, *started)]
    assert len(set(found)) == len(found)
    # Whole batches, as they were.
    assert set(found) <= set(before)
    wanted = {keys[tile] for tile in needed}
    assert {batch for batch in before if wanted & set(batch)} <= set(found)
    # What the workers had been asked for before they could know.
    too_many = [batch for batch in found if not wanted & set(batch)]
    assert len(too_many) <= workers * prefetched + 1 < len(before) - len(found)


def test_workers_that_stay_for_another_epoch_are_told_too(dataset: Any) -> None:
    content = content_of(dataset)
    keys = list(content)
    loader = loader_of(dataset, 2, 4, persistent_workers=True)
    before = batches_of(loader, content)
    needed = some_needed(5, 6)
    dataset.open_tiles.keep(needed_mask(needed), 4)
    wanted = {keys[tile] for tile in needed}
    assert batches_of(loader, content) == [batch for batch in before if wanted & set(batch)]
    dataset.open_tiles.keep_all()
    assert batches_of(loader, content) == before


# --- What each worker does, without workers.


def whole_batches(share: Sequence[int], batch_size: int) -> list[list[int]]:
    """What a worker makes of the tiles that are its own."""
    return [list(share[start : start + batch_size]) for start in range(0, len(share), batch_size)]


@given(st.data())
def test_a_worker_yields_whole_batches_until_it_knows_and_needed_batches_then(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 40))
    workers = data.draw(st.integers(1, 3))
    worker = data.draw(st.integers(0, workers - 1))
    share = range(worker, count, workers)
    batch_size = data.draw(st.integers(1, 9))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    known_after = data.draw(st.integers(0, len(share) + 1))
    tiles = OpenTiles()
    try:
        needed = tiles.needed(share)
        before = list(islice(needed, known_after))
        tiles.keep(mask, batch_size)
        found = before + list(needed)
    finally:
        tiles.keep_all()
    batches = whole_batches(share, batch_size)
    begun = -(-min(known_after, len(share)) // batch_size)
    expected = batches[:begun] + [batch for batch in batches[begun:] if mask[batch].any()]
    assert found == [tile for batch in expected for tile in batch]


def test_what_was_said_last_counts() -> None:
    tiles = OpenTiles()
    try:
        tiles.keep(np.array([True, False, False, False]), 2)
        tiles.keep(np.array([False, False, False, True]), 1)
        assert list(tiles.needed(range(4))) == [3]
        tiles.keep_all()
        assert list(tiles.needed(range(4))) == [0, 1, 2, 3]
        tiles.keep_all()
    finally:
        tiles.keep_all()


def test_who_reads_what_was_said_keeps_to_it() -> None:
    tiles = OpenTiles()
    try:
        tiles.keep(np.array([True, False, True, False, True]), 1)
        needed = tiles.needed(range(5))
        assert next(needed) == 0
        # Else the tiles in between would come too late, or twice.
        tiles.keep_all()
        assert list(needed) == [2, 4]
    finally:
        tiles.keep_all()


def test_each_dataset_is_told_of_its_own_tiles_in_any_process() -> None:
    first, second = OpenTiles(), OpenTiles()
    try:
        first.keep(np.array([False, True]), None)
        assert list(second.needed(range(2))) == [0, 1]
        assert list(pickle.loads(pickle.dumps(first)).needed(range(2))) == [1]
    finally:
        first.keep_all()
        second.keep_all()


def test_nothing_is_left_when_all_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tiles = OpenTiles()
    assert list(tmp_path.iterdir()) == []
    count = 100_000
    tiles.keep(np.ones(count, bool), 8)
    (file,) = tmp_path.iterdir()
    # A volume may have very many tiles.
    assert file.stat().st_size <= count / 8 + 16
    tiles.keep_all()
    assert list(tmp_path.iterdir()) == []


def test_only_the_tiles_that_are_yielded_are_read() -> None:
    class Counting:
        shape, dtype = IMAGES[0].shape, IMAGES[0].dtype
        reads = 0

        def __getitem__(self, slices: Any) -> np.ndarray:
            self.reads += 1
            return np.asarray(IMAGES[0][slices])

    source = Counting()
    dataset = tw.IterableTiledPredDataset(source, "YX", (6, 6), (3, 3))
    mask = np.zeros(168, bool)
    mask[[5, 70]] = True
    try:
        dataset.open_tiles.keep(mask, 4)
        source.reads = 0
        assert len(list(dataset)) == 8
        assert source.reads == 8
    finally:
        dataset.open_tiles.keep_all()


def test_what_a_killed_process_has_said_goes_and_what_others_say_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    unused = next(number for number in range(2**22 - 1, 1, -1) if not psutil.pid_exists(number))
    dead, alive = (f"tilewright-{process}-{'0' * 32}.tiles" for process in (unused, os.getppid()))
    for name in (dead, f"{dead}.{'1' * 32}.partial", alive, "tilewright-notes.tiles"):
        (tmp_path / name).touch()
    tiles = OpenTiles()
    tiles.keep(np.ones(3, bool), batch_size=None)
    tiles.keep_all()
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive, "tilewright-notes.tiles"]
