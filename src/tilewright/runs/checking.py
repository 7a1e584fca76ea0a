"""Check of stored units against the ledger, many at a time, on the cluster where there is one."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from distributed import CancelledError, Client, as_completed

from tilewright.ledger.records import Record, Records
from tilewright.objects.unit_checker import Condition, UnitChecker
from tilewright.transport.clients import shares_memory
from tilewright.transport.watch import Watch, gone

GROUP_NBYTES = 128 * 2**20
"""Stored bytes that one task reads, about."""
GROUP_UNITS = 256
"""Units that one task checks, at most."""
GROUPS_PER_THREAD = 2

Group = list[Record]


def check_units(
    checker: UnitChecker,
    records: Records,
    client: Client | None = None,
    on_checked: Callable[[int], None] = lambda _units: None,
) -> dict[int, Condition]:
    """Return the units that are not intact, and how each was found.

    Parameters
    ----------
    checker : UnitChecker
        What looks at a unit.
    records : Records
        What the ledger says of each unit.
    client : distributed.Client, optional
        A cluster whose workers look; threads of this process where there is none, or where it is inside of it.
    on_checked : callable
        Is called with a number of units when these were looked at.

    Raises
    ------
    ClusterGoneError
        If the cluster goes away.
    """
    found = dict.fromkeys(records.absent(checker.plan.unit_count), Condition.MISSING)
    on_checked(len(found))
    groups = _groups(records)
    here = client is None or shares_memory(client)
    for checked in _checked_here(checker, groups) if here else _checked_on(client, checker, groups):
        on_checked(len(checked))
        found.update((unit, condition) for unit, condition in checked if condition is not Condition.INTACT)
    return dict(sorted(found.items()))


def _groups(records: Records) -> Iterator[Group]:
    group: Group = []
    nbytes = 0
    for record in records:
        group.append(record)
        nbytes += record.stored_nbytes
        if nbytes >= GROUP_NBYTES or len(group) >= GROUP_UNITS:
            yield group
            group, nbytes = [], 0
    if group:
        yield group


def _check(checker: UnitChecker, group: Group) -> list[tuple[int, Condition]]:
    return [(record.unit, checker.check(record)) for record in group]


def _checked_here(checker: UnitChecker, groups: Iterator[Group]) -> Iterator[list[tuple[int, Condition]]]:
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(groups, GROUPS_PER_THREAD * threads)):
            yield from pool.map(lambda group: _check(checker, group), batch)


def _checked_on(client: Any, checker: UnitChecker, groups: Iterator[Group]) -> Iterator[list[tuple[int, Condition]]]:
    Watch(client)

    def submit(group: Group) -> Any:
        return client.submit(_check, checker, group, pure=False)

    most = GROUPS_PER_THREAD * max(1, sum(client.nthreads().values()))
    first = [submit(group) for group in islice(groups, most)]
    running = as_completed(first, with_results=True, loop=client.loop)
    try:
        for _, checked in running:
            running.update([submit(group) for group in islice(groups, 1)])
            yield checked
    except CancelledError:
        if client.status == "running":
            raise gone("it has dropped the tasks of this run") from None
        raise gone() from None
