"""All places that a source is read from are known: stores, files and memory maps, also inside graphs and functions.

A name of a file that stands somewhere inside, in an argument of a task say, is taken for one that is read. What cannot
be known is said in words.
"""

import glob
import io
import mmap
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from types import FunctionType
from typing import Any

import dask.base
import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import StorePath

from tilewright.identity.values import name_of
from tilewright.identity.walk import PLAIN, UnknownPartsError, codes_of, is_library, parts_of
from tilewright.sources.file_names import attribute, file_mapped_at, files_named_by, files_of_tiff_store
from tilewright.sources.source import Source
from tilewright.stores.metadata import is_zarr
from tilewright.stores.places import (
    Place,
    gives_other_names,
    place_in_file_system,
    place_of_path,
    place_of_store,
    place_of_url,
    public_name,
)
from tilewright.stores.zarr_api import AsyncArray, AsyncGroup

MOST_OBJECTS = 5_000_000
"""With so many objects looked at, the rest of a graph is not known."""
_READING = re.compile(
    "open|load|loads|loadtxt|read|reader|readlines?|imread|memmap|mmap|fromfile|genfromtxt|environ|getenv|glob|iterdir|"
    "listdir|scandir|file|eval|exec|import|socket|connect|requests?|urlopen|subprocess|popen|system|fetch|download|"
    "query|getattr|stream|mapper|dataset"
)
"""Words in the names that a function uses, where it may read what stands in no argument."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_PATTERN = re.compile(r"[*?\[]")
_NUMBERS = frozenset((int, float, bool, type(None), slice))
_LONGEST_NAME = 4096
_ARRAYS_OF = {"numpy", "dask", "torch", "cupy", "scipy", "sparse", "pandas", "xarray"}
"""Packages of which arrays are in memory, or hold what they read in parts that are looked at."""


@dataclass(frozen=True)
class Unknown:
    """Something that a source stands on, of which the place is not known.

    Parameters
    ----------
    text : str
        What it is.
    within : Place, optional
        Where it lies at any rate.
    """

    text: str
    within: Place | None = None


@dataclass
class SourcePlaces:
    """The places that something is read from.

    Parameters
    ----------
    places : set of Place
        Those that are known.
    unknown : list of Unknown
        What may be read from a place that is not known.
    """

    places: set[Place] = field(default_factory=set)
    unknown: list[Unknown] = field(default_factory=list)


def places_of(source: Any) -> SourcePlaces:
    """Return the places that a source is read from.

    Parameters
    ----------
    source : Source, path, store or array
        It is not read.

    Examples
    --------
    >>> places_of(np.zeros(3))
    SourcePlaces(places=set(), unknown=[])
    """
    search = _Search()
    if isinstance(source, Source):
        search.path(source.path)
        search.walk_reader(source.read_function)
        try:
            search.walk([source.opened_once()])
        except Exception as error:
            search.unknown[Unknown(f"it cannot be opened ({type(error).__name__})")] = None
    elif isinstance(source, str | os.PathLike):
        search.path(source)
    else:
        search.walk([source])
    return SourcePlaces(search.places, list(search.unknown))


class _Search:
    """A walk through all that is reached from an object."""

    def __init__(self) -> None:
        self.places: set[Place] = set()
        self.unknown: dict[Unknown, None] = {}
        self._texts: set[str] = set()
        self._seen: dict[int, Any] = {}
        self._may_read = False

    def walk_reader(self, function: Any) -> None:
        """Walk through a function that is there to read a path, which is known: that it reads is no doubt."""
        self._may_read = True
        self.walk([function])
        self._may_read = False

    def walk(self, things: list[Any]) -> None:
        waiting = list(things)
        while waiting:
            thing = waiting.pop()
            kind = type(thing)
            # Millions of these are in a large graph.
            if kind is str or isinstance(thing, str):
                self._text(str(thing))
                continue
            if kind is tuple:
                waiting.extend(thing)
                continue
            if kind in _NUMBERS or isinstance(thing, PLAIN) or id(thing) in self._seen:
                continue
            # An object that is gone could leave its number to another one.
            self._seen[id(thing)] = thing
            if len(self._seen) > MOST_OBJECTS:
                self.unknown[Unknown(f"a graph of more than {MOST_OBJECTS} objects")] = None
                return
            waiting.extend(self._visit(thing))

    def path(self, path: str | os.PathLike[str] | None) -> None:
        if path is not None:
            self.places.add(place_of_path(path))

    def _visit(self, thing: Any) -> list[Any]:
        """Note what an object stands on, and return what is in it."""
        if type(thing) in (list, dict) or type(thing).__module__ == "dask._task_spec":
            return self._inside(thing)
        for look in (self._stored, self._text_of, self._elsewhere):
            inside = look(thing)
            if inside is not None:
                return inside
        if isinstance(thing, FunctionType) and not is_library(thing.__module__):
            self._code(thing)
        kind = type(thing)
        if not isinstance(thing, type) and _is_array_type(kind) and _root_of(kind) not in _ARRAYS_OF:
            self.unknown[Unknown(f"an array of the class {name_of(kind)}")] = None
        return self._inside(thing)

    def _stored(self, thing: Any) -> list[Any] | None:
        """Note a store, or an array."""
        if isinstance(thing, Store | StorePath):
            return self._store(thing, "")
        if isinstance(thing, zarr.Array | AsyncArray | zarr.Group | AsyncGroup):
            return self._store(thing.store_path.store, thing.store_path.path)
        if isinstance(thing, np.ndarray):
            return self._array(thing)
        if dask.base.is_dask_collection(thing):
            return [thing.__dask_graph__()]
        is_tensor = _root_of(type(thing)) == "torch" and hasattr(thing, "untyped_storage")
        return [] if is_tensor else None

    def _text_of(self, thing: Any) -> list[Any] | None:
        """Note what names a file."""
        if isinstance(thing, bytes | bytearray):
            if len(thing) <= _LONGEST_NAME:
                self._text(thing.decode("utf-8", "replace"))
            return []
        if isinstance(thing, PurePath):
            self._text(str(thing))
            return []
        return None

    def _elsewhere(self, thing: Any) -> list[Any] | None:
        """Note what reads a file, or what a cluster holds, which computes again what it has lost."""
        kind = type(thing)
        root = _root_of(kind)
        if root == "distributed" and kind.__name__ in {"Future", "Actor"}:
            self.unknown[Unknown(f"{name_of(kind)}, which a cluster holds")] = None
            return []
        is_file = not isinstance(thing, type) and root not in ("builtins", "dask", "zarr", "numpy")
        return [] if is_file and self._file(thing) else None

    def _inside(self, thing: Any) -> list[Any]:
        try:
            return parts_of(thing).parts
        except UnknownPartsError as error:
            self.unknown[Unknown(f"{type(thing).__qualname__}, which cannot be looked into ({error})")] = None
            return []

    def _text(self, text: str) -> None:
        """Note what a text names, if that is there."""
        if text in self._texts:
            return
        self._texts.add(text)
        if not 1 <= len(text) <= _LONGEST_NAME or not any(map(str.isalnum, text)) or not text.isprintable():
            return
        if "://" in text:
            place = place_of_url(text)
            self.places.update([] if place is None else [place])
            return
        path = str(Path(text).expanduser()) if text.startswith("~") else text
        is_pattern = "/" in path and _PATTERN.search(path) is not None and not os.path.lexists(path)
        for file in glob.glob(path) if is_pattern else [path]:  # noqa: PTH207
            if os.path.lexists(file):
                self._note_named(Path(file))

    def _note_named(self, path: Path) -> None:
        place = place_of_path(path)
        # A folder that is no Zarr may be one of many folders that a program knows: an output may lie in it, and may not
        # be around it.
        is_folder = path.is_dir() and not is_zarr(path)
        self.places.add(replace(place, path=(*place.path, "*")) if is_folder else place)

    def _store(self, store: Any, path: str) -> list[Any]:
        if isinstance(store, StorePath):
            return self._store(store.store, f"{store.path}/{path}")
        place = place_of_store(store, path)
        if place is not None:
            self.places.add(place)
            if gives_other_names(store):
                text = f"the store {public_name(store)}, of the class {name_of(type(store))}"
                self.unknown[Unknown(text, place_of_store(store))] = None
            return []
        if type(store).__module__.startswith("tifffile"):
            for file in files_of_tiff_store(store):
                self.path(file)
            return []
        self.unknown[Unknown(public_name(store))] = None
        return [vars(store)] if hasattr(store, "__dict__") else []

    def _array(self, array: np.ndarray[Any, Any]) -> list[Any]:
        if array.dtype.hasobject:
            return array.reshape(-1).tolist()
        base: Any = array
        while base is not None:
            if isinstance(base, np.memmap) and base.filename is not None:
                self.path(base.filename)
                return []
            below = base.base if isinstance(base, np.ndarray) else getattr(base, "obj", None)
            if below is None and not isinstance(base, np.ndarray | bytes | bytearray):
                # Of memory that others have made the system may know the file.
                file = file_mapped_at(array.__array_interface__["data"][0])
                self.path(file)
                if file is None and isinstance(base, mmap.mmap):
                    self.unknown[Unknown("a memory map without a name")] = None
            base = below
        return []

    def _code(self, function: FunctionType) -> None:
        codes = list(codes_of(function.__code__))
        words = {word.lower() for code in codes for name in code.co_names for word in _WORDS.findall(name)}
        if not self._may_read and (reading := sorted(filter(_READING.fullmatch, words))):
            text = f"the function {function.__qualname__}, which may read files of its own (it uses {reading[0]!r})"
            self.unknown[Unknown(text)] = None
        self.walk([constant for code in codes for constant in code.co_consts if isinstance(constant, str | tuple)])

    def _file(self, thing: Any) -> bool:
        """Note the file of what reads one: an open file, a dataset of HDF5, a file of fsspec or tifffile."""
        if isinstance(thing, io.IOBase):
            name = getattr(thing, "name", None)
            if isinstance(name, str):
                self.path(name)
            elif not isinstance(thing, io.BytesIO | io.StringIO):
                self.unknown[Unknown("an open file without a name")] = None
            return True
        file_system = attribute(thing, "fs")
        path = attribute(thing, "path") or attribute(thing, "root")
        if hasattr(type(file_system), "protocol") and isinstance(path, str):
            place = place_in_file_system(file_system, path)
            if place is None:
                self.unknown[Unknown(f"a file of {type(file_system).__name__}")] = None
            else:
                self.places.add(place)
            return True
        files = list(files_named_by(thing))
        for file in files:
            self.path(file)
        return bool(files)


def _root_of(kind: type) -> str:
    # Some types of C have no text there.
    return kind.__module__.partition(".")[0] if isinstance(kind.__module__, str) else "builtins"


def _is_array_type(kind: type) -> bool:
    return all(hasattr(kind, name) for name in ("shape", "dtype", "__getitem__"))
