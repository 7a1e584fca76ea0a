"""A plan, a region and a size as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.geometry import Region

if TYPE_CHECKING:
    from tilewright.plan.write_plan import WritePlan


def describe(plan: WritePlan) -> str:
    """Return a plan as a short table."""
    sharing = (
        "each written by itself"
        if plan.units_are_independent
        else f"neighbours share tiles, up to {format_nbytes(plan.waiting_nbytes)} wait"
    )
    array = plan.arrays[0]
    stored = f"{plan.object_count:,} {'chunks' if plan.shards is None else 'shards'} of {array.stored_extents}"
    if plan.shards is not None:
        stored += f", in chunks of {plan.chunks}"
    levels = "full resolution alone"
    if len(plan.arrays) > 1:
        coarsest, waiting = plan.arrays[-1].shape, format_nbytes(plan.coarser_nbytes)
        levels = f"{len(plan.arrays)}, the coarsest {coarsest}, for which up to {waiting} wait"
    rows = (
        ("output", f"{plan.axes} {plan.shape} {plan.dtype}, {format_nbytes(array.nbytes)}"),
        ("levels", levels),
        ("tiles", f"{plan.tile_count:,} of {plan.tile_size}, overlap {plan.overlap}"),
        ("layout", f"{plan.layout}, {plan.extra_inference:.2f} x the tiles of compact"),
        ("reads", f"{plan.read_ratio:.2f} x the source"),
        ("objects", stored),
        (
            "write units",
            f"{plan.unit_count:,} of {array.unit_extents}, up to {format_nbytes(plan.largest_unit_nbytes)}, {sharing}",
        ),
        ("Dask tasks", f"{'' if plan.units_are_independent else 'at most '}{plan.task_count:,}"),
        ("memory", f"at most {format_nbytes(plan.peak_live_nbytes)} of predicted tiles, more only for a large cluster"),
    )
    return "\n".join(["Write plan", *(f"  {name:<12} {text}" for name, text in rows)])


def format_nbytes(nbytes: float) -> str:
    """Return a size in bytes as a person reads it.

    Examples
    --------
    >>> format_nbytes(7077888)
    '6.75 MiB'
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while nbytes >= 1024 and power < len(units) - 1:
        nbytes /= 1024
        power += 1
    return f"{nbytes:.4g} {units[power]}"


def describe_region(axes: str, region: Region) -> str:
    """Return a region as a person reads it.

    Examples
    --------
    >>> describe_region("YX", ((0, 64), (64, 128)))
    'Y 0:64, X 64:128'
    """
    return ", ".join(f"{name} {start}:{stop}" for name, (start, stop) in zip(axes, region, strict=True))
