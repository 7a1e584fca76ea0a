"""Results as JSON: one object on standard output, and nothing else there."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tilewright.plan import WritePlan

json_option = click.option("--json", "is_json", is_flag=True, help="Print one JSON object, and nothing else.")


class Printer:
    """Standard output of a command: texts for a person, or one JSON object for a program.

    Parameters
    ----------
    is_json : bool
        Which of the two.
    """

    def __init__(self, is_json: bool) -> None:
        self.is_json = is_json
        self._stdout = sys.stdout

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Send what a model or a library prints to standard error, where standard output is for JSON."""
        if not self.is_json:
            yield
            return
        with redirect_stdout(sys.stderr):
            yield

    def plan(self, plan: "WritePlan") -> None:
        """Print a plan, which is not the result of a command."""
        if not self.is_json:
            click.echo(str(plan))

    def result(self, result: Any) -> None:
        """Print the result of a command, which has a text and a `to_dict`."""
        text = json.dumps(result.to_dict()) if self.is_json else str(result)
        click.echo(text, file=self._stdout)


class PlanResult:
    """A plan as the result of a command, with its costs beside what it is made of.

    Parameters
    ----------
    plan : WritePlan
        The plan.
    """

    def __init__(self, plan: "WritePlan") -> None:
        self._plan = plan

    def __str__(self) -> str:
        return str(self._plan)

    def to_dict(self) -> dict[str, Any]:
        """Return the costs, and the plan as `WritePlan.to_dict` returns it; sizes in bytes."""
        names = "axes shape dtype layout chunks shards tile_size overlap tile_count unit_count object_count task_count "
        names += "output_nbytes largest_unit_nbytes peak_live_nbytes extra_inference read_ratio"
        return {name: getattr(self._plan, name) for name in names.split()} | {"plan": self._plan.to_dict()}
