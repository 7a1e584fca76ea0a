"""Plan of several images, each of which is one unit: its tiles are numbered as they come, and counted at the end."""

from collections.abc import Sequence

from tilewright.coordinator import UNKNOWN_COUNT


class ImagePlan:
    """Images as units.

    Parameters
    ----------
    names : sequence of str
        Names of the images.
    memory_nbytes : int
        Bytes of tiles that may be held at any time.

    Examples
    --------
    >>> plan = ImagePlan(["a", "b"], memory_nbytes=100)
    >>> plan.add(1, 30), plan.add(1, 50), plan.units_of_tile(1), plan.tiles_of_unit(1)
    (0, 1, (1,), (0, 1))
    >>> plan.tile_count_of_unit(1) == UNKNOWN_COUNT
    True
    >>> plan.complete(1)
    >>> plan.tile_count_of_unit(1)
    2
    """

    units_are_independent = False
    waiting_nbytes = largest_unit_distance = largest_unit_nbytes = padded_tile_nbytes = coarser_waiting_nbytes = 0

    def __init__(self, names: Sequence[str], memory_nbytes: int) -> None:
        self.unit_count = self.finest_unit_count = len(names)
        self.window_nbytes = self.peak_live_nbytes = self.admitted_nbytes = memory_nbytes
        self._names = names
        self._tile_count = 0
        self._tiles: dict[int, tuple[int, int]] = {}
        self._tiles_of: dict[int, list[int]] = {}
        self._complete: set[int] = set()

    def add(self, image: int, nbytes: int) -> int:
        """Return the number of a further tile of an image."""
        tile = self._tile_count
        self._tile_count += 1
        self._tiles[tile] = image, nbytes
        self._tiles_of.setdefault(image, []).append(tile)
        return tile

    def complete(self, image: int) -> None:
        """Take in that all tiles of an image have come."""
        self._complete.add(image)

    def forget(self, image: int) -> None:
        """Forget the tiles of an image that is written, or is given up."""
        for tile in self._tiles_of.pop(image):
            del self._tiles[tile]

    def unwritten(self) -> list[int]:
        """Return the images of which all tiles have come, and that are neither written nor given up."""
        return sorted(self._complete & self._tiles_of.keys())

    def units_of_tile(self, tile: int) -> tuple[int, ...]:
        """Return the image of a tile; none where that is forgotten."""
        return (self._tiles[tile][0],) if tile in self._tiles else ()

    def tiles_of_unit(self, unit: int) -> tuple[int, ...]:
        """Return the tiles of an image that have come."""
        return tuple(self._tiles_of[unit])

    def tile_count_of_unit(self, unit: int) -> int:
        """Return the number of tiles of an image, once all have come."""
        return len(self._tiles_of[unit]) if unit in self._complete else UNKNOWN_COUNT

    def tiles_starting_in(self, unit: int) -> tuple[int, ...]:
        """Return no tiles: none is asked for."""
        return ()

    def unit_in_turn(self, place: int) -> int:
        """Return the image at a place."""
        return place

    def tile_of_unit(self, unit: int) -> None:
        """Return no tile: an image has no coarser levels here."""

    def unit_of_tile(self, tile: int) -> None:
        """Return no unit: each tile is predicted."""

    def tile_nbytes(self, tile: int) -> int:
        """Return the bytes of a tile."""
        return self._tiles[tile][1]

    def unit_nbytes(self, unit: int) -> int:
        """Return the bytes of the tiles of an image."""
        return sum(map(self.tile_nbytes, self._tiles_of[unit]))

    def share_of_tile(self, tile: int, count: int) -> int:
        """Return in which of so many parts a tile lies: an image may be larger than one worker."""
        return tile % count

    def describe_unit(self, unit: int) -> str:
        """Return an image in words."""
        return f"image {self._names[unit]}"
