"""Outputs of this folder: how they are predicted, what is stored of them, and clients and trainers that are ended."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client
from tests.faults.support import wait_for
from tests.support import identities, note, tree

import tilewright as tw
from tilewright.ledger.header import Header
from tilewright.ledger.ledger import LedgerFile, LedgerFolder
from tilewright.ledger.records import Record
from tilewright.plan import WritePlan
from tilewright.transport.clients import open_embedded_cluster

# A process that has imported what clients import, and gives birth to them in a fraction of a second.
CLIENTS = multiprocessing.get_context("forkserver")
CLIENTS.set_forkserver_preload(
    [
        "tilewright.prediction",
        "distributed",
        "torch",
        "dask.array",
        "tensorstore",
        "hypothesis",
        "pytest",
        "tests.faults.resuming",
    ]
)

IMAGE = np.random.default_rng(0).random((240, 288), dtype=np.float32)
LAST = np.float32(2.0)
"""The last element, by which a model knows the last tile."""
IMAGE[-1, -1] = LAST
REQUEST: dict[str, Any] = {
    "axes": "YX",
    "tile_size": (48, 48),
    "overlap": (12, 12),
    "layout": "compact",
    "chunks": (24, 24),
    # Little, so that units are small.
    "memory_nbytes": 2**18,
    "levels": 1,
    "progress": False,
}


def predict(destination: Any, model: Any, source: Any = IMAGE, **options: Any) -> tw.Report:
    return tw.predict_to_zarr(model, source, destination, **REQUEST | options)


def resume(destination: Any, model: Any, source: Any = IMAGE, **options: Any) -> tw.Report:
    return predict(destination, model, source, if_exists="resume", **options)


def negated(tiles: np.ndarray) -> np.ndarray:
    return -tiles


# --- What is stored, and what the ledger says of it.


def ledger_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.ledger")


def ledger_files(output: Path) -> list[Path]:
    return sorted(ledger_of(output).glob("*.ledger"))


def records_in(file: Path) -> list[Record]:
    """The records of one session, of which the last may be torn."""
    return [record for raw in LedgerFile(file).records() if (record := Record.from_bytes(raw)) is not None]


def records_of(output: Path) -> list[Record]:
    return [record for file in ledger_files(output) for record in records_in(file)]


def header_of(output: Path) -> Header:
    header = LedgerFolder(ledger_of(output)).header()
    assert header is not None
    return header


def object_files(output: Path) -> list[Path]:
    return sorted(path for path in output.rglob("*") if path.is_file() and path.name.isdigit())


def files_of_unit(output: Path, plan: WritePlan, unit: int) -> list[Path]:
    paths, first = plan.stored_paths(plan.array_of_unit(unit)), int(plan.is_collection)
    places = [(paths[position[0] * first], position[first:]) for position in plan.objects_of_unit(unit)]
    return [output.joinpath(path, "c", *map(str, position)) for path, position in places]


def unit_of(output: Path, plan: WritePlan, file: Path) -> int:
    return next(unit for unit in range(plan.unit_count) if file in files_of_unit(output, plan, unit))


def files_of_records(output: Path) -> list[Path]:
    """The objects of all units that are recorded."""
    plan = header_of(output).plan
    return [file for record in records_of(output) for file in files_of_unit(output, plan, record.unit)]


def copy_of(finished: Path, folder: Path) -> Path:
    """Copy an output and its ledger."""
    shutil.copytree(finished.parent, folder, dirs_exist_ok=True)
    return folder / finished.name


def flip(file: Path, place: int | None = None) -> None:
    """Change one byte of a file, in its middle unless a place is given."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 if place is None else place] ^= 1
    file.write_bytes(raw)


@contextmanager
def left_alone(files: Iterable[Path]) -> Iterator[None]:
    """These files are not written again, not even with the same bytes."""
    before = identities(list(files))
    yield
    assert identities(list(before)) == before


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """All files of a folder are the same afterwards, and no other is there."""
    before = tree(folder)
    yield
    assert tree(folder) == before


def assert_is_whole(output: Path, whole: dict[str, bytes]) -> None:
    """It is stored as by a run that nothing befell, and each unit is recorded once."""
    assert tree(output) == whole
    assert not list(output.parent.rglob("*.partial"))
    assert not (ledger_of(output) / "lock").exists()
    assert tw.verify(output, progress=False).is_complete


# --- A client process, and what happens to it.


@dataclass
class Company:
    """Add the mean of the whole batch: a tile in other company would come out differently.

    Where it is told to, it lets its process die, or waits for a file, at the last tile of the image, or as soon as the
    ledger has so many records; so no run ends before the test wants it to.
    """

    output: str = ""
    dies_at_record: int | None = None
    waits_for: str = ""
    calls: str = ""

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if self.calls:
            note(self.calls)
        is_last = bool((tiles == LAST).any())
        if self.dies_at_record is not None and (is_last or len(records_of(Path(self.output))) >= self.dies_at_record):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.waits_for and is_last:
            wait_for(Path(self.waits_for).exists, self.waits_for)
        return 2 * tiles + tiles.mean()


def run_client(output: Path, source: Path, model: Company, options: dict[str, Any], address: str | None) -> None:
    """What a client process does."""
    with ExitStack() as opened:
        client = Client(address, set_as_default=False) if address else open_embedded_cluster(threads=2)
        resume(output, model, source, client=opened.enter_context(client), **options)


@dataclass
class Moment:
    """When a client is killed."""

    output: Path
    kind: str
    count: int

    def has_come(self) -> bool:
        match self.kind:
            case "records":
                return len(records_of(self.output)) >= self.count
            case "objects":
                return len(object_files(self.output)) >= self.count
            case "a file half-written":
                return any(self.output.rglob("*.partial"))
            case "the lock":
                lock = ledger_of(self.output) / "lock"
                # One that is still empty keeps others for half a minute.
                return lock.exists() and lock.stat().st_size > 0
        raise AssertionError(self.kind)


def kill_client_at(moment: Moment, *arguments: Any) -> None:
    process = CLIENTS.Process(target=run_client, args=arguments)
    process.start()
    wait_for(lambda: moment.has_come() or not process.is_alive(), str(moment))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


# --- A trainer.

SAMPLES = np.random.default_rng(1).integers(0, 256, (6, 384, 384)).astype(np.float32) / 256
"""An image of six units, one for each sample; sums of its elements are exact, by however many threads."""
CUT: dict[str, Any] = {"axes": "SYX", "tile_size": (128, 128), "overlaps": (32, 32)}
BATCH_SIZE = 4


def network_of(
    calls: list[list[tuple[int, ...]]], weight: float = 1.0, before_batch: Callable[[int], None] | None = None
) -> Any:
    """A network that notes which tiles it sees, and adds the mean of the batch."""
    import pytorch_lightning as pl
    import torch

    class Network(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(weight))

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            tiles, infos = batch
            if before_batch is not None:
                before_batch(batch_idx)
            calls.append([(info.sample_id, *(start for start, _ in info.stitch_coords)) for info in infos])
            return self.weight * tiles + tiles.double().mean().float(), infos

    return Network()


def loader_of(sources: Any, num_workers: int = 0, **options: Any) -> Any:
    from torch.utils.data import DataLoader

    dataset = tw.IterableTiledPredDataset(sources, **CUT)
    return DataLoader(dataset, BATCH_SIZE, num_workers=num_workers, collate_fn=tw.collate_tiles, **options)


def train(
    folder: Path,
    sources: Any,
    network: Any,
    *,
    num_workers: int = 0,
    precision: Any = "32-true",
    limit: int | None = None,
    loader: Any = None,
    **options: Any,
) -> Any:
    import pytorch_lightning as pl

    loader = loader_of(sources, num_workers) if loader is None else loader
    strategy = tw.WriteTilesZarr(window_nbytes=1, **{"if_exists": "resume", "levels": 1} | options)
    callback = tw.PredictionWriterCallback(strategy, dirpath=folder)
    trainer = pl.Trainer(
        callbacks=[callback],
        limit_predict_batches=limit,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        precision=precision,
    )
    trainer.predict(network, loader, return_predictions=False)
    return strategy
