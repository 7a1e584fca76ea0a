"""What came of a schedule, and what must not come of one."""

from collections import Counter
from dataclasses import dataclass, field


class InvariantError(Exception):
    """What must be true is not."""


class HungError(InvariantError):
    """A client, or the workers, do not come to an end."""


_WHOLE = ("complete", "UnitGivenUpError", "OutputInUseError")
"""How a client ends that leaves nothing half done."""


@dataclass
class Outcome:
    """What came of a schedule."""

    injected: Counter[str] = field(default_factory=Counter)
    clients: int = 0
    units: int = 0
    units_written: int = 0
    units_twice: int = 0
    units_lost: int = 0
    objects_differ: int = 0
    hung: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
