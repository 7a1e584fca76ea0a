"""A dask array is told from others by what it is computed from, and by which steps, not by the names of its tasks.

Names of tasks hold tokens, which may be random. So each layer of a graph has a digest, and stands by it where it is
named in another layer: the same program gives the same digest in another process, and the order of arguments counts.
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
from tilewright.identity.walk import UnknownPartsError, parts_of
from tilewright.stores.places import public_name

MOST_OBJECTS = 5_000_000
"""A graph of more objects is not compared."""
DIGESTED_NBYTES = 2**28
"""About as many bytes of arrays in a graph are read; of arrays that come after them, pieces."""
_PIECES_NBYTES = 2**16
_KEY = re.compile(r"(.+)-(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
"""What looks like the name of a task that is in no layer: its token is left out."""


def graph_identity(array: dask.array.Array, of_zarr: Callable[[zarr.Array[Any]], str]) -> str:
    """Return a digest of a dask array, and what of it could not be compared.

    Parameters
    ----------
    array : dask.array.Array
        It is not computed.
    of_zarr : callable
        Returns the identity of a Zarr array.

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
    """A graph of too many objects."""


class _Digests:
    """The digests of the objects in a graph."""

    def __init__(self, of_zarr: Callable[[zarr.Array[Any]], str]) -> None:
        self.not_compared: set[str] = set()
        self._of_zarr = of_zarr
        # Of each name of tasks, those tasks; a name that has its digest is no more in it.
        self._tasks: dict[str, Any] = {}
        self._digests: dict[str, str] = {}
        self._known: dict[int, tuple[Any, str]] = {}
        self._left_nbytes = DIGESTED_NBYTES

    def of(self, thing: Any) -> str:
        """Return the digest of an object."""
        if isinstance(thing, str):
            return self._of_name(thing)
        # Millions of these are in a large graph.
        if type(thing) in (int, float, bool, type(None), slice):
            return f"{type(thing).__name__} {thing!r}"
        if type(thing) is tuple:
            return digest_of("\n".join(["tuple", *map(self.of, thing)]))
        if id(thing) in self._known:
            return self._known[id(thing)][1]
        if len(self._known) >= MOST_OBJECTS:
            raise _TooLargeError(f"more than {MOST_OBJECTS} objects")
        # An object that holds itself stands for itself; the object is kept, so that its number stays its own.
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
        return self._of_collection(thing) if dask.base.is_dask_collection(thing) else self._of_memory(thing)

    def _of_memory(self, thing: Any) -> str | None:
        kind = type(thing)
        root = str(kind.__module__).partition(".")[0]
        if root == "torch" and hasattr(thing, "untyped_storage"):
            return self._of_tensor(thing)
        if root == "distributed" and kind.__name__ in {"Future", "Actor"}:
            self.not_compared.add("what a cluster holds")
            return name_of(kind)
        return None

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
        graph = collection.__dask_graph__()
        order = self._take_in(graph)
        for name in order:
            self._of_name(name)
        if isinstance(collection, dask.array.Array):
            return digest_of(f"{self._of_name(collection.name)} {collection.chunks} {collection.dtype}")
        return digest_of(f"{name_of(type(collection))} {self.of(collection.__dask_keys__())}")

    def _take_in(self, graph: Any) -> list[str]:
        """Note which tasks have which name, and return the names of the layers, those that others need first."""
        if not isinstance(graph, HighLevelGraph):
            self._take_in_tasks(graph)
            return []
        for name, layer in graph.layers.items():
            if isinstance(layer, MaterializedLayer):
                self._take_in_tasks(layer.mapping)
            else:
                self._tasks.setdefault(name, layer)
                if isinstance(layer, Blockwise):
                    # Inputs that are made from the place of a block have names too.
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
        """Return the digest of the tasks that have a name, or that of a text."""
        if text not in self._digests:
            tasks = self._tasks.get(text)
            if tasks is None:
                key = _KEY.fullmatch(text)
                return digest_of(f"text {text if key is None else key.group(1)}")
            # Tasks that need others of their own name need themselves.
            self._digests[text] = "itself"
            self._digests[text] = self.of(tasks)
        return self._digests[text]
