"""A prediction has one request: that of a plan that is to be executed, or one of keywords for the opened source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tilewright.errors import GeometryError
from tilewright.ome.world import GivenWorld
from tilewright.plan import PlanRequest, WritePlan
from tilewright.plan.axes import ORDER
from tilewright.sources.opening import open_single_source
from tilewright.sources.readers.reader import ReadFunction
from tilewright.sources.source import Source

_DEFAULTS = {"layout": "auto", "chunks": "auto", "levels": "auto", "output_axes": ORDER}


@dataclass(frozen=True)
class PlanKeywords:
    """Keywords of `predict_to_zarr` on axes, tiles and storage, as they are given; None where they are not."""

    axes: str | None
    tile_size: Sequence[int] | None
    overlap: Sequence[int] | None
    layout: str
    chunks: Sequence[int] | str
    shards: Sequence[int] | str | None
    dtype: str | None
    memory_nbytes: int | None
    levels: int | str
    labels: bool | None
    output_axes: str
    padding: str | None


def opened_request(
    source: Any,
    given: PlanKeywords,
    plan: WritePlan | None,
    series: int,
    world: GivenWorld,
    read_source_func: ReadFunction | None = None,
) -> tuple[Source, PlanRequest]:
    """Return the opened source, and what is asked for.

    Parameters
    ----------
    source, plan, series, read_source_func
        As in `predict_to_zarr`.
    given : PlanKeywords
        What is asked for where there is no plan.
    world : GivenWorld
        Physical metadata that the user gives: the size of elements decides which axes are halved.

    Raises
    ------
    TypeError, GeometryError
        If keywords are missing or are given beside a plan, or `plan_write` has not made the plan.
    SourceError
        If the source cannot be opened.
    """
    keywords: dict[str, Any] = dict(vars(given))
    planned = _planned_request(plan, keywords)
    axes_given = given.axes if planned is None else planned.axes
    opened = open_single_source(source, axes_given, read_source_func, series)
    if planned is not None:
        return opened, planned
    axes = opened.axes
    scale = opened.world.updated(world.on(axes.names)).scale_of(axes.spatial)
    return opened, PlanRequest(shape=axes.shape, scale=scale, **keywords | {"axes": axes.names})


def _planned_request(plan: WritePlan | None, given: dict[str, Any]) -> PlanRequest | None:
    """Return the request of a plan that is to be executed; None where there is no plan."""
    if plan is None:
        missing = [name for name in ("tile_size", "overlap") if given[name] is None]
        if missing:
            raise TypeError(f"{', '.join(missing)} must be given, or plan=plan_write(...)")
        return None
    if not isinstance(plan, WritePlan):
        raise TypeError(f"plan must be a WritePlan of plan_write, got {type(plan).__name__}: {plan!r:.80}")
    beside = [name for name, value in given.items() if value is not None and value != _DEFAULTS.get(name)]
    if beside:
        raise TypeError(f"{', '.join(beside)} cannot be given beside plan=; give them to plan_write")
    if plan.request is None:
        raise GeometryError("the plan was not made by plan_write; pass a plan of plan_write")
    return plan.request
