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
        self._place = 0
        self._unit = 0
        self._tiles: tuple[int, ...] = ()
        self._first_open = 0
        self.nbytes: int | None = None

    def take(self) -> tuple[int, tuple[int, ...]]:
        """Return the next unit and, where units share tiles, the tiles that begin in it; then look ahead."""
        taken = self._unit, self._tiles
        self._place += 1
        self.look_ahead()
        return taken

    def begin(self, *, predicts: bool) -> None:
        """Find the first unit; that of the coarser levels where tiles are predicted without being asked for."""
        if not predicts:
            self._place = max(self._place, self._plan.finest_unit_count)
        self.look_ahead()

    def look_ahead(self) -> None:
        """Find the next unit, and what it takes."""
        plan = self._plan
        self._skip_settled()
        if self._place == plan.unit_count:
            self.nbytes = None
            return
        unit = self._unit
        if unit >= plan.finest_unit_count:
            self.nbytes = sum(map(plan.tile_nbytes, plan.tiles_of_unit(unit)))
        elif plan.units_are_independent:
            self.nbytes = plan.unit_nbytes(unit)
        else:
            self._tiles = plan.tiles_starting_in(unit)
            self.nbytes = sum(map(plan.tile_nbytes, self._tiles))

    def _skip_settled(self) -> None:
        """Go on to the next unit in which a tile may begin that an open unit needs."""
        plan = self._plan
        if plan.units_are_independent:
            while self._place < plan.unit_count:
                self._unit = plan.unit_in_turn(self._place)
                if self._unit not in self._settled:
                    return
                self._place += 1
            return
        # Where tiles are shared, the order is that of the numbers.
        first_open = self._first_open = self._settled.first_missing(max(self._first_open, self._place))
        self._unit = self._place = max(self._place, first_open - plan.largest_unit_distance)
