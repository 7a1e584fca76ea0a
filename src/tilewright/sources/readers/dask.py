"""A dask array is computed window by window, after the Zarr arrays in its graph are checked."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import dask.array
import numpy as np
import zarr
from dask.core import flatten
from distributed import Client, Future, get_client

from tilewright.assemble import AnyArray
from tilewright.errors import SourceError
from tilewright.identity.walk import UnknownPartsError, parts_of, walk
from tilewright.sources.readers.reader import Reader, Slices, owned
from tilewright.sources.readers.zarr import make_absolute, reopened
from tilewright.stores.metadata import array_metadata

_NOT_IN_LOADERS = (
    "a dask array that is persisted on a cluster is read on its workers only, not in data-loader workers; use "
    "num_workers=0, or pass the array as it was before persist()"
)


@dataclass
class DaskReader(Reader):
    """Reader of a dask array, which may be persisted on the cluster of the run."""

    array: dask.array.Array | None
    _zarr_arrays: list[zarr.Array[Any]] = field(init=False)
    _is_checked: bool = field(default=False, init=False)
    _process: int = field(default_factory=os.getpid, init=False)
    # Name of the published data set from which workers get a persisted array; the array itself stays behind.
    _published_as: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.array is None:
            raise TypeError("there is no array")
        if np.isnan(self.array.shape).any():
            raise SourceError(
                f"the dask array has chunks of unknown sizes, its shape is {self.array.shape}; call "
                "array.compute_chunk_sizes() first"
            )
        if isinstance(self.array._meta, np.ma.MaskedArray):
            raise SourceError(
                "the dask array is masked, and its mask would be dropped; fill it first: dask.array.ma.filled(array, 0)"
            )
        self._zarr_arrays = _zarr_arrays_in(self.array.__dask_graph__())
        for array in self._zarr_arrays:
            make_absolute(array.store)

    def open(self) -> dask.array.Array:
        """Return the array, after a check of the Zarr arrays in its graph."""
        if self.array is None:
            # On a worker: the client has published the array.
            try:
                self.array = get_client().get_dataset(self._published_as)
            except (KeyError, ValueError) as error:
                reason = f"this process does not see the persisted parts of the dask array: {error}"
                raise SourceError(reason) from error
            self._process = os.getpid()
        if not self._is_checked:
            for array in self._zarr_arrays:
                # A missing array would read as its fill value.
                reopened(array.store, array.path, array_metadata(array))
            self._is_checked = True
        return self.array

    def read(self, slices: Slices) -> AnyArray:
        """Return a window."""
        window = self.open()[slices]
        keys = list(flatten(window.__dask_keys__()))
        graph = dict(window.__dask_graph__().cull(set(keys)))
        held = {key: value for key, value in graph.items() if isinstance(value, Future)}
        if held:
            if os.getpid() != self._process:
                # A client in a forked process never answers.
                raise SourceError(_NOT_IN_LOADERS)
            graph |= zip(held, next(iter(held.values())).client.gather(list(held.values())), strict=True)
            window = dask.array.Array(graph, window.name, window.chunks, window.dtype, meta=window._meta)
        # In this thread of a worker: other tasks keep the other cores busy.
        return owned(window.compute(scheduler="synchronous"))

    @contextmanager
    def held_by(self, client: Client, look: Callable[[], None]) -> Iterator[None]:
        """Wait until the cluster of the run has computed all persisted parts, and let its workers find them.

        `look` is called once a second, and raises if the run must end. SourceError is raised if another cluster holds
        the parts, or a part has failed.
        """
        futures = self._futures()
        if not futures:
            yield
            return
        theirs, ours = _address_of(futures[0].client), _address_of(client)
        if theirs != ours and not ours.startswith("inproc://"):
            raise SourceError(
                f"the dask array is persisted on the cluster {theirs}, but the run uses {ours}; pass the client of "
                "that cluster"
            )
        _wait_for(futures, look)
        with ExitStack() as published:
            if not ours.startswith("inproc://"):
                self._published_as = f"tilewright-{uuid.uuid4().hex}"
                client.publish_dataset(self.array, name=self._published_as)
                published.callback(_forget, client, self._published_as)
            yield

    def __getstate__(self) -> dict[str, Any]:
        array = None if self._published_as else self.array
        if array is not None and self._futures():
            raise TypeError(_NOT_IN_LOADERS)
        return {**self.__dict__, "array": array, "_is_checked": False}

    def _futures(self) -> list[Future[Any]]:
        """Return the persisted parts of the array."""
        graph = {} if self.array is None else dict(self.array.__dask_graph__())
        return [value for value in graph.values() if isinstance(value, Future)]


def _wait_for(futures: list[Future[Any]], look: Callable[[], None]) -> None:
    while waiting := [future for future in futures if future.status == "pending"]:
        look()
        with suppress(TimeoutError):
            waiting[0].exception(timeout=1.0)
    failed = next((future for future in futures if future.status != "finished"), None)
    if failed is not None:
        raise SourceError(f"the dask array is persisted, and its part {failed.key} is {failed.status}")


def _address_of(client: Client) -> str:
    scheduler: Any = client.scheduler
    return str(scheduler.address)


def _forget(client: Client, name: str) -> None:
    if client.status == "running":
        with suppress(Exception):
            client.unpublish_dataset(name)


def _zarr_arrays_in(graph: Any) -> list[zarr.Array[Any]]:
    """Return the Zarr arrays in a graph; in a graph that is too large, those found first."""
    found: list[zarr.Array[Any]] = []

    def look(thing: Any) -> list[Any]:
        if isinstance(thing, zarr.Array):
            found.append(thing)
        elif not isinstance(thing, np.ndarray | Future):
            with suppress(UnknownPartsError):
                return parts_of(thing).parts
        return []

    walk([graph], look)
    return found
