"""A source is never written to or replaced: all places that it is read from are known, or what exists is left alone."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import RawIOBase
from pathlib import Path
from types import FunctionType
from typing import Any

import cloudpickle
import numpy as np
import zarr
from zarr.abc.store import Store

from tilewright.errors import DestinationError
from tilewright.storage.metadata import is_zarr
from tilewright.storage.places import Name, Place, place_of_path, place_of_store
from tilewright.storage.source import Source


@dataclass
class SourcePlaces:
    """The places that something is read from.

    Parameters
    ----------
    places : set of Place
        Those that are known.
    unknown : list of str
        What may be read from a place that is not known.
    """

    places: set[Place] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)


class Nowhere(RawIOBase):
    """A file that keeps nothing."""

    def writable(self) -> bool:
        """Return that it takes what is written."""
        return True

    def write(self, data: Any) -> int:
        """Return how much was written."""
        return memoryview(data).nbytes


class _Finder(cloudpickle.Pickler):  # type: ignore[misc]
    """Look at every object that would travel with a source, and note where it is stored."""

    def __init__(self, found: SourcePlaces) -> None:
        super().__init__(Nowhere())
        self._found = found

    def persistent_id(self, candidate: Any) -> int | None:
        """Note the place of an object; return a number where there is no need to look into it."""
        is_known = True
        match candidate:
            case bool() | int() | float() | complex() | bytes() | None:
                is_known = False
            case str() | Path():
                self._note_path(candidate)
                is_known = False
            case np.ndarray():
                self._note_array(candidate)
                is_known = not candidate.dtype.hasobject
            case zarr.Array() | zarr.Group():
                self._note_store(candidate.store, candidate.path)
            case Store():
                self._note_store(candidate, "")
            case FunctionType():
                self._note_function(candidate)
                is_known = False
            case _ if type(candidate).__module__.partition(".")[0] in ("h5py", "netCDF4"):
                self._note_path(getattr(getattr(candidate, "file", candidate), "filename", "") or "")
            case _:
                # A future lies in the memory of a worker.
                is_known = type(candidate).__name__ == "Future"
        return 0 if is_known else None

    def _note_function(self, function: FunctionType) -> None:
        """Note what a function names, which does not travel with one that other processes import."""
        used = (function.__globals__.get(name) for name in function.__code__.co_names)
        for value in (*function.__code__.co_consts, *used):
            if isinstance(value, str | Path | np.ndarray | zarr.Array | zarr.Group | Store):
                self.persistent_id(value)

    def _note_path(self, path: str | Path) -> None:
        """Note a path that exists; a folder that is no Zarr may be one of many folders that a program knows."""
        # Any text may come here; `Path.exists` does not bear all of them.
        if not path or not os.path.exists(path):  # noqa: PTH110
            return
        place = place_of_path(path)
        is_folder = Path(path).is_dir() and not is_zarr(Path(path))
        # An output may lie in it, and may not be around it.
        self._found.places.add(replace(place, path=(*place.path, "*")) if is_folder else place)

    def _note_array(self, array: Any) -> None:
        """Note the file of a memory map, also of a view of one."""
        while isinstance(array, np.ndarray):
            name = getattr(array, "filename", None)
            if name is not None:
                self._found.places.add(place_of_path(name))
            array = array.base
        if type(array).__name__ == "mmap":
            self._found.unknown.append("a memory map of a file without a name")

    def _note_store(self, store: Store, path: str) -> None:
        place = place_of_store(store, path)
        if place is not None:
            self._found.places.add(place)
            return
        # A store that is none of zarr may say which file it reads, as those of tifffile do.
        before = len(self._found.places)
        for value in vars(store).values():
            handle = getattr(value, "filehandle", value)
            self._note_path(str(getattr(handle, "path", value if isinstance(value, str | Path) else "")))
        if len(self._found.places) == before:
            self._found.unknown.append(f"the store {type(store).__name__}")


@dataclass(frozen=True)
class Target:
    """What a run writes: an output, or a ledger.

    Parameters
    ----------
    name : str
        How to name it.
    place : Place or None
        Where it lies, where that is known.
    is_replaced : bool
        Whether something that exists there is replaced.
    """

    name: str
    place: Place | None
    is_replaced: bool = False


def places_of(source: Source | Path) -> SourcePlaces:
    """Return the places that a source is read from."""
    found = SourcePlaces()
    path = source if isinstance(source, Path) else source.path
    if path is not None:
        found.places.add(place_of_path(path))
    if isinstance(source, Path) or source.is_file_alone:
        return found
    try:
        _Finder(found).dump(source.opened())
    except Exception as error:
        found.unknown.append(f"it cannot be looked into ({type(error).__name__})")
    return found


def check_apart(targets: Sequence[Target], sources: Sequence[Source | Path]) -> None:
    """Compare all that a run writes with all that it reads.

    Parameters
    ----------
    targets : sequence of Target
        The outputs and ledgers of the run.
    sources : sequence of Source or Path
        Its sources.

    Raises
    ------
    DestinationError
        If a target is a source, holds one or lies in one; or if that cannot be known, and something would be replaced.
    """
    owners: dict[Name, Place] = {}
    inside: dict[Name, Place] = {}
    unknown: list[str] = []
    for source in sources:
        found = places_of(source)
        unknown += [f"{getattr(source, 'name', source)}: {reason}" for reason in found.unknown]
        for place in found.places:
            own, around = place.names()
            owners.update(dict.fromkeys(own, place))
            inside.update(dict.fromkeys(around, place))
    for target in targets:
        own, around = (frozenset[Name](), frozenset[Name]()) if target.place is None else target.place.names()
        hits = [owners[name] for name in own | around if name in owners] + [inside[n] for n in own if n in inside]
        if hits:
            raise DestinationError(
                f"the destination {target.name} is the source {hits[0]}, holds it or lies inside it; choose another one"
            )
        reasons = unknown if target.place is not None or not sources else ["the place of the destination", *unknown]
        if target.is_replaced and reasons:
            raise DestinationError(
                f"the destination {target.name} exists, and it cannot be known whether a source is read from there "
                f"({'; '.join(reasons[:3])}); choose another destination, or move it away yourself"
            )
