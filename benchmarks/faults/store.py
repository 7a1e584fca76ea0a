"""Where it is stored, and what fails there, as each process is told by a file."""

import asyncio
import errno
import faulthandler
import json
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random, random
from time import sleep
from typing import Any

from distributed import WorkerPlugin
from zarr.storage import LocalStore

from benchmarks.faults.cases import InjectedStoreError
from benchmarks.faults.logs import append_line

OBJECT = re.compile(r"(\d+/){1,2}c/[\d/]+")
"""Key of an object, relative to the output: of its array, or of the array of a sample."""


@dataclass(frozen=True)
class StoreFaults:
    """What happens to an object that is to be stored, and to which share of them.

    A share of them cannot be stored at all, however often that is tried.
    """

    error_rate: float = 0.0
    hopeless_rate: float = 0.0
    salt: int = 0
    error: str = "EIO"
    wait_rate: float = 0.0
    wait_seconds: float = 0.0
    in_store: bool = False

    @property
    def injects_errors(self) -> bool:
        return self.error_rate > 0 or self.hopeless_rate > 0

    def save(self, folder: Path) -> None:
        (folder / "faults.new").write_text(json.dumps(vars(self)))
        (folder / "faults.new").replace(folder / "faults.json")

    @classmethod
    def load(cls, folder: Path) -> "StoreFaults":
        return cls(**json.loads((folder / "faults.json").read_bytes()))

    def wait(self) -> float:
        return self.wait_seconds if random() < self.wait_rate else 0.0

    def raise_or_not(self, folder: Path, key: str) -> None:
        if random() < self.error_rate or Random(f"{self.salt}-{key}").random() < self.hopeless_rate:
            append_line(folder / "store-errors", key)
            if self.error == "EIO":
                raise OSError(errno.EIO, os.strerror(errno.EIO), key)
            raise InjectedStoreError(key)


class FaultyStore(LocalStore):
    """A local store that tilewright does not take for one, so that objects go through zarr; it fails as it is told."""

    async def set(self, key: str, value: Any) -> None:
        if not key.endswith("zarr.json"):
            folder = self.root.parent
            faults = StoreFaults.load(folder)
            if faults.in_store:
                await asyncio.sleep(faults.wait())
                faults.raise_or_not(folder, key)
        await super().set(key, value)


class Watcher(WorkerPlugin):
    """On each worker: write down every object that gets its final name, let this fail as it is told, show stacks.

    Python tells of each renaming before it is done, whoever asks for it, so that nothing needs to be replaced.
    """

    name = "benchmarks-faults"

    def __init__(self, root: str) -> None:
        self.root = root

    def setup(self, worker: Any) -> None:
        # Open as long as the process lives.
        self._stacks = Path(self.root, f"stack-of-worker-{os.getpid()}").open("w")  # noqa: SIM115
        faulthandler.register(signal.SIGUSR1, self._stacks)
        sys.addaudithook(self._take_in)

    def _take_in(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "os.rename":
            return
        source, destination = (os.fspath(argument) for argument in arguments[:2])
        path, _, key = destination.rpartition(".zarr/")
        if not OBJECT.fullmatch(key) or not path.startswith(self.root):
            return
        folder = Path(self.root, path.removeprefix(f"{self.root}/").split("/")[0])
        faults = StoreFaults.load(folder)
        if not faults.in_store:
            sleep(faults.wait())
            faults.raise_or_not(folder, key)
        if Path(source).exists():
            append_line(folder / "sets", key)
