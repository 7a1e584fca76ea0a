"""How many Dask tasks an image costs, and what tilewright's own loop costs the client for each, without any cluster.

    python -m benchmarks.task_counts

The loop, the coordinator and the executor are those of a run on a cluster; only the client is replaced, by one that
counts what is submitted and says at once that it is done. So what is counted is what is submitted, and the processor
time is that of tilewright alone, without Dask.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from math import prod
from time import process_time
from typing import Any, cast

import numpy as np
from distributed import Client

from benchmarks.measure import save, table
from benchmarks.simulated_cluster import WaitingWork, prediction_of_nothing
from tilewright.coordinator import Coordinator
from tilewright.executors.remote import RemoteExecutor
from tilewright.ledger.receipts import UnitReceipt
from tilewright.plan import WritePlan, plan_write
from tilewright.runs.run import Run
from tilewright.transport.shared_prediction import SharedPrediction

TERABYTE = 10**12


@dataclass(frozen=True)
class Image:
    """An image of about a terabyte: from there on units do not grow any more."""

    name: str
    shape: tuple[int, ...]
    axes: str
    tile_size: tuple[int, ...]
    overlap: tuple[int, ...]
    dtype: str

    def plan(self, layout: str) -> WritePlan:
        return plan_write(self.shape, self.axes, self.tile_size, self.overlap, dtype=self.dtype, layout=layout)


IMAGES = (
    Image("volume, float32", (2500, 10000, 10000), "ZYX", (64, 256, 256), (16, 64, 64), "float32"),
    Image("volume, uint8", (5000, 14000, 14300), "ZYX", (64, 256, 256), (16, 64, 64), "uint8"),
    Image("slide, float32", (500_000, 500_000), "YX", (512, 512), (64, 64), "float32"),
    Image("frames of 512 x 512, uint16", (1_900_000, 512, 512), "TYX", (256, 256), (32, 32), "uint16"),
)


@dataclass(frozen=True, eq=False)
class _DoneFuture:
    """A task that is done as soon as it is submitted."""

    key: Hashable
    value: Any
    status: str = "finished"

    def add_done_callback(self, callback: Callable[["_DoneFuture"], None]) -> None:
        callback(self)


class CountingClient:
    """As much of a client as the executor uses, that counts tasks by their kind."""

    status = "running"
    scheduler = "none"

    def __init__(self, threads: int) -> None:
        self.submitted: Counter[str] = Counter()
        self._threads = threads

    def submit(self, function: Callable[..., Any], names: Any, what: Any, *others: Any, **options: Any) -> _DoneFuture:
        kind = function.__name__.strip("_")
        self.submitted[kind] += 1
        return _DoneFuture(options["key"], None if kind == "predict" else UnitReceipt(what, 1, 0))

    def gather(self, futures: dict[str, _DoneFuture], errors: str) -> dict[str, Any]:
        return {name: future.value for name, future in futures.items()}

    def nthreads(self) -> dict[str, int]:
        return {"all": self._threads}

    def register_plugin(self, plugin: object) -> None:
        """There is no worker."""

    def unregister_worker_plugin(self, name: str) -> None:
        """There is no worker."""

    def cancel(self, futures: list[_DoneFuture]) -> None:
        """There is nothing to cancel."""


class NoRecords:
    """A recorder that keeps nothing."""

    def written(self, receipt: UnitReceipt) -> None:
        """Forget it."""

    def given_up(self, unit: int) -> None:
        raise SystemExit(f"unit {unit} was given up")

    def flush(self) -> None:
        """There is nothing to write down."""


@dataclass(frozen=True)
class Count:
    """What one image costs in one layout."""

    image: str
    asked_for: str
    layout: str
    terabytes: float
    unit_mebibytes: float
    units: int
    tiles: int
    planned_tasks: int
    submitted: dict[str, int]
    seconds: float

    @property
    def tasks(self) -> int:
        return sum(self.submitted.values())


def count(image: Image, layout: str) -> Count:
    """Run through a whole plan, and count."""
    plan = image.plan(layout)
    counting = CountingClient(threads=1000)
    client = cast(Client, counting)
    prediction = prediction_of_nothing()
    work = WaitingWork(plan, cast(Any, None), prediction)
    executor = RemoteExecutor(client, work, SharedPrediction(client, prediction))
    start = process_time()
    Run(Coordinator(plan), executor, NoRecords()).predict_and_write()
    seconds = process_time() - start
    nbytes = prod(plan.shape) * np.dtype(plan.dtype).itemsize
    return Count(
        image=image.name,
        asked_for=layout,
        layout=plan.layout,
        terabytes=nbytes / TERABYTE,
        unit_mebibytes=plan.largest_unit_nbytes / 2**20,
        units=plan.unit_count,
        tiles=plan.tile_count,
        planned_tasks=plan.task_count,
        submitted=dict(counting.submitted),
        seconds=seconds,
    )


def count_all() -> list[Count]:
    counts = []
    for image in IMAGES:
        chosen = image.plan("auto").layout
        for layout in ("aligned", "compact"):
            counts.append(count(image, layout))
            print(f"{image.name}, {layout}{', which is auto' if layout == chosen else ''}: {counts[-1]}", flush=True)
    return counts


def show(counts: list[Count]) -> str:
    """The counts, each for one terabyte of output."""
    rows = [
        [
            c.image,
            c.layout,
            f"{c.unit_mebibytes:.1f}",
            *(f"{number / c.terabytes:,.0f}" for number in (c.tiles, c.units, c.tasks, c.planned_tasks)),
            f"{c.seconds / c.tasks * 1e6:.0f}",
        ]
        for c in counts
    ]
    head = ["per terabyte of output", "layout", "largest unit MiB", "tiles", "units", "tasks", "tasks in the plan"]
    return table([*head, "client µs per task, without Dask"], rows)


def main() -> None:
    counts = count_all()
    print(show(counts))
    print(save("task_counts", [asdict(c) for c in counts]))


if __name__ == "__main__":
    main()
