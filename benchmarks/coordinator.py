"""How many events a second the coordinator takes in, what it remembers of a tile, and what a plan of 10**9 tiles takes.

    python -m benchmarks.coordinator [--tiles 10000000] [--runs 5]

The coordinator is driven by itself: what it asks for has happened at once, and there is neither a model nor a store.
An event is one tile that is predicted, or one unit that is written; the time is that of the processor. What a waiting
tile takes is what the coordinator allocates while all tiles come and no unit is written, with its open units.
"""

import tracemalloc
from argparse import ArgumentParser
from collections import deque
from dataclasses import replace
from time import process_time

from benchmarks.measure import median, save, table
from tilewright.coordinator import (
    Coordinator,
    DeliverTiles,
    Event,
    Instruction,
    ProduceUnit,
    StartAdmitting,
    TilesPredicted,
    UnitWritten,
    WriteUnit,
)
from tilewright.plan import WritePlan, plan_write

TILE_SIZE = (64, 256, 256)
OVERLAP = (16, 64, 64)
LAYOUTS = ("compact", "aligned")
HUGE = 10**9
WAITING = 20_000


def plan_of(tile_count: int, layout: str) -> WritePlan:
    """Return the plan of a volume of about so many tiles, as many on each axis."""
    per_axis = max(1, round(tile_count ** (1 / 3)))
    shape = tuple(per_axis * (tile - shared) for tile, shared in zip(TILE_SIZE, OVERLAP, strict=True))
    return plan_write(shape, "ZYX", TILE_SIZE, OVERLAP, layout=layout)


def answers(instruction: Instruction) -> list[Event]:
    """Return what happens when an instruction is carried out."""
    match instruction:
        case DeliverTiles(tiles):
            return [TilesPredicted((tile,), (tile,)) for tile in tiles]
        case WriteUnit(unit) | ProduceUnit(unit):
            return [UnitWritten(unit, None)]
    return []


def events_per_second(plan: WritePlan) -> float:
    """Let a coordinator finish a plan, and return how fast it was."""
    coordinator = Coordinator(plan)
    waiting: deque[Event] = deque([StartAdmitting()])
    count = 0
    start = process_time()
    while waiting:
        for instruction in coordinator.handle(waiting.popleft()):
            waiting.extend(answers(instruction))
        count += 1
    seconds = process_time() - start
    if not coordinator.is_complete:
        raise SystemExit("the coordinator did not finish")
    return count / seconds


def bytes_per_waiting_tile() -> float:
    """Let all tiles of a plan come while no unit is written, and return what is remembered for each."""
    plan = plan_of(WAITING, "compact")
    plan = replace(plan, window_nbytes=plan.output_nbytes)
    coordinator = Coordinator(plan)
    events = [event for asked in coordinator.handle(StartAdmitting()) for event in answers(asked)]
    # The numbers of tiles are the dataset's, and would be there anyway.
    del coordinator
    coordinator = Coordinator(plan)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for event in events:
        coordinator.handle(event)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(events)


def planning_seconds() -> float:
    """Return what it takes to plan a volume of a billion tiles, and to ask for the tiles of its last unit."""
    start = process_time()
    plan = plan_of(HUGE, "auto")
    plan.tiles_of_unit(plan.unit_count - 1)
    plan.units_of_tile(plan.tile_count - 1)
    return process_time() - start


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=10**7)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    results, rows = [], []
    for layout in LAYOUTS:
        plan = plan_of(arguments.tiles, layout)
        rates = [events_per_second(plan) for _ in range(arguments.runs)]
        results.append(
            {"layout": layout, "tiles": plan.tile_count, "units": plan.unit_count, "events_per_second": rates}
        )
        rows.append([layout, f"{plan.tile_count:,}", f"{plan.unit_count:,}", f"{median(rates):,.0f}"])
        print(table(["layout", "tiles", "units", "events a second"], rows[-1:]), flush=True)
    waiting_nbytes = bytes_per_waiting_tile()
    seconds = [planning_seconds() for _ in range(arguments.runs)]
    print(f"\nmedians of {arguments.runs} runs")
    print(table(["layout", "tiles", "units", "events a second"], rows))
    print(f"{waiting_nbytes:.0f} bytes for each waiting tile; a plan of 10**9 tiles takes {median(seconds):.2f} s")
    print(save("coordinator", {"layouts": results, "waiting_nbytes": waiting_nbytes, "planning_seconds": seconds}))


if __name__ == "__main__":
    main()
