"""All that lies below a folder, so that two ends can be compared: files, links and folders, also empty ones.

Only the files of ledgers are left out: their number tells how often a run was begun.
"""

import re
from collections.abc import Iterator
from pathlib import Path

_OF_LEDGER = re.compile(r"(elsewhere/ledger|out\.zarr\.ledger|predictions/[^/]+\.zarr\.ledger)(/.*)?")
_SESSION = re.compile(r"(.*/)?\d{6}\.ledger")

Tree = dict[str, bytes]


def tree(folder: Path) -> Tree:
    """Return the content of each file below a folder by its name; a folder ends in a slash, and has none."""
    return dict(_entries(folder))


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Return for each file below a folder what changes when it is written again, and stays when it is moved."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def sessions_of_ledgers(folder: Path) -> set[str]:
    """Return the names of the files of ledgers below a folder: one for each run that was begun.

    A ledger beside an output has the name of the output.
    """
    paths = (path for path in folder.rglob("*.ledger") if path.is_file() and _SESSION.fullmatch(path.name))
    return {path.relative_to(folder).as_posix().replace(".ledger/", "/") for path in paths}


def without_ledgers(found: Tree) -> Tree:
    """Leave out the ledgers with all that is in them, such as the lock of a process that was killed."""
    return {name: content for name, content in found.items() if not is_of_ledger(name)}


def is_of_ledger(name: str) -> bool:
    """Tell whether something is a ledger, or lies in one."""
    return _OF_LEDGER.fullmatch(name) is not None


def differing(found: Tree, wanted: Tree) -> str:
    """Return in words how two trees differ; empty where they do not."""
    lost, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    parts = {"lost": lost, "left over": more, "other bytes": other}
    return "; ".join(f"{what}: {', '.join(names[:4])} ({len(names)})" for what, names in parts.items() if names)


def _entries(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield name, f"link to {path.readlink()}".encode()
        elif path.is_dir():
            yield f"{name}/", b""
        elif not (_SESSION.fullmatch(path.name) and is_of_ledger(name)):
            yield name, path.read_bytes()
