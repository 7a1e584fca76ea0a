"""Images are written as units of one plan: by the coordinator, the executors and the loop that write Zarr, too.

Tiles wait with the executor for the rest of their image, and images are written while the next ones are predicted.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from dask.delayed import delayed
from distributed import Client, Future

from tilewright.assemble import AnyArray
from tilewright.coordinator import Coordinator, RetryPolicy
from tilewright.errors import ClusterGoneError, ImageWriteError
from tilewright.executors.executor import Executor
from tilewright.executors.in_process import InProcessExecutor
from tilewright.executors.remote import RemoteExecutor
from tilewright.executors.serial import SerialExecutor
from tilewright.executors.work import Work
from tilewright.images.image_plan import ImagePlan
from tilewright.images.image_writer import ImageWriter, WriteFunc, write_error
from tilewright.images.stitching import ImageStitching
from tilewright.ledger.receipts import UnitReceipt
from tilewright.objects.unit_writer import StoredUnit
from tilewright.runs.run import Run
from tilewright.transport.clients import memory_for_tiles, shares_memory
from tilewright.transport.remote_tiles import TileCopies
from tilewright.transport.scatter import fetch_on_worker
from tilewright.transport.sendable import sendable_errors

_log = logging.getLogger(__name__)

COPIES_SHARE = 2
"""Share of the budget, or of free memory, for copies of tiles: one part in so many. The rest lie in a file."""


class ImageWrites:
    """Write images on a cluster while the next ones are predicted, or, without one, at once.

    Parameters
    ----------
    client : distributed.Client or None
        A client of the cluster.
    names : sequence of str
        Names of the images.
    paths : sequence of Path
        Their files.
    folder : Path
        Folder of the files, where copies of tiles lie too if they need a file.
    write_func : callable
        Writes an image.
    write_func_kwargs : dict
        Further keywords of the function.
    memory_nbytes : int, optional
        Bytes of tiles that a cluster may hold before prediction waits for images that are being written. One image is
        held whole, whatever it takes. By default half the memory of the workers.
    """

    def __init__(
        self,
        client: Client | None,
        names: Sequence[str],
        paths: Sequence[Path],
        folder: Path,
        write_func: WriteFunc,
        write_func_kwargs: dict[str, Any],
        memory_nbytes: int | None = None,
    ) -> None:
        self._names = names
        self._paths = paths
        self._errors: list[ImageWriteError] = []
        self._is_local = client is None
        free_nbytes = int(psutil.virtual_memory().available)
        if memory_nbytes is None:
            # Workers that have no limit, or have not come yet, are taken for no larger than this process may become.
            memory_nbytes = (client and memory_for_tiles(client)) or free_nbytes // 2
        self._plan = ImagePlan(names, 2**63 if client is None else memory_nbytes)
        self._writer = ImageWriter(write_func, write_func_kwargs)
        work = Work(self._plan, self._writer)
        executor: Executor
        if client is None:
            executor = SerialExecutor(Work(self._plan, _OnThreads(self._writer)))
        elif shares_memory(client):
            executor = InProcessExecutor(client, work)
        else:
            copies = TileCopies(folder, min(memory_nbytes, free_nbytes) // COPIES_SHARE)
            executor = _ClusterExecutor(client, work, self._writer, copies)
        # What fails in itself would fail again.
        self._run = Run(Coordinator(self._plan, policy=RetryPolicy(attempts=1)), executor, self)

    @property
    def live_nbytes(self) -> int:
        """Bytes of tiles that are held."""
        return self._run.coordinator.live_nbytes

    def held(self, tiles: Sequence[int]) -> list[Any]:
        """Return tiles that were handed over, or their futures."""
        return self._run.executor.held(tiles)

    def hand_over(self, images: Sequence[int], tiles: Sequence[AnyArray]) -> list[int]:
        """Take in tiles of images, which must not change, and return their numbers; wait while too much is held.

        Raises
        ------
        ImageWriteError
            If images failed, and none was written.
        """
        numbers = [self._plan.add(image, tile.nbytes) for image, tile in zip(images, tiles, strict=True)]
        with self._raising_write_errors():
            self._run.hand_over(numbers, tiles)
        return numbers

    def write(self, images: Mapping[int, ImageStitching]) -> None:
        """Write images of which all tiles were handed over.

        Raises
        ------
        ImageWriteError
            As in `hand_over`; without a cluster, if some could not be written.
        """
        for image, stitching in images.items():
            self._writer.images[image] = stitching, self._paths[image]
            self._plan.complete(image)
        with self._raising_write_errors():
            for image in images:
                self._run.tiles_counted(image)
        if self._is_local and (errors := self.finish()):
            raise joined(errors)

    def finish(self) -> list[ImageWriteError]:
        """Wait until all images are written, and return the errors of those that could not be."""
        while not self._run.coordinator.is_idle:
            known_count = len(self._errors)
            try:
                self._run.finish()
            except ClusterGoneError as error:
                unwritten = [self._error(image, "the cluster is gone") for image in self._plan.unwritten()]
                raise ClusterGoneError("; ".join(map(str, [error, *unwritten]))) from error
            except Exception:
                # That of an image is kept, and others are still being written.
                if len(self._errors) == known_count:
                    raise
        errors, self._errors = self._errors, []
        return errors

    def close(self) -> None:
        """Wait for the images that are being written, since all of their tiles are there, and let go of the rest."""
        try:
            for error in self.finish():
                _log.error("%s", error)
        except ClusterGoneError as error:
            _log.error("%s", error)
        finally:
            self._run.executor.close()

    # What the loop records.

    def written(self, receipt: UnitReceipt) -> None:
        """Let go of an image that is written."""
        self._forget(receipt.unit)

    def given_up(self, unit: int) -> None:
        """Keep the error of an image that could not be written."""
        failure = self._run.coordinator.given_up[unit]
        cause = self._run.executor.error_behind(failure)
        if not isinstance(cause, ImageWriteError):
            error = self._error(unit, failure.reason)
            error.__cause__ = cause
            cause = error
        self._errors.append(cause)
        self._forget(unit)

    def flush(self) -> None:
        """Do nothing: there is no ledger."""

    def check(self) -> None:
        """Do nothing: there is no lock."""

    def _forget(self, image: int) -> None:
        del self._writer.images[image]
        self._plan.forget(image)

    @contextmanager
    def _raising_write_errors(self) -> Iterator[None]:
        """Raise the errors of all images that failed, where the loop ends with that of the last one."""
        try:
            yield
        except ClusterGoneError:
            raise
        except Exception:
            errors, self._errors = self._errors, []
            if not errors:
                raise
            raise joined(errors) from errors[0].__cause__

    def _error(self, image: int, reason: str) -> ImageWriteError:
        return write_error(self._names[image], self._paths[image], reason)


@dataclass(frozen=True)
class _OnThreads:
    """Writer of images on Dask's threads in this process."""

    writer: ImageWriter

    def write_tiles(self, unit: int, tiles: Mapping[int, AnyArray]) -> StoredUnit:
        graph = delayed(partial(self.writer.write_tiles, unit, tiles), pure=False)()
        stored: StoredUnit = graph.compute(scheduler="threads")
        return stored

    def stored_tile(self, unit: int) -> AnyArray:
        """Refuse, as the writer does."""
        return self.writer.stored_tile(unit)


class _ClusterExecutor(RemoteExecutor):
    """Executor of a cluster, which sends along what an image is, and brings tiles of a lazy image when it is looked at.

    Parameters
    ----------
    client, work, copies
        As in `RemoteExecutor`.
    writer : ImageWriter
        Writer of the work.
    """

    def __init__(self, client: Client, work: Work, writer: ImageWriter, copies: TileCopies) -> None:
        super().__init__(client, work, copies=copies)
        self._writer = writer

    def _write_task(
        self, unit: int, tiles: tuple[int, ...], futures: list[Future[Any]], where: list[tuple[int, int | None]]
    ) -> Future[Any]:
        # As dependencies of a task, all tiles would be brought to its worker at once.
        values: list[Any] = [future.key for future in futures] if self._writer.is_lazy else futures
        writer = replace(self._writer, images={unit: self._writer.images[unit]}, fetch=fetch_on_worker)
        return self._submit_task("write", unit, _write_image, writer, unit, tiles, values)


@sendable_errors
def _write_image(
    _names: object, writer: ImageWriter, unit: int, tiles: tuple[int, ...], values: list[Any]
) -> UnitReceipt:
    return writer.write_tiles(unit, dict(zip(tiles, values, strict=True))).receipt


def joined(errors: Sequence[ImageWriteError], also: Sequence[str] = ()) -> ImageWriteError:
    """Return one error of several, which names each image and file, and says what else is wrong."""
    if len(errors) == 1 and not also:
        return errors[0]
    error = ImageWriteError("; ".join([*map(str, errors), *also]))
    error.__cause__ = errors[0].__cause__
    return error
