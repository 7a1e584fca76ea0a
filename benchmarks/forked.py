"""A call runs in a process of its own, which may be killed at one of its operations on files.

The process that imports the libraries never uses them: so no thread of it is lost when it is forked.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

Call = Callable[[Path], None]

SECONDS = 60
"""A call that takes longer hangs; most take a tenth of a second."""
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EMPTIES = os.O_CREAT | os.O_TRUNC
_FOLDERS_OF = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
}
"""Which arguments of an event are paths, and the open folders that they are relative to."""


@dataclass(frozen=True)
class Point:
    """A moment of a call: just before an operation, or just after a file was made that is still empty.

    Parameters
    ----------
    at : int
        The number of the operation, from 1; 0 for none.
    is_made : bool
        Whether the file has been made.
    """

    at: int = 0
    is_made: bool = False

    def __str__(self) -> str:
        return f"{self.at}{' (file made)' if self.is_made else ''}"


NEVER = Point()


class Killer:
    """Count the operations below a folder that change it, and die at one of them.

    Parameters
    ----------
    folder : Path
        The folder.
    point : Point
        Where to die.
    """

    def __init__(self, folder: Path, point: Point) -> None:
        self._folder = f"{folder}/"
        self._point = point
        # One call of it is one step, whatever the threads do.
        self._numbers = count(1)
        self._is_dying = False
        self.operations: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take in what Python is about to do."""
        if self._is_dying or (event != "open" and event not in CHANGES):
            return
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        if event == "open" and not flags & _WRITES:
            return
        places = [place for place in _places(event, arguments) if place.startswith(self._folder)]
        if not places:
            return
        number = next(self._numbers)
        makes = bool(flags & _EMPTIES)
        self.operations.append(f"{event}{' making' if makes else ''} {places[-1].removeprefix(self._folder)}")
        if number == self._point.at:
            self._is_dying = True
            if self._point.is_made and makes:
                os.open(places[0], flags, 0o666)
            os.kill(os.getpid(), signal.SIGKILL)


def _places(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """Return the absolute paths that an event is about."""
    pairs = _FOLDERS_OF.get(event, ((0, -1),))
    places = []
    for path, folder in pairs:
        found = arguments[path]
        if isinstance(found, int):
            places.append(_path_of(found))
            continue
        number = arguments[folder] if 0 <= folder < len(arguments) else -1
        base = _path_of(number) if isinstance(number, int) and number >= 0 else ""
        places.append(os.path.abspath(os.path.join(base, os.fsdecode(found))))  # noqa: PTH100, PTH118
    return places


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        return ""


@dataclass
class Ended:
    """How a process ended: its status, its error, and the operations that it came to."""

    status: int
    error: str = ""
    message: str = ""
    operations: list[str] = field(default_factory=list)

    @property
    def fault(self) -> str:
        """What was wrong; empty where nothing was."""
        if self.error:
            return f"{self.error}: {self.message}"
        return f"status {self.status}" if self.status else ""


def play(call: Call, folder: Path, point: Point = NEVER) -> Ended:
    """Make a call in a process of its own, which is killed at one point."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _be_child(call, folder, point, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    return Ended(status=os.waitstatus_to_exitcode(status), **(json.loads(said) if said else {}))


def be_quiet() -> None:
    """Let what this process says go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _be_child(call: Call, folder: Path, point: Point, writer: int) -> None:
    signal.alarm(SECONDS)
    be_quiet()
    killer = Killer(folder, point)
    told: dict[str, Any] = {}
    try:
        sys.addaudithook(killer)
        call(folder)
    except BaseException as error:
        told = {"error": type(error).__name__, "message": str(error)[:300]}
    with os.fdopen(writer, "wb") as opened:
        opened.write(json.dumps(told | {"operations": killer.operations}).encode())
    os._exit(0)


# --- In the background.


@dataclass
class Background:
    """A call in a process of its own that goes on meanwhile."""

    process: int
    told: int
    status: int | None = None

    @classmethod
    def begin(cls, call: Callable[[], None]) -> "Background":
        """Begin it."""
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reader)
            os.setsid()
            be_quiet()
            told = {}
            try:
                call()
            except BaseException as error:
                told = {"error": type(error).__name__, "message": str(error)[:300]}
            os.write(writer, json.dumps(told).encode())
            os._exit(0)
        os.close(writer)
        return cls(process, reader)

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        if self.status is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if process else None
        return self.status is not None

    def signal(self, number: int, *, workers: bool) -> None:
        """Send a signal to the process, or to the workers that it has started."""
        if self.has_ended:
            return
        with suppress(psutil.NoSuchProcess):
            processes = [psutil.Process(self.process)]
            if workers:
                processes = [child for child in processes[0].children(recursive=True) if child.num_threads() > 3]
            for process in processes:
                process.send_signal(number)

    def end(self) -> Ended:
        """Wait until it ends, and return how."""
        until = monotonic() + SECONDS
        while not self.has_ended:
            if monotonic() > until:
                os.killpg(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                return Ended(-signal.SIGKILL, "Hung", f"a process does not end within {SECONDS} seconds")
            sleep(0.01)
        with os.fdopen(self.told, "rb") as opened:
            said = opened.read()
        return Ended(0, **json.loads(said)) if said else Ended(1, "Died", "a process has died")


def wait_until(is_so: Callable[[], bool], process: Background, seconds: float = SECONDS) -> None:
    """Wait for something, as long as a process goes on."""
    until = monotonic() + seconds
    while not is_so() and not process.has_ended and monotonic() < until:
        sleep(0.002)
