"""How a run has ended, in words for a reader who has not seen it run, and what the reader is to do now."""

import traceback
from collections import Counter
from dataclasses import dataclass

from tilewright.errors import RunStoppedError, UnitGivenUpError, is_raised_by_model
from tilewright.stores.places import without_secrets

COMPLETE, GIVEN_UP, STOPPED, FAILED = "complete", "given up", "stopped", "failed"
"""States of a run that has ended."""


@dataclass(frozen=True)
class Ending:
    """How a run has ended.

    Parameters
    ----------
    state : {"complete", "given up", "stopped", "failed"}
        In one word.
    error : str
        The error of a run that was stopped or has failed, without passwords.
    details : str
        Its traceback, where it has failed.
    """

    state: str = COMPLETE
    error: str = ""
    details: str = ""

    @classmethod
    def of(cls, error: BaseException | None) -> "Ending":
        """Return the ending by an error."""
        if error is None:
            return cls()
        if isinstance(error, UnitGivenUpError):
            return cls(GIVEN_UP, without_secrets(error))
        if isinstance(error, RunStoppedError | KeyboardInterrupt | SystemExit):
            return cls(STOPPED, without_secrets(error) or type(error).__name__)
        details = without_secrets("".join(traceback.format_exception(error)))
        by_model = "the model raised " * is_raised_by_model(error)
        return cls(FAILED, f"{by_model}{type(error).__name__}: {without_secrets(error)}", details)

    def headline(self, done: int, units: int, given_up: int) -> str:
        """Return one sentence that says what has happened.

        Parameters
        ----------
        done, units, given_up : int
            Units that are stored, those of the plan, and those that were given up.

        Examples
        --------
        >>> Ending("stopped").headline(done=430, units=1000, given_up=0)
        'Stopped at 43%: 430 of 1,000 write units are stored, and 570 are missing.'
        """
        stored = f"{done:,} of {units:,} write units are stored"
        missing = units - done - given_up
        if self.state == COMPLETE:
            return f"Complete: all {units:,} write units are stored." if units > 1 else "Complete: all of it is stored."
        if self.state == GIVEN_UP:
            count = "1 write unit was" if given_up == 1 else f"{given_up:,} write units were"
            return f"Not complete: {count} given up, and {stored}."
        how = f"{'Stopped' if self.state == STOPPED else 'Failed'} at {int(100 * done / max(1, units))}%"
        more = f", {given_up:,} were given up" * bool(given_up)
        return f"{how}: {stored}{more}, and {missing:,} {'is' if missing == 1 else 'are'} missing."

    def next_steps(self, given_up: dict[str, str], coarser: int = 0, *, has_begun: bool = True) -> list[str]:
        """Return what the reader is to know and to do now, in short paragraphs; nothing where all is complete.

        Parameters
        ----------
        given_up : dict of str to str
            Regions that were given up, and why.
        coarser : int, default=0
            Units of coarser levels that were given up with them.
        has_begun : bool, default=True
            Whether the output has begun.
        """
        go_on = "run it again with the same arguments and `if_exists='resume'` (command line: `--if-exists resume`)"
        keeps = "What is stored is compared with the ledger then, and is kept."
        if self.state == COMPLETE:
            return []
        if not has_begun:
            return [self.error, "Nothing was written. Remove the cause, then run it again."]
        if self.state == GIVEN_UP:
            reason, count = Counter(given_up.values()).most_common(1)[0]
            most = f" ({count:,} of {len(given_up):,})" if count < len(given_up) else ""
            more = f" and {len(given_up) - 1:,} more" * (len(given_up) > 1)
            units = "1 unit" if coarser == 1 else f"{coarser:,} units"
            also = f" With them, {units} of coarser levels could not be made." * bool(coarser)
            return [
                f"Where: {next(iter(given_up))}{more}.{also}",
                f"The reason{most}: {without_secrets(reason)}",
                f"These regions hold the fill value, which is no result. Remove the cause, then {go_on}: only what is "
                "missing is predicted again.",
            ]
        if self.state == STOPPED:
            # The error itself gives advice too.
            return [f"{self.error.partition(';')[0]}.", f"To finish, {go_on}. {keeps}"]
        return [self.error, f"Remove the cause, then {go_on}. {keeps}"]
