"""What it costs to record what is stored, and how fast a finished output is verified.

    python -m benchmarks.ledger [--runs 9] [--folder DIR] [--codec NAME]

The writing path is that of `benchmarks.writing_path`, 1 GiB of tiles on the embedded cluster, with the ledger and
without: without lock, records and digests; uncompressed, and with the default codec. The cost is measured in two ways,
since two runs on a busy machine differ by more than a few percent: as the extra time of alternating runs, and as the
share of the processor time of one run that goes into digests, records, the lock and its guards.

Verifying is compared with zarr-python reading the same array in slabs of whole chunks or shards, with as many threads,
and checking nothing.
"""

import shutil
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any
from unittest.mock import PropertyMock, patch

import numpy as np
import zarr

import tilewright as tw
from benchmarks.measure import in_turn, median, save, table
from benchmarks.peers.tilewright_callback import tilewright_writer
from benchmarks.workloads import NONE, WORKLOADS, ZSTD, Codec, Workload
from tilewright.ledger.ledger import Ledger, LedgerFolder
from tilewright.locks.guard import FileGuard
from tilewright.locks.lock import WriterLock
from tilewright.objects.digest import ObjectDigest
from tilewright.outputs.output import Output
from tilewright.runs.output_run import OutputRun
from tilewright.transport.clients import open_embedded_cluster


def _only_counted(digest: ObjectDigest, piece: memoryview) -> None:
    """Take in the next bytes, and look at none of them."""
    digest.nbytes += piece.nbytes


@contextmanager
def no_ledger() -> Iterator[None]:
    with (
        patch.object(Output, "ledger", new_callable=PropertyMock, return_value=None),
        patch.object(ObjectDigest, "update", _only_counted),
    ):
        yield


@contextmanager
def counted(seconds: list[float]) -> Iterator[None]:
    """Append to a list the processor seconds of what is only there for the ledger."""
    parts = ((ObjectDigest, "update"), (FileGuard, "check"), (OutputRun, "flush"), (Ledger, "add_written"))
    parts += ((OutputRun, "lock"), (LedgerFolder, "begin"), (Ledger, "close"), (WriterLock, "release"))
    spent: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = thread_time()
            try:
                return function(*arguments, **options)
            finally:
                spent.append(thread_time() - start)

        return call

    nothing = timed(lambda: None)
    for _ in range(1000):
        nothing()
    clock = median(spent)
    spent.clear()
    with ExitStack() as patches:
        for owner, name in parts:
            patches.enter_context(patch.object(owner, name, timed(getattr(owner, name))))
        yield
    # To ask for the time costs as much as some of what is timed.
    seconds.append(sum(spent) - clock * len(spent))


def writing(workload: Workload, codec: Codec, volume: np.ndarray, folder: Path, runs: int) -> dict[str, Any]:
    """Seconds and processor seconds of the writing path with and without a ledger, in turn."""
    processor_seconds: dict[str, list[float]] = {"ledger": [], "no ledger": []}
    with open_embedded_cluster() as client:
        write = tilewright_writer(workload, codec, volume, client)

        def with_ledger(into: Path) -> None:
            start = process_time()
            write(into)
            processor_seconds["ledger"].append(process_time() - start)

        def without(into: Path) -> None:
            start = process_time()
            with no_ledger():
                write(into)
            processor_seconds["no ledger"].append(process_time() - start)

        write_both: dict[str, Callable[[Path], None]] = {"ledger": with_ledger, "no ledger": without}
        in_turn(write_both, folder, 1)
        processor_seconds = {name: [] for name in processor_seconds}
        seconds = in_turn(write_both, folder, runs)
        shares: list[float] = []
        for _ in range(runs):
            shutil.rmtree(folder, ignore_errors=True)
            spent: list[float] = []
            start = process_time()
            with counted(spent):
                write(folder)
            shares.append(spent[0] / (process_time() - start))
        (ledger,) = folder.rglob("*.ledger/0/*.ledger")
        nbytes = ledger.stat().st_size
    pairs = [a / b for a, b in zip(seconds["ledger"], seconds["no ledger"], strict=True)]
    processor_pairs = [a / b for a, b in zip(*processor_seconds.values(), strict=True)]
    return {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "extra_time": median(pairs) - 1,
        "extra_processor_time": median(processor_pairs) - 1,
        "share_of_processor_time": median(shares),
        "ledger_nbytes": nbytes,
    }


def verifying(workload: Workload, volume: np.ndarray, folder: Path, runs: int) -> dict[str, Any]:
    """Seconds to verify the output that lies in a folder, and to read it with zarr, in turn."""
    with open_embedded_cluster() as client:
        threads = sum(client.nthreads().values())
    group = folder / "prediction.zarr" / "0"
    seconds: dict[str, list[float]] = {"verify": [], "zarr": []}
    for _ in range(runs):
        start = perf_counter()
        if not tw.verify(group, progress=False).is_complete:
            raise SystemExit("the output is not complete")
        seconds["verify"].append(perf_counter() - start)
        array = zarr.open_array(group / "0", mode="r")
        depth = workload.objects[0]
        start = perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            slabs = pool.map(lambda at: array[at : at + depth].shape, range(0, workload.shape[0], depth))  # noqa: B023
            read = sum(shape[0] for shape in slabs)
        seconds["zarr"].append(perf_counter() - start)
        if read != workload.shape[0]:
            raise SystemExit("zarr has not read the whole array")
    speed = {name: volume.nbytes / 1e6 / median(values) for name, values in seconds.items()}
    return {"seconds": seconds, "megabytes_per_second": speed, "ratio": speed["verify"] / speed["zarr"]}


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--codec", choices=[NONE.name, ZSTD.name])
    parser.add_argument("--folder", type=Path, default=Path("benchmark-output"))
    arguments = parser.parse_args()
    volume = np.random.default_rng(0).random(WORKLOADS[0].shape, dtype=np.float32)
    head = ["", "codec", "ledger s", "no ledger s", "extra time", "extra processor time", "share of it", "ledger bytes"]
    head += ["verify MB/s", "zarr MB/s", "ratio"]
    results, rows = [], []
    codecs = [codec for codec in (NONE, ZSTD) if arguments.codec in (None, codec.name)]
    for codec, workload in product(codecs, WORKLOADS):
        written = writing(workload, codec, volume, arguments.folder, arguments.runs)
        verified = verifying(workload, volume, arguments.folder, arguments.runs)
        results.append({**asdict(workload), "codec": codec.name, "writing": written, "verifying": verified})
        rows.append(
            [
                workload.name,
                codec.name,
                *(f"{median(values):.2f}" for values in written["seconds"].values()),
                f"{written['extra_time']:+.1%}",
                f"{written['extra_processor_time']:+.1%}",
                f"{written['share_of_processor_time']:.1%}",
                str(written["ledger_nbytes"]),
                *(f"{value:.0f}" for value in verified["megabytes_per_second"].values()),
                f"{verified['ratio']:.2f}",
            ]
        )
        print(table(head, rows[-1:]), flush=True)
    print(f"\nmedians of {arguments.runs} alternating runs, and of the ratios of each pair")
    print(table(head, rows))
    print(save("ledger", results))


if __name__ == "__main__":
    main()
