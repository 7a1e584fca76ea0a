"""A dataset of another library takes part in a run by its images, and by the tiles that it still has to yield."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tilewright.datasets.images import SourceImage
from tilewright.datasets.open_tiles import OpenTiles


@dataclass(frozen=True)
class AdaptedDataset:
    """Dataset of another library, as the write strategies see it.

    Parameters
    ----------
    images : sequence of SourceImage
        Its images, in the order of its samples.
    open_tiles : OpenTiles
        The tiles that it still has to yield.
    """

    images: Sequence[SourceImage]
    open_tiles: OpenTiles = field(default_factory=OpenTiles)
