"""What the modules of this folder share: waiting, runs in threads, workers that may be killed, and tiles by hand.

Workers that are killed import this module again and again: nothing here is slow to import.
"""

import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

from distributed import Client, LocalCluster, Worker
from distributed.core import Status

import tilewright as tw

ROOT = Path(__file__).parent.parent.parent
LOCAL = "127.0.0.1:0"
SECONDS = 100.0
"""How long anything that is waited for may take where others use the machine too."""


# --- Waiting.


def wait_for(condition: Callable[[], Any], what: str = "a condition", seconds: float = SECONDS) -> Any:
    """Return what a condition becomes, or fail."""
    until = monotonic() + seconds
    while not (value := condition()):
        assert monotonic() < until, f"waited in vain for {what}"
        threading.Event().wait(0.002)
    return value


def wait_once(folder: Path, name: str, before: Callable[[], Any] = lambda: None) -> None:
    """The first process that comes here says who it is, and waits for a file ``go``."""
    try:
        descriptor = os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    before()
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)
    wait_for((folder / "go").exists)


def waiting_process(folder: Path, name: str) -> int:
    """Wait until a process waits, and return which."""
    return int(wait_for(lambda: (folder / name).exists() and (folder / name).read_text()))


class Running:
    """A function that runs in a thread; its error comes out of `end`."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        # A hanging run must not keep the tests from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def _stack(self) -> str:
        """Where the function is now."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame))

    def end(self, seconds: float = SECONDS) -> Any:
        self._thread.join(seconds)
        assert self.has_ended, f"it hangs:\n{self._stack()}"
        if self._error is not None:
            raise self._error
        return self._result


# --- Clusters.


def processes_of(client: Client) -> dict[str, int]:
    """Return the process of each worker that answers."""
    try:
        found = client.run(os.getpid, on_error="ignore")
    except (KeyError, OSError):
        # One of them has just died.
        return {}
    return {address: pid for address, pid in found.items() if isinstance(pid, int)}


def are_there(cluster: LocalCluster, client: Client) -> bool:
    """Whether both workers of a cluster answer, and would come again."""
    processes = [nanny.process for nanny in cluster.workers.values()]
    return (
        len(processes) == 2
        and all(process is not None and process.status is Status.running for process in processes)
        and len(processes_of(client)) == 2
    )


def set_status(status: Status, dask_worker: Worker) -> None:
    dask_worker.status = status


@contextmanager
def dask_process(name: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A scheduler or worker that is a process of its own, as on a cluster of machines."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{name}", *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# --- Trainers.


def trainer_of(dataset: Any, batch_size: int = 1) -> Any:
    return SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset, batch_size=batch_size))


def hand_over(
    strategy: tw.WriteTilesZarr,
    dataset: Any,
    folder: Path,
    model: Callable[[Any], Any] = lambda tiles: tiles,
    *,
    batch_size: int = 1,
    before_batch: Callable[[int], Any] = lambda number: None,
) -> list[tw.Report]:
    """Predict all tiles, hand them over as a trainer does, and return the reports."""
    trainer = trainer_of(dataset, batch_size)
    strategy.prepare(trainer, folder)
    items = list(dataset)
    for number, start in enumerate(range(0, len(items), batch_size)):
        tiles, infos = batch = tw.collate_tiles(items[start : start + batch_size])
        before_batch(number)
        prediction = (model(tiles.numpy()), infos)
        strategy.write_batch(trainer, None, prediction, None, batch, number, 0, folder)
    return strategy.finalize()
