"""All places that a source is read from are known: stores, files and memory maps, also in graphs and functions.

A text anywhere in the source, such as an argument of a task, counts as a place if a file of that name exists. Other
places are listed as unknown, with a description.
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

from tilewright.conversion import is_array
from tilewright.identity.values import codes_of, name_of, names_in
from tilewright.identity.walk import (
    MOST_OBJECTS,
    UnknownPartsError,
    is_library,
    is_on_cluster,
    is_tensor,
    package_of,
    parts_of,
    walk,
)
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

_READING = re.compile(
    "open|load|loads|loadtxt|read|reader|readlines?|imread|memmap|mmap|fromfile|genfromtxt|environ|getenv|glob|iterdir|"
    "listdir|scandir|file|eval|exec|import|socket|connect|requests?|urlopen|subprocess|popen|system|fetch|download|"
    "query|getattr|stream|mapper|dataset"
)
"""Words in the names that a function uses if it may read files beyond its arguments."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_PATTERN = re.compile(r"[*?\[]")
_LONGEST_NAME = 4096
_ARRAYS_OF = {"numpy", "dask", "torch", "cupy", "scipy", "sparse", "pandas", "xarray", "tilewright"}
"""Packages whose arrays lie in memory, or are made of parts that are looked at."""
_WITHOUT_FILES = {"builtins", "dask", "zarr", "numpy"}
"""Packages whose objects do not hold files of their own."""


@dataclass(frozen=True)
class Unknown:
    """An input of a source whose place is unknown: its description, and a place that holds it, if there is one."""

    text: str
    within: Place | None = None


@dataclass
class SourcePlaces:
    """The known places that a source is read from, and its inputs whose places are unknown."""

    places: set[Place] = field(default_factory=set)
    unknown: list[Unknown] = field(default_factory=list)


def places_of(source: Any) -> SourcePlaces:
    """Return the places that a `Source`, path, store or array is read from; its elements are not read.

    Examples
    --------
    >>> places_of(np.zeros(3))
    SourcePlaces(places=set(), unknown=[])
    """
    search = _Search()
    if isinstance(source, Source):
        search.path(source.path)
        # That the function of the user reads the source is no reason for doubt: its path is known.
        search.may_read = True
        search.walk([getattr(source.reader, "function", None)])
        search.may_read = False
        was_open = source.reader.is_open
        try:
            search.walk([source.opened()])
        except Exception as error:
            search.note_unknown(f"it cannot be opened ({type(error).__name__})")
        if not was_open:
            source.close()
    elif isinstance(source, str | os.PathLike):
        search.path(source)
    else:
        search.walk([source])
    return SourcePlaces(search.places, list(search.unknown))


class _Search:
    """A search for places in all objects that are reached from an object."""

    def __init__(self) -> None:
        self.places: set[Place] = set()
        self.unknown: dict[Unknown, None] = {}
        self.may_read = False
        self._texts: set[str] = set()
        self._seen: dict[int, Any] = {}

    def walk(self, things: list[Any]) -> None:
        if not walk(things, self._visit, self._text, self._seen):
            self.note_unknown(f"a graph of more than {MOST_OBJECTS} objects")

    def path(self, path: str | os.PathLike[str] | None) -> None:
        if path is not None:
            self.places.add(place_of_path(path))

    def note_unknown(self, text: str, within: Place | None = None) -> None:
        self.unknown[Unknown(text, within)] = None

    def _visit(self, thing: Any) -> list[Any]:
        """Note the places of an object, and return the objects in it."""
        kind = type(thing)
        if kind in (list, dict) or kind.__module__ == "dask._task_spec":
            return self._inside(thing)
        for look in (self._stored, self._named):
            inside = look(thing)
            if inside is not None:
                return inside
        if isinstance(thing, FunctionType) and not is_library(thing):
            self._code(thing)
        if not isinstance(thing, type) and is_array(kind) and package_of(kind) not in _ARRAYS_OF:
            self.note_unknown(f"an array of the class {name_of(kind)}")
        return self._inside(thing)

    def _stored(self, thing: Any) -> list[Any] | None:
        """Note the place of a store or an array; return None for other objects."""
        if isinstance(thing, Store | StorePath):
            return self._store(thing, "")
        if isinstance(thing, zarr.Array | AsyncArray | zarr.Group | AsyncGroup):
            return self._store(thing.store_path.store, thing.store_path.path)
        if isinstance(thing, np.ndarray):
            return self._array(thing)
        if dask.base.is_dask_collection(thing):
            return [thing.__dask_graph__()]
        return [] if is_tensor(thing) else None

    def _named(self, thing: Any) -> list[Any] | None:
        """Note a path, an object that reads a file, or data on a cluster; return None for other objects."""
        if isinstance(thing, bytes | bytearray):
            if len(thing) <= _LONGEST_NAME:
                self._text(thing.decode("utf-8", "replace"))
        elif isinstance(thing, PurePath):
            self._text(str(thing))
        elif is_on_cluster(thing):
            # A cluster computes lost data again, from places that are unknown here.
            self.note_unknown(f"{name_of(type(thing))}, which a cluster holds")
        elif isinstance(thing, type) or package_of(type(thing)) in _WITHOUT_FILES or not self._file(thing):
            return None
        return []

    def _inside(self, thing: Any) -> list[Any]:
        try:
            return parts_of(thing).parts
        except UnknownPartsError as error:
            self.note_unknown(f"{type(thing).__qualname__}, which cannot be looked into ({error})")
            return []

    def _text(self, text: str) -> None:
        """Note the place that a text names, if it exists."""
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
                place = place_of_path(file)
                # A folder without Zarr metadata may be a setting, not an input: an output may lie inside it.
                is_folder = Path(file).is_dir() and not is_zarr(Path(file))
                self.places.add(replace(place, path=(*place.path, "*")) if is_folder else place)

    def _store(self, store: Any, path: str) -> list[Any]:
        if isinstance(store, StorePath):
            return self._store(store.store, f"{store.path}/{path}")
        place = place_of_store(store, path)
        if place is not None:
            self.places.add(place)
            if gives_other_names(store):
                text = f"the store {public_name(store)}, of the class {name_of(type(store))}"
                self.note_unknown(text, place_of_store(store))
            return []
        if type(store).__module__.startswith("tifffile"):
            for file in files_of_tiff_store(store):
                self.path(file)
            return []
        self.note_unknown(public_name(store))
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
                # The system may know the file of memory that another library has mapped.
                file = file_mapped_at(array.__array_interface__["data"][0])
                self.path(file)
                if file is None and isinstance(base, mmap.mmap):
                    self.note_unknown("a memory map without a name")
            base = below
        return []

    def _code(self, function: FunctionType) -> None:
        words = {word.lower() for name in names_in(function.__code__) for word in _WORDS.findall(name)}
        if not self.may_read and (reading := sorted(filter(_READING.fullmatch, words))):
            self.note_unknown(
                f"the function {function.__qualname__}, which may read files of its own (it uses {reading[0]!r})"
            )
        constants = [constant for code in codes_of(function.__code__) for constant in code.co_consts]
        self.walk([constant for constant in constants if isinstance(constant, str | tuple)])

    def _file(self, thing: Any) -> bool:
        """Note the files of an object: an open file, a data set of HDF5, a file of fsspec or tifffile."""
        if isinstance(thing, io.IOBase):
            name = getattr(thing, "name", None)
            if isinstance(name, str):
                self.path(name)
            elif not isinstance(thing, io.BytesIO | io.StringIO):
                self.note_unknown("an open file without a name")
            return True
        file_system = attribute(thing, "fs")
        path = attribute(thing, "path") or attribute(thing, "root")
        if hasattr(type(file_system), "protocol") and isinstance(path, str):
            place = place_in_file_system(file_system, path)
            if place is None:
                self.note_unknown(f"a file of {type(file_system).__name__}")
            else:
                self.places.add(place)
            return True
        files = list(files_named_by(thing))
        for file in files:
            self.path(file)
        return bool(files)
