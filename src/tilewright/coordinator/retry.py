"""Retry policy: how often a tile or a unit is attempted, and when a run has no hope."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Attempts per tile and per unit, and failures after which a run ends.

    Parameters
    ----------
    attempts : int, default=3
        Attempts of one tile, or of one unit, before it is given up.
    hopeless : int, default=3
        Units that may be given up before one is written: after so many, the cause is not a bad tile.
    hopeless_in_a_row : int, default=100
        Units that may be given up with none written in between.

    Examples
    --------
    >>> policy = RetryPolicy()
    >>> policy.is_spent(failures=2), policy.is_spent(failures=3)
    (False, True)
    >>> policy.is_hopeless(in_a_row=3, written=0, others=7), policy.is_hopeless(in_a_row=3, written=1, others=7)
    (True, False)
    """

    attempts: int = 3
    hopeless: int = 3
    hopeless_in_a_row: int = 100

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")

    def is_spent(self, failures: int) -> bool:
        """Return whether all attempts have failed."""
        return failures >= self.attempts

    def is_hopeless(self, *, in_a_row: int, written: int, others: int) -> bool:
        """Return whether no further unit can be expected to succeed.

        Parameters
        ----------
        in_a_row : int
            Units given up since the last one was written.
        written : int
            Units written.
        others : int
            Units that are not given up.
        """
        if written == 0 and (others == 0 or in_a_row >= self.hopeless):
            return True
        return in_a_row >= self.hopeless_in_a_row
