"""How many events a second the coordinator takes in, what it remembers of a tile, and what a plan of 10**9 tiles takes.

    python -m benchmarks.coordinator [--tiles 10000000] [--runs 5]

The coordinator is driven by itself: what it asks for has happened at once, and there is neither a model nor a store.
An event is one tile that is predicted, or one unit that is written; the time is that of the processor. What a waiting
tile takes is what the coordinator allocates while all tiles come and no unit is written, with its open units.

The bound is a loop that counts what is missing, and nothing else: it gets the same events and gives the same
instructions, but knows neither failures nor states nor memory, and finds each relation worked out in a list, which
takes some 400 bytes for each tile of the volume: 4 GB of 10**7 tiles.
"""

import tracemalloc
from argparse import ArgumentParser
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import process_time

from benchmarks.measure import median, save, table
from tilewright.coordinator import (
    Coordinator,
    DeliverTiles,
    Event,
    Instruction,
    ProduceUnit,
    RecordReceipt,
    ReleaseTile,
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
HEAD = ["layout", "tiles", "units", "events a second", "bound"]


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


def per_second(handle: Callable[[Event], list[Instruction]], first: Iterable[Event], expected: int) -> float:
    """Let all happen that follows from some events, and return how many events a second were handled."""
    waiting = deque(first)
    count = 0
    start = process_time()
    while waiting:
        for instruction in handle(waiting.popleft()):
            waiting.extend(answers(instruction))
        count += 1
    seconds = process_time() - start
    if count != expected:
        raise SystemExit(f"{count} events have happened instead of {expected}")
    return count / seconds


def event_count(plan: WritePlan) -> int:
    """Return how many tiles and units are told of."""
    return plan.unit_count if plan.units_are_independent else plan.tile_count + plan.unit_count


def events_per_second(plan: WritePlan) -> float:
    """Let a coordinator finish a plan, and return how fast it was."""
    coordinator = Coordinator(plan)
    rate = per_second(coordinator.handle, [StartAdmitting()], 1 + event_count(plan))
    if not coordinator.is_complete:
        raise SystemExit("the coordinator did not finish")
    return rate


def bound_per_second(plan: WritePlan) -> float:
    """Let a loop that only counts finish a plan, and return how fast it was."""
    units_of = [plan.units_of_tile(tile) for tile in range(plan.tile_count)]
    tiles_of = [plan.tiles_of_unit(unit) for unit in range(plan.unit_count)]
    missing, needed = list(map(len, tiles_of)), list(map(len, units_of))
    starting_in = [plan.tiles_starting_in(unit) for unit in range(plan.unit_count)]

    def ask_for(unit: int) -> Instruction:
        if plan.units_are_independent:
            return ProduceUnit(unit, 1)
        starting = starting_in[unit]
        return DeliverTiles(starting)

    def handle(event: Event) -> list[Instruction]:
        instructions: list[Instruction] = []
        match event:
            case TilesPredicted((tile,)):
                for unit in units_of[tile]:
                    missing[unit] -= 1
                    if not missing[unit]:
                        instructions.append(WriteUnit(unit, 1, tiles_of[unit], tiles_of[unit]))
            case UnitWritten(unit, receipt):
                instructions.append(RecordReceipt(unit, receipt))
                if not plan.units_are_independent:
                    for tile in tiles_of[unit]:
                        needed[tile] -= 1
                        if not needed[tile]:
                            instructions.append(ReleaseTile(tile, tile))
                if unit + at_once < plan.unit_count:
                    instructions.append(ask_for(unit + at_once))
        return instructions

    # Some units are asked for at once, and a further one whenever one is written.
    at_once = min(plan.unit_count, plan.largest_unit_distance + 1)
    first = [event for unit in range(at_once) for event in answers(ask_for(unit))]
    return per_second(handle, first, event_count(plan))


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
        rates, bounds = [], []
        for _ in range(arguments.runs):
            rates.append(events_per_second(plan))
            bounds.append(bound_per_second(plan))
        results.append(
            {
                "layout": layout,
                "tiles": plan.tile_count,
                "units": plan.unit_count,
                "events_per_second": rates,
                "bound_per_second": bounds,
            }
        )
        counts = [f"{number:,.0f}" for number in (plan.tile_count, plan.unit_count, median(rates), median(bounds))]
        rows.append([layout, *counts])
        print(table(HEAD, rows[-1:]), flush=True)
    waiting_nbytes = bytes_per_waiting_tile()
    seconds = [planning_seconds() for _ in range(arguments.runs)]
    print(f"\nmedians of {arguments.runs} runs")
    print(table(HEAD, rows))
    print(f"{waiting_nbytes:.0f} bytes for each waiting tile; a plan of 10**9 tiles takes {median(seconds):.2f} s")
    print(save("coordinator", {"layouts": results, "waiting_nbytes": waiting_nbytes, "planning_seconds": seconds}))


if __name__ == "__main__":
    main()
