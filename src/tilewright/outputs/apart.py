"""No output and no ledger of a run is a source of it, lies in a source or holds one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright.errors import DestinationError
from tilewright.sources.source import Source
from tilewright.sources.source_places import Unknown, places_of
from tilewright.stores.places import Name, Place, may_be_elsewhere


@dataclass(frozen=True)
class Target:
    """An output or a ledger that a run writes, and its place, if that is known.

    `within` is a place that holds it, if its store is of a foreign class, which may give keys another meaning.
    """

    name: str
    place: Place | None
    is_replaced: bool = False
    within: Place | None = None


def check_apart(targets: Sequence[Target], sources: Sequence[Source | Path]) -> None:
    """Raise DestinationError if an output or ledger of a run is a source of it, holds one or lies in one.

    Where that is unknown, it is raised if something would be replaced.
    """
    owners: dict[Name, Place] = {}
    inside: dict[Name, Place] = {}
    unknown: list[tuple[str, Unknown]] = []
    for source in sources:
        found = places_of(source)
        unknown += [(str(getattr(source, "name", source)), one) for one in found.unknown]
        for place in found.places:
            own, around = place.names()
            owners.update(dict.fromkeys(own, place))
            inside.update(dict.fromkeys(around, place))
    for target in targets:
        own, around = (frozenset[Name](), frozenset[Name]()) if target.place is None else target.place.names()
        hits = [owners[name] for name in own | around if name in owners] + [inside[n] for n in own if n in inside]
        if hits:
            raise DestinationError(
                f"the destination {target.name} is the source {hits[0]}, holds it or lies inside it; choose another one"
            )
        reasons = _doubts(target, set(owners.values()), unknown) if target.is_replaced else []
        if reasons:
            raise DestinationError(
                f"the destination {target.name} exists, and it cannot be known whether a source is read from there "
                f"({'; '.join(reasons[:3])}); choose another destination, or move it away yourself"
            )


def _doubts(target: Target, read: set[Place], unknown: list[tuple[str, Unknown]]) -> list[str]:
    """Return the reasons that a source may be read from a target."""
    place = target.place
    reasons = [
        f"{name}: {one.text}"
        for name, one in unknown
        if place is None or one.within is None or one.within.overlaps(place)
    ]
    if read and place is None:
        reasons.append("the place of the destination")
    if target.within is not None:
        reasons += [
            f"the destination may be anywhere in {target.within}" for one in read if target.within.overlaps(one)
        ]
    for one in read:
        differ = place is not None and one.service != place.service
        if differ and (may_be_elsewhere(one) or (place is not None and may_be_elsewhere(place))):
            reasons.append(f"{one} may be another name of the same")
    return reasons
