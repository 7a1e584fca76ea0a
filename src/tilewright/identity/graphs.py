"""The identity of a dask array covers its inputs and its steps, but not its task names, which may hold random tokens.

Each layer of a graph has a digest, which replaces its name in other layers. So the same program gives the same digest
in another process. The order of arguments counts.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dask.array
import dask.base
import numpy as np
import zarr
from dask.blockwise import Blockwise
from dask.core import toposort
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from zarr.abc.store import Store
from zarr.storage import StorePath

from tilewright.identity.values import array_digest, digest_of, name_of
from tilewright.identity.walk import MOST_OBJECTS, NUMBERS, UnknownPartsError, is_on_cluster, is_tensor, parts_of
from tilewright.stores.places import public_name

DIGESTED_NBYTES = 2**28
"""Bytes of the arrays in a graph that are digested in full; of further arrays, only pieces are."""
_PIECES_NBYTES = 2**16
_KEY = re.compile(r"(.+)-(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
"""Pattern of a task name, with a token at its end, which is left out."""


def graph_identity(array: dask.array.Array, of_zarr: Callable[[zarr.Array[Any]], str]) -> str:
    """Return a digest of a dask array, and the types in it that cannot be compared; `of_zarr` identifies Zarr arrays.

    Examples
    --------
    >>> one, other = (dask.array.ones(3) + value for value in (1, 2))
    >>> graph_identity(one, str) == graph_identity(other, str)
    False
    """
    walk = _Digests(of_zarr)
    try:
        digest = walk.of(array)
    except (RecursionError, _TooLargeError) as error:
        return f"dask array, not compared ({error or 'nested too deeply'})"
    left_out = f", not compared: {', '.join(sorted(walk.not_compared))}" if walk.not_compared else ""
    return f"dask array {digest}{left_out}"


class _TooLargeError(Exception):
    """A graph with too many objects."""


class _Digests:
    """The digests of the objects in a graph."""

    def __init__(self, of_zarr: Callable[[zarr.Array[Any]], str]) -> None:
        self.not_compared: set[str] = set()
        self._of_zarr = of_zarr
        # The tasks of each layer, by its name.
        self._tasks: dict[str, Any] = {}
        self._digests: dict[str, str] = {}
        self._known: dict[int, tuple[Any, str]] = {}
        self._left_nbytes = DIGESTED_NBYTES

    def of(self, thing: Any) -> str:
        """Return the digest of an object."""
        if isinstance(thing, str):
            return self._of_name(thing)
        # First the many small values of a large graph.
        if type(thing) in NUMBERS:
            return f"{type(thing).__name__} {thing!r}"
        if type(thing) is tuple:
            return digest_of("\n".join(["tuple", *map(self.of, thing)]))
        if id(thing) in self._known:
            return self._known[id(thing)][1]
        if len(self._known) >= MOST_OBJECTS:
            raise _TooLargeError(f"more than {MOST_OBJECTS} objects")
        # "itself" ends the recursion of an object that holds itself. The object is kept, so that its `id` stays unique.
        self._known[id(thing)] = thing, "itself"
        digest = self._of_stored(thing) or self._of_parts(thing)
        self._known[id(thing)] = thing, digest
        return digest

    def _of_stored(self, thing: Any) -> str | None:
        if isinstance(thing, np.ndarray) and not thing.dtype.hasobject:
            return self._of_array(thing)
        if isinstance(thing, zarr.Array):
            return digest_of(f"{self._of_zarr(thing)} in {public_name(thing.store, thing.path)}")
        if isinstance(thing, Store | StorePath):
            return digest_of(f"store {public_name(thing)}")
        if dask.base.is_dask_collection(thing):
            return self._of_collection(thing)
        if is_on_cluster(thing):
            self.not_compared.add("what a cluster holds")
            return name_of(type(thing))
        return self._of_tensor(thing) if is_tensor(thing) else None

    def _of_array(self, array: np.ndarray[Any, Any]) -> str:
        nbytes = array.nbytes if array.nbytes <= self._left_nbytes else _PIECES_NBYTES
        self._left_nbytes -= min(nbytes, self._left_nbytes)
        return f"{array.dtype.str} {array_digest(array, nbytes)}"

    def _of_tensor(self, tensor: Any) -> str:
        try:
            return self._of_array(tensor.detach().cpu().numpy())
        except (TypeError, RuntimeError):
            self.not_compared.add(f"a tensor of {tensor.dtype}")
            return f"{tensor.dtype} {tuple(tensor.shape)}"

    def _of_parts(self, thing: Any) -> str:
        try:
            found = parts_of(thing)
        except UnknownPartsError:
            self.not_compared.add(name_of(type(thing)))
            return name_of(type(thing))
        digests: Iterator[str] | list[str] = map(self.of, found.parts)
        return digest_of("\n".join([found.label, *(digests if found.is_ordered else sorted(digests))]))

    def _of_collection(self, collection: Any) -> str:
        for name in self._take_in(collection.__dask_graph__()):
            self._of_name(name)
        if isinstance(collection, dask.array.Array):
            return digest_of(f"{self._of_name(collection.name)} {collection.chunks} {collection.dtype}")
        return digest_of(f"{name_of(type(collection))} {self.of(collection.__dask_keys__())}")

    def _take_in(self, graph: Any) -> list[str]:
        """Collect the tasks by name, and return the names of the layers in the order of their dependencies."""
        if not isinstance(graph, HighLevelGraph):
            self._take_in_tasks(graph)
            return []
        for name, layer in graph.layers.items():
            if isinstance(layer, MaterializedLayer):
                self._take_in_tasks(layer.mapping)
            else:
                self._tasks.setdefault(name, layer)
                if isinstance(layer, Blockwise):
                    # Inputs made from the position of a block have random names too.
                    for number, key in enumerate(layer.io_deps):
                        self._digests.setdefault(str(key), f"input {number}")
        return list(toposort(graph.dependencies))

    def _take_in_tasks(self, tasks: Mapping[Any, Any]) -> None:
        by_name: dict[str, dict[Any, Any]] = {}
        for key, task in tasks.items():
            name, *position = key if isinstance(key, tuple) else (key,)
            by_name.setdefault(str(name), {})[tuple(position)] = task
        for name, of_name in by_name.items():
            self._tasks.setdefault(name, of_name)

    def _of_name(self, text: str) -> str:
        """Return the digest of the tasks of this name; without such tasks, that of the text."""
        if text not in self._digests:
            tasks = self._tasks.get(text)
            if tasks is None:
                key = _KEY.fullmatch(text)
                return digest_of(f"text {text if key is None else key.group(1)}")
            # "itself" ends the recursion of tasks that need other tasks of their name.
            self._digests[text] = "itself"
            self._digests[text] = self.of(tasks)
        return self._digests[text]
