"""How fast tiles that lie in memory become finished objects, how much memory that takes, and what is stored.

    python -m benchmarks.writing_path [--runs 5] [--folder DIR] [--codec NAME] [--workload NAME] [--peers NAME ...]

The volume is 1 GiB unless another shape is given, and shared by all. Each contestant of `benchmarks.contestants` is a
process of its own, with as many threads as there are processors; they write in turn, after a round to warm up. Bounds
and passes have the whole volume as one array and write it in whole chunks or shards, so that they never read anything
back; the others get tiles or blocks with halos. tilewright gets tiles in their order, and crops, assembles, writes and
records them. A ratio is how many times as long a contestant takes as tilewright in the same round, the median of all
rounds, since the machine is not equally fast in each. Slow contestants take part in less unless they are named; then
they take part in all that is asked for.
"""

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.contest import Outcome, compete
from benchmarks.contestants import WRITING_PATH, Contestant
from benchmarks.measure import median, save, table
from benchmarks.workloads import CODECS, WORKLOADS

SHARED_MEMORY = Path("/dev/shm")
HEAD = ["contestant", "MB/s", "seconds", "ratio", "peak MB", "files", "stored MB", "wrong voxels"]


def ratio(outcome: Outcome, ours: Outcome) -> float | None:
    """How many times as long as ours it takes, in the rounds that both took part in."""
    rounds = [theirs.seconds / own.seconds for theirs, own in zip(outcome.turns, ours.turns, strict=False)]
    return median(rounds) if rounds else None


def wrong(outcome: Outcome) -> str:
    if not outcome.wrong_voxels:
        return "not stored" if outcome.wrong_voxels is None else "0"
    return f"{outcome.wrong_voxels:,}, by {outcome.largest_difference:.1g} at most"


def row(outcome: Outcome, ours: Outcome, nbytes: int) -> list[str]:
    """One line of a table."""
    if not outcome.turns:
        return [outcome.name, *[""] * (len(HEAD) - 2), outcome.error or ""]
    seconds = median([turn.seconds for turn in outcome.turns])
    compared = ratio(outcome, ours)
    last = outcome.turns[-1]
    return [
        outcome.name,
        f"{nbytes / 1e6 / seconds:.0f}",
        f"{seconds:.2f}",
        "" if compared is None else f"{compared:.2f}",
        f"{median([turn.peak_nbytes for turn in outcome.turns]) / 1e6:.0f}",
        str(last.files),
        f"{last.stored_nbytes / 1e6:.0f}",
        outcome.error or wrong(outcome),
    ]


def hold_contests(
    name: str, description: str, contestants: tuple[Contestant, ...], prepare: Callable[[Path], None] = lambda _: None
) -> None:
    """Let contestants compete in all workloads that are asked for; the first one is what the others are compared with.

    `prepare` makes what they need beside the file of the volume.
    """
    parser = ArgumentParser(description=description)
    names = [contestant.name for contestant in contestants]
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--codec", choices=[codec.name for codec in CODECS])
    parser.add_argument("--workload", choices=[workload.name for workload in WORKLOADS])
    parser.add_argument("--peers", nargs="+", choices=names[1:], metavar="NAME", help=", ".join(names[1:]))
    parser.add_argument("--shape", type=int, nargs=3, default=WORKLOADS[0].shape, metavar=("Z", "Y", "X"))
    arguments = parser.parse_args()
    codecs = [codec for codec in CODECS if arguments.codec in (None, codec.name)]
    workloads = [workload for workload in WORKLOADS if arguments.workload in (None, workload.name)]
    results: list[dict[str, Any]] = []
    # In memory where there is a place for it, so that all processes share its pages, and none reads from the disk.
    with TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as shared:
        volume_path = Path(shared) / "volume.npy"
        volume = np.lib.format.open_memmap(volume_path, "w+", np.float32, tuple(arguments.shape))
        np.random.default_rng(0).random(out=volume, dtype=np.float32)
        volume.flush()
        prepare(volume_path)
        for codec, workload in product(codecs, [replace(w, shape=volume.shape) for w in workloads]):
            others = [c for c in contestants[1:] if c.takes_part(workload, codec, arguments.peers)]
            taking_part = [contestants[0], *others]
            outcomes = compete(taking_part, workload, codec, volume_path, arguments.folder, arguments.runs)
            ours = outcomes[0]
            print(f"\n{workload.name}, {codec.name}, {volume.nbytes / 2**20:.0f} MiB, {arguments.runs} rounds\n")
            print(table(HEAD, [row(outcome, ours, volume.nbytes) for outcome in outcomes]), flush=True)
            results.append(
                {
                    **asdict(workload),
                    "codec": codec.name,
                    "contestants": [{**outcome.as_json(), "ratio": ratio(outcome, ours)} for outcome in outcomes],
                }
            )
            # After each, so that a run that is ended early leaves what it has measured.
            path = save(name, results)
    print(f"\n{path}")


def main() -> None:
    hold_contests("writing_path", __doc__.splitlines()[0], WRITING_PATH)


if __name__ == "__main__":
    main()
