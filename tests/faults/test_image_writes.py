"""Workers, write functions and schedulers die while images are written: the image is right, or the error names it."""

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import tifffile
from distributed import Client, LocalCluster
from tests.faults.support import LOCAL, Running, processes_of, trainer_of, wait_for, wait_once, waiting_process
from tests.support import LayerError, PositionModel, note, noted, stitched

import tilewright as tw
from tilewright.errors import ClusterGoneError, ImageWriteError
from tilewright.images.lazy_image import takes_lazy_image
from tilewright.transport.remote_tiles import Copy, TileCopies

TILE, OVERLAP = (16, 16), (4, 5)
MODEL = PositionModel(1, "float32")
IMAGES = {name: np.random.default_rng(ord(name)).integers(0, 60_000, (40, 48)).astype("uint16") for name in "abcdefgh"}
IMAGE_NBYTES = 40 * 48 * 4


# Workers import this module, and those that are killed do so again and again: nothing here imports torch.

# --- Functions that write. They tell the test by files what they do, and reach workers by the name of this module.


def save(file_path: Path, img: Any) -> None:
    partial = file_path.with_name(f"{file_path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, np.asarray(img.compute(scheduler="synchronous") if hasattr(img, "compute") else img))
    partial.replace(file_path)


class _Writer:
    """Something that writes, and says so."""

    def __init__(self, signals: Path) -> None:
        self.signals = signals

    def __call__(self, *, file_path: Path, img: Any) -> None:
        note(str(self.signals / f"{file_path.stem}.calls"))
        self.before(file_path, img)
        save(file_path, img)

    def before(self, file_path: Path, img: Any) -> None:
        pass

    def calls(self, name: str) -> int:
        return noted(self.signals / f"{name}.calls")


class FailsFor(_Writer):
    """Fail for some images."""

    def __init__(self, signals: Path, names: str) -> None:
        super().__init__(signals)
        self.names = names

    def before(self, file_path: Path, img: Any) -> None:
        if file_path.stem in self.names:
            raise ValueError(f"no ink left for {file_path.stem}")


class WaitsOnce(_Writer):
    """At the first call for an image, say which process calls, and wait for a file ``go``."""

    def before(self, file_path: Path, img: Any) -> None:
        def begin() -> None:
            if hasattr(img, "blocks"):
                # In the middle of stitching.
                img.blocks[(0,) * img.ndim].compute(scheduler="synchronous")

        wait_once(self.signals, f"{file_path.stem}.begun", begin)

    def process_of(self, name: str) -> int:
        """Wait until an image is being written, and return by which process."""
        return waiting_process(self.signals, f"{name}.begun")


class WaitsFor(_Writer):
    """Wait for a file."""

    def __init__(self, signals: Path, name: str) -> None:
        super().__init__(signals)
        self.name = name

    def before(self, file_path: Path, img: Any) -> None:
        wait_for((self.signals / self.name).exists)


class Kills(_Writer):
    """Kill the own process for image ``b``, each time."""

    def before(self, file_path: Path, img: Any) -> None:
        if file_path.stem == "b":
            os.kill(os.getpid(), signal.SIGKILL)


def lazily(writer: Any, is_lazy: bool) -> Any:
    if is_lazy:
        takes_lazy_image(writer)
    return writer


EAGER_AND_LAZY = pytest.mark.parametrize("is_lazy", [False, True], ids=["eager", "lazy"])


# --- Clusters and runs.


@pytest.fixture
def mortal(mortal: Client, cluster: LocalCluster) -> Client:
    """Two worker processes that a test may kill, and that come again."""
    # A task that sees its worker die is not tried again by Dask itself: each death costs a second.
    cluster.scheduler.allowed_failures = 0
    return mortal


def dataset_of(folder: Path, names: str) -> Any:
    (folder / "raw").mkdir(exist_ok=True)
    for name in names:
        tifffile.imwrite(folder / "raw" / f"{name}.tif", IMAGES[name], photometric="minisblack")
    return tw.IterableTiledPredDataset([folder / "raw" / f"{name}.tif" for name in names], "YX", TILE, OVERLAP)


class Prediction:
    """The tiles of some images, handed over one batch after the other."""

    def __init__(self, folder: Path, names: str, write_func: Any, client: Client, **options: Any) -> None:
        self.dataset = dataset_of(folder, names)
        self.trainer = trainer_of(self.dataset)
        self.out = folder / "out"
        self.items = list(self.dataset)
        self.per_image = len(self.items) // len(names)
        self.strategy = tw.CacheTiles(write_func, ".npy", {}, client=client, **options)
        self.max_live_nbytes = 0

    def hand_over(self, items: Sequence[Any] | None = None, batch_size: int = 4) -> None:
        items = self.items if items is None else items
        for start in range(0, len(items), batch_size):
            tiles, infos = batch = tw.collate_tiles(items[start : start + batch_size])
            self.strategy.write_batch(
                self.trainer, None, (MODEL(tiles.numpy()), infos), None, batch, start, 0, self.out
            )
            self.max_live_nbytes = max(self.max_live_nbytes, self.live_nbytes)

    @property
    def live_nbytes(self) -> int:
        writes = self.strategy._writes
        return 0 if writes is None else writes.live_nbytes

    def finalize(self, seconds: float = 50) -> None:
        """End within some time."""
        Running(self.strategy.finalize).end(seconds)

    def fails(self, words: str | None = None) -> ImageWriteError:
        """End with an error, and return it."""
        with pytest.raises(ImageWriteError, match=words) as caught:
            self.finalize()
        return caught.value

    def check(self, names: str) -> None:
        """These images are on disk, as a stitching in plain NumPy has them, and nothing else is."""
        found = sorted(path.name for path in self.out.iterdir())
        # A worker that is killed while it writes leaves what `save` has begun.
        assert [name for name in found if not name.endswith(".partial")] == [f"{name}.npy" for name in names]
        for name in names:
            expected = stitched(IMAGES[name].astype("float32"), "YX", TILE, OVERLAP, MODEL)
            np.testing.assert_array_equal(np.load(self.out / f"{name}.npy"), expected[np.newaxis], strict=True)

    def ends_with(self, names: str) -> None:
        """End without an error, with these images on disk."""
        self.finalize()
        self.check(names)


# --- Write functions that fail.


@EAGER_AND_LAZY
@pytest.mark.parametrize("failing", ["a", "c", "bd"])
def test_images_that_cannot_be_written_are_named_and_the_others_are_on_disk(
    failing: str, is_lazy: bool, two_processes: Client, signals: Path, tmp_path: Path
) -> None:
    writer = lazily(FailsFor(signals, failing), is_lazy)
    prediction = Prediction(tmp_path, "abcd", writer, two_processes)
    prediction.hand_over()
    error = prediction.fails()
    for name in "abcd":
        assert (str(tmp_path / "raw" / f"{name}.tif") in str(error)) == (name in failing)
        assert (str(tmp_path / "out" / f"{name}.npy") in str(error)) == (name in failing)
        assert (f"no ink left for {name}" in str(error)) == (name in failing)
        # What fails in itself would fail again.
        assert writer.calls(name) == 1
    assert isinstance(error.__cause__, ValueError)
    prediction.check("".join(sorted(set("abcd") - set(failing))))


def test_where_the_first_three_images_fail_the_run_ends_early(
    two_processes: Client, signals: Path, tmp_path: Path
) -> None:
    writer = FailsFor(signals, "abcdefgh")
    prediction = Prediction(tmp_path, "abcdefgh", writer, two_processes)
    start = 3 * prediction.per_image
    prediction.hand_over(prediction.items[:start])
    wait_for(lambda: all(writer.calls(name) for name in "abc"))
    with pytest.raises(ImageWriteError, match=r"[abc]\.tif could not .*[abc]\.tif could not .*[abc]\.tif could not"):
        # What the workers know reaches this process a moment later.
        prediction.hand_over(prediction.items[start:-4])
    prediction.finalize()


def test_an_image_that_is_whole_is_written_though_all_before_it_failed(
    two_processes: Client, signals: Path, tmp_path: Path
) -> None:
    class SlowForG(FailsFor):
        def before(self, file_path: Path, img: Any) -> None:
            super().before(file_path, img)
            # Long after the six others failed, unless the end of the run is not waited for.
            for _ in range(40):
                if (self.signals / "ended").exists():
                    break
                threading.Event().wait(0.02)

    prediction = Prediction(tmp_path, "abcdefg", SlowForG(signals, "abcdef"), two_processes)

    def run() -> None:
        # All of them complete in one batch.
        prediction.hand_over(batch_size=1000)
        prediction.strategy.finalize()

    with pytest.raises(ImageWriteError):
        Running(run).end()
    (signals / "ended").touch()
    prediction.check("g")


def test_a_write_function_that_cannot_travel_is_an_error_and_nothing_hangs(
    two_processes: Client, tmp_path: Path
) -> None:
    lock = threading.Lock()

    def write_locked(file_path: Path, img: Any) -> None:
        with lock:
            save(file_path, img)

    prediction = Prediction(tmp_path, "ab", write_locked, two_processes)

    def run() -> None:
        prediction.hand_over()
        prediction.strategy.finalize()

    with pytest.raises((TypeError, ImageWriteError)):
        Running(run).end()


@EAGER_AND_LAZY
def test_an_error_that_cannot_travel_is_an_error_that_names_the_image(
    is_lazy: bool, two_processes: Client, signals: Path, tmp_path: Path
) -> None:
    class Stubborn(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("I stay here")

    class RaisesStubborn(_Writer):
        def before(self, file_path: Path, img: Any) -> None:
            raise Stubborn("no ink left")

    prediction = Prediction(tmp_path, "a", lazily(RaisesStubborn(signals), is_lazy), two_processes)
    prediction.hand_over()
    error = prediction.fails(r"a\.tif could not be written to")
    assert "no ink left" in str(error)


# --- Workers that die.


@EAGER_AND_LAZY
def test_an_image_is_written_though_the_worker_that_wrote_it_died(
    is_lazy: bool, mortal: Client, signals: Path, tmp_path: Path
) -> None:
    writer = lazily(WaitsOnce(signals), is_lazy)
    prediction = Prediction(tmp_path, "ab", writer, mortal)
    prediction.hand_over(prediction.items[: prediction.per_image])
    os.kill(writer.process_of("a"), signal.SIGKILL)
    (signals / "go").touch()
    prediction.hand_over(prediction.items[prediction.per_image :])
    prediction.ends_with("ab")
    assert writer.calls("a") > 1


@pytest.mark.parametrize("memory_nbytes", [None, 1], ids=["copies in memory", "copies in a file"])
@pytest.mark.parametrize("is_noticed", [False, True], ids=["at once", "noticed"])
@EAGER_AND_LAZY
def test_tiles_of_an_image_that_is_not_covered_are_sent_again_where_their_worker_died(
    is_lazy: bool, is_noticed: bool, memory_nbytes: Any, mortal: Client, signals: Path, tmp_path: Path
) -> None:
    prediction = Prediction(tmp_path, "a", lazily(_Writer(signals), is_lazy), mortal, memory_nbytes=memory_nbytes)
    prediction.hand_over(prediction.items[:9])
    wait_for(lambda: sum(map(bool, mortal.who_has().values())) >= 9, "all tiles to be sent")
    victim = next(address for addresses in mortal.who_has().values() for address in addresses)
    process = processes_of(mortal)[victim]
    os.kill(process, signal.SIGKILL)
    if is_noticed:
        wait_for(lambda: process not in processes_of(mortal).values())
    prediction.hand_over(prediction.items[9:])
    prediction.ends_with("a")


@EAGER_AND_LAZY
def test_an_image_is_written_though_a_worker_with_tiles_dies_while_another_one_writes(
    is_lazy: bool, mortal: Client, signals: Path, tmp_path: Path
) -> None:
    writer = lazily(WaitsOnce(signals), is_lazy)
    prediction = Prediction(tmp_path, "ab", writer, mortal)
    prediction.hand_over(prediction.items[: prediction.per_image + 5])
    writing = writer.process_of("a")
    [other] = set(processes_of(mortal).values()) - {writing}
    os.kill(other, signal.SIGKILL)
    wait_for(lambda: other not in processes_of(mortal).values())
    (signals / "go").touch()
    prediction.hand_over(prediction.items[prediction.per_image + 5 :])
    prediction.ends_with("ab")


@pytest.mark.parametrize("is_together", [False, True], ids=["after the others", "together with the others"])
@EAGER_AND_LAZY
def test_a_write_function_that_kills_its_worker_each_time_is_given_up_and_takes_no_other_image_with_it(
    is_lazy: bool, is_together: bool, mortal: Client, signals: Path, tmp_path: Path
) -> None:
    writer = lazily(Kills(signals), is_lazy)
    if is_together:
        prediction = Prediction(tmp_path, "abc", writer, mortal)
        # All three are written at the same time, by two workers.
        prediction.hand_over(batch_size=1000)
    else:
        prediction = Prediction(tmp_path, "acb", writer, mortal)
        prediction.hand_over(prediction.items[: 2 * prediction.per_image])
        wait_for(lambda: len(list(prediction.out.glob("*.npy"))) == 2)
        prediction.hand_over(prediction.items[2 * prediction.per_image :])
    error = prediction.fails()
    assert f"raw{os.sep}b.tif could not be written to {prediction.out / 'b.npy'}" in str(error)
    assert "a.tif" not in str(error)
    assert "c.tif" not in str(error)
    # Once with the others, and three times by itself, of two deaths each at most.
    assert 1 < writer.calls("b") <= 4 * 2
    prediction.check("ac")


# --- Schedulers that go away, and models that fail.


@pytest.mark.parametrize("where", ["next batch", "end"])
def test_a_scheduler_that_goes_away_is_an_error_within_seconds(where: str, signals: Path, tmp_path: Path) -> None:
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=LOCAL, silence_logs=50)
    client = Client(cluster, set_as_default=False)
    writer = WaitsOnce(signals)
    prediction = Prediction(tmp_path, "ab", writer, client)

    def go_on() -> None:
        if where == "next batch":
            prediction.hand_over(prediction.items[prediction.per_image + 5 :])
        prediction.strategy.finalize()

    try:
        prediction.hand_over(prediction.items[: prediction.per_image + 5])
        writer.process_of("a")
        cluster.sync(cluster.scheduler.close)
        with pytest.raises(ClusterGoneError):
            Running(go_on).end(25)
        prediction.finalize(5)
    finally:
        (signals / "go").touch()
        # The cluster asks its scheduler to close, and waits for an answer.
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
            client.close()
            cluster.close()


@pytest.mark.filterwarnings("ignore:.*litlogger.*")
@pytest.mark.filterwarnings("ignore:.*GPU available.*")
@EAGER_AND_LAZY
def test_an_image_that_was_complete_is_written_though_the_model_fails_later(
    is_lazy: bool, two_processes: Client, signals: Path, tmp_path: Path
) -> None:
    import pytorch_lightning as pl
    import torch
    from torch.utils.data import DataLoader

    class FailsLater(pl.LightningModule):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 4:
                (signals / "failed").touch()
                raise LayerError(3, "out of luck")
            return torch.as_tensor(MODEL(batch[0].numpy()))

    # The image is not written before the model has failed.
    writer = lazily(WaitsFor(signals, "failed"), is_lazy)
    dataset = dataset_of(tmp_path, "ab")
    callback = tw.PredictionWriterCallback.from_write_func_params(
        "custom", True, writer, ".npy", dirpath=tmp_path / "out", client=two_processes
    )
    trainer = pl.Trainer(
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    loader = DataLoader(dataset, 4, collate_fn=tw.collate_tiles)
    with pytest.raises(LayerError, match="out of luck"):
        trainer.predict(FailsLater(), loader, return_predictions=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npy"]
    expected = stitched(IMAGES["a"].astype("float32"), "YX", TILE, OVERLAP, MODEL)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy")[0], expected)


# --- What is held.


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
@pytest.mark.parametrize("memory_nbytes", [1, 10_000, 20_000])
def test_no_more_is_held_than_may_be(
    memory_nbytes: int, batch_size: int, executor: Client, signals: Path, tmp_path: Path
) -> None:
    prediction = Prediction(tmp_path, "abcdefgh", _Writer(signals), executor, memory_nbytes=memory_nbytes)
    prediction.hand_over(batch_size=batch_size)
    batch_nbytes = min(batch_size * 16 * 16 * 4, 8 * IMAGE_NBYTES)
    assert 0 < prediction.max_live_nbytes <= max(memory_nbytes, IMAGE_NBYTES) + batch_nbytes
    prediction.ends_with("abcdefgh")


def test_prediction_waits_for_images_that_are_being_written(
    two_processes: Client, signals: Path, tmp_path: Path
) -> None:
    writer = WaitsFor(signals, "go")
    prediction = Prediction(tmp_path, "abcdefgh", writer, two_processes, memory_nbytes=3 * IMAGE_NBYTES)
    running = Running(prediction.hand_over)
    # Three images are there, and nothing of the next one.
    wait_for(lambda: prediction.live_nbytes == 3 * IMAGE_NBYTES)
    assert not running.has_ended
    assert not prediction.out.exists() or not any(prediction.out.glob("*.npy"))
    (signals / "go").touch()
    running.end()
    assert prediction.max_live_nbytes <= 3 * IMAGE_NBYTES
    prediction.ends_with("abcdefgh")


def test_the_cluster_holds_no_more_tiles_than_may_be_and_none_at_the_end(
    two_processes: Client, signals: Path, tmp_path: Path
) -> None:
    # The traceback of an error before this test may hold futures of its own.
    gc.collect()
    prediction = Prediction(tmp_path, "abcdefgh", _Writer(signals), two_processes, memory_nbytes=2 * IMAGE_NBYTES)
    most = 0
    for start in range(0, len(prediction.items), 4):
        prediction.hand_over(prediction.items[start : start + 4])
        most = max(most, two_processes.run_on_scheduler(held_nbytes))
    # Those of an image that has just been written may be on their way out, and its stitched image with them.
    assert most <= 6 * IMAGE_NBYTES
    prediction.finalize()
    wait_for(lambda: two_processes.run_on_scheduler(held_nbytes) == 0)


def held_nbytes(dask_scheduler: Any) -> int:
    return sum(max(0, task.nbytes) for task in dask_scheduler.tasks.values() if task.state == "memory")


def test_an_image_larger_than_the_budget_is_held_whole(two_processes: Client, signals: Path, tmp_path: Path) -> None:
    prediction = Prediction(tmp_path, "ab", _Writer(signals), two_processes, memory_nbytes=100)
    # All tiles of both before the last one of each: nothing can be waited for.
    order = sorted(prediction.items, key=lambda item: item[1].last_tile)
    Running(lambda: prediction.hand_over(order, batch_size=1)).end(25)
    prediction.ends_with("ab")


# --- The copies.


@pytest.fixture
def make_copies(tmp_path: Path) -> Iterator[Callable[[int], TileCopies]]:
    made: list[TileCopies] = []

    def make(memory_nbytes: int) -> TileCopies:
        made.append(TileCopies(tmp_path / "copies", memory_nbytes))
        return made[-1]

    yield make
    for copies in made:
        copies.close()


def in_memory(copy: Copy) -> bool:
    return copy.array is not None


def test_copies_are_kept_in_memory_up_to_the_limit_and_then_in_a_file_without_a_name(
    make_copies: Any, tmp_path: Path
) -> None:
    copies = make_copies(250)
    arrays = [np.full((5, 5), number, "float32") for number in range(6)]
    kept = [copies.add(array) for array in arrays]
    assert [in_memory(copy) for copy in kept] == [True, True, False, False, False, False]
    assert list((tmp_path / "copies").iterdir()) == []
    for _ in range(2):
        for copy, array in zip(kept[::-1], arrays[::-1], strict=True):
            np.testing.assert_array_equal(copies.read(copy), array, strict=True)


def test_no_file_is_made_while_memory_is_enough(make_copies: Any, tmp_path: Path) -> None:
    copies = make_copies(100)
    for _ in range(5):
        copies.release(copies.add(np.zeros(100, "uint8")))
    assert not (tmp_path / "copies").exists()


@pytest.mark.parametrize("memory_nbytes", [0, 10**6], ids=["file", "memory"])
@pytest.mark.parametrize("kind", ["bool", "float16", "big endian", "Fortran", "strided", "volume", "scalar"])
def test_a_copy_is_the_same_array_again(kind: str, memory_nbytes: int, make_copies: Any) -> None:
    values = np.random.default_rng(0).integers(0, 99, (4, 6))
    array = {
        "bool": values > 50,
        "float16": values.astype("float16"),
        "big endian": values.astype(">f4"),
        "Fortran": np.asfortranarray(values),
        "strided": values[::2, ::-1],
        "volume": values.reshape(1, 2, 2, 2, 3),
        "scalar": values[0, 0:1].reshape(()),
    }[kind]
    copies = make_copies(memory_nbytes)
    copies.add(np.arange(7, dtype="uint8"))
    copy = copies.add(array)
    copies.add(np.arange(7, dtype="uint8"))
    np.testing.assert_array_equal(copies.read(copy), array, strict=True)


def test_memory_and_file_are_used_again_after_what_was_there_is_released(make_copies: Any) -> None:
    copies = make_copies(200)
    first = [copies.add(np.full(100, number, "uint8")) for number in range(4)]
    assert [in_memory(copy) for copy in first] == [True, True, False, False]
    copies.release(first[0])
    again = copies.add(np.full(100, 9, "uint8"))
    assert in_memory(again)
    copies.release(first[2])
    np.testing.assert_array_equal(copies.read(first[3]), np.full(100, 3, "uint8"))
    copies.release(first[3])
    assert copies._file is not None
    for number in range(50):
        # What is alive at any time decides how large the file is.
        later = copies.add(np.full(100, number, "uint8"))
        assert not in_memory(later)
        np.testing.assert_array_equal(copies.read(later), np.full(100, number, "uint8"))
        copies.release(later)
    copies._file.flush()
    assert os.fstat(copies._file.fileno()).st_size == 200


def test_copies_in_a_file_that_is_closed_are_gone_with_an_error(make_copies: Any, tmp_path: Path) -> None:
    copies = make_copies(100)
    held, lost = copies.add(np.ones(100, "uint8")), copies.add(np.ones(100, "uint8"))
    copies.close()
    copies.close()
    np.testing.assert_array_equal(copies.read(held), 1)
    with pytest.raises(ValueError, match="the copies are closed"):
        copies.read(lost)
    copies.release(lost)
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_small_budget_keeps_copies_in_the_file_and_leaves_nothing_behind(
    two_processes: Client, signals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[Copy] = []
    released: list[Copy] = []
    add, release = TileCopies.add, TileCopies.release

    def watched_add(self: TileCopies, array: np.ndarray) -> Copy:
        added.append(add(self, array))
        return added[-1]

    def watched_release(self: TileCopies, copy: Copy) -> None:
        released.append(copy)
        release(self, copy)

    monkeypatch.setattr(TileCopies, "add", watched_add)
    monkeypatch.setattr(TileCopies, "release", watched_release)
    prediction = Prediction(tmp_path, "abc", _Writer(signals), two_processes, memory_nbytes=4000)
    prediction.hand_over()
    prediction.ends_with("abc")
    assert sum(copy.nbytes for copy in added if in_memory(copy)) > 0
    assert not all(in_memory(copy) for copy in added)
    assert {id(copy) for copy in released} == {id(copy) for copy in added}
    assert len(released) == len(added)


def test_workers_in_this_process_need_no_copies(
    embedded: Client, signals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: TileCopies, array: np.ndarray) -> Copy:
        raise AssertionError("there is a second copy")

    monkeypatch.setattr(TileCopies, "add", refused)
    prediction = Prediction(tmp_path, "ab", _Writer(signals), embedded, memory_nbytes=1)
    prediction.hand_over()
    prediction.ends_with("ab")
