"""Order of admission: the units of a plan in their order, without those that are written."""

from tilewright.coordinator.open_work import UnitSet
from tilewright.coordinator.unit_plan import UnitPlan


class Admission:
    """The next unit, or the tiles that begin in it, and the bytes that they take.

    Parameters
    ----------
    plan : UnitPlan
        The tiles and units of one image.
    settled : UnitSet
        Units that need no work; it grows.

    Attributes
    ----------
    nbytes : int or None
        Upper bound of the bytes of what comes next: tiles that are there already count too. None at the end, and
        before the start.
    """

    def __init__(self, plan: UnitPlan, settled: UnitSet) -> None:
        self._plan = plan
        self._settled = settled
        self._unit = 0
        self._tiles: tuple[int, ...] = ()
        self._first_open = 0
        self.nbytes: int | None = None

    def take(self) -> tuple[int, tuple[int, ...]]:
        """Return the next unit and, where units share tiles, the tiles that begin in it; then look ahead."""
        taken = self._unit, self._tiles
        self._unit += 1
        self.look_ahead()
        return taken

    def look_ahead(self) -> None:
        """Find the next unit, and what it takes."""
        self._skip_settled()
        if self._unit == self._plan.unit_count:
            self.nbytes = None
        elif self._plan.units_are_independent:
            self.nbytes = self._plan.unit_nbytes(self._unit)
        else:
            self._tiles = self._plan.tiles_starting_in(self._unit)
            self.nbytes = sum(map(self._plan.tile_nbytes, self._tiles))

    def _skip_settled(self) -> None:
        """Go on to the next unit in which a tile may begin that an open unit needs."""
        first_open = self._first_open = self._settled.first_missing(max(self._first_open, self._unit))
        self._unit = max(self._unit, first_open - self._plan.largest_unit_distance)
