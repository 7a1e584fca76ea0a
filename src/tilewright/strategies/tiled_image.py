"""A tile that a data loader cuts and a tile that a writer expects are the same tile, because one object says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tilewright.assemble import AnyArray
from tilewright.errors import TileMismatchError
from tilewright.geometry import AxisTiling, TileInformation, position_of
from tilewright.plan import WritePlan
from tilewright.plan.axes import SPATIAL
from tilewright.storage.source import Source


@dataclass(frozen=True)
class TiledImage:
    """One image of a dataset, and the tiles that it is cut into.

    Parameters
    ----------
    source : Source
        The image.
    tile_size, overlaps : tuple of int
        Per spatial axis.
    borders : tuple of int
        Per spatial axis, the multiples on which valid regions end; ones for the compact layout.
    first_sample : int
        The ``sample_id`` of its first sample.
    """

    source: Source
    tile_size: tuple[int, ...]
    overlaps: tuple[int, ...]
    borders: tuple[int, ...]
    first_sample: int

    @property
    def sample_count(self) -> int:
        """The number of samples; frames are samples too."""
        return self.source.axes.extent("S") * self.source.axes.extent("T")

    @property
    def tiles_per_sample(self) -> int:
        """The number of tiles of one sample."""
        return prod(tiling.count for tiling in self._spatial_tilings)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """C(Z)YX of one sample."""
        axes = self.source.axes
        return (axes.channels, *(axes.extent(name) for name in axes.spatial))

    @property
    def _spatial_tilings(self) -> tuple[AxisTiling, ...]:
        axes = self.source.axes
        numbers = zip(axes.spatial, self.tile_size, self.overlaps, self.borders, strict=True)
        return tuple(AxisTiling(axes.extent(name), tile, overlap, border) for name, tile, overlap, border in numbers)

    def tilings(self, channels: int) -> tuple[AxisTiling, ...]:
        """Return the tilings of the axes of an output of that many channels."""
        axes = self.source.axes
        spatial = dict(zip(axes.spatial, self._spatial_tilings, strict=True))
        return tuple(
            spatial.get(name) or AxisTiling(extent, extent if name == "C" else 1, 0)
            for name, extent in zip(axes.output_names(channels), axes.output_shape(channels), strict=True)
        )

    def read_tile(self, number: int) -> tuple[AnyArray, TileInformation]:
        """Return a tile, C(Z)YX, and where it belongs; tiles are counted sample by sample, in C order."""
        sample, rank = divmod(number, self.tiles_per_sample)
        axes = self.source.axes
        position = position_of(rank, tuple(tiling.count for tiling in self._spatial_tilings))
        indices = dict(zip(axes.spatial, position, strict=True)) | self._sample_indices(sample)
        names = "".join(name for name in axes.output_names(1) if name != "C")
        by_name = dict(zip(axes.spatial, self._spatial_tilings, strict=True))
        tilings = [by_name.get(name) or AxisTiling(axes.extent(name), 1, 0) for name in names]
        tile = self.source.read_tile(names, tilings, [indices[name] for name in names])
        spatial = list(zip(self._spatial_tilings, position, strict=True))
        information = TileInformation(
            array_shape=self.sample_shape,
            last_tile=rank == self.tiles_per_sample - 1,
            overlap_crop_coords=tuple(tiling.crop(index) for tiling, index in spatial),
            stitch_coords=tuple(tiling.valid(index) for tiling, index in spatial),
            sample_id=self.first_sample + sample,
        )
        return tile, information

    def tile_of(self, information: Any, plan: WritePlan) -> int:
        """Return which tile of the plan a tile is.

        Raises
        ------
        TileMismatchError
            If the plan has another tile at that place.
        """
        sample = information.sample_id - self.first_sample
        coordinates = {name: stitch[0] for name, stitch in zip(self._spatial, information.stitch_coords, strict=False)}
        coordinates |= self._sample_indices(sample)
        expected: Sequence[Any] = ()
        if 0 <= sample < self.sample_count and len(information.stitch_coords) == len(self._spatial):
            try:
                tile = plan.tile_at(tuple(coordinates.get(name, 0) for name in plan.axes))
            except IndexError:
                tile = -1
            if tile >= 0:
                region = plan.valid_region(tile)
                expected = [part for part, name in zip(region, plan.axes, strict=True) if name in SPATIAL]
                if list(map(tuple, information.stitch_coords)) == expected:
                    self._check_crop(information, plan, tile)
                    return tile
        raise TileMismatchError(
            f"a tile of sample {information.sample_id} belongs at {tuple(information.stitch_coords)} of "
            f"{self.source.name}, but the tiles of its dataset of size {self.tile_size} with overlap {self.overlaps} "
            f"have {tuple(expected) or 'nothing'} there; predict with the tiles of this dataset"
        )

    def _check_crop(self, information: Any, plan: WritePlan, tile: int) -> None:
        crop = [part for part, name in zip(plan.crop_region(tile), plan.axes, strict=True) if name in SPATIAL]
        if list(map(tuple, information.overlap_crop_coords)) != crop:
            raise TileMismatchError(
                f"the tile of {self.source.name} at {tuple(information.stitch_coords)} says that "
                f"{tuple(information.overlap_crop_coords)} of it is kept, but its dataset keeps {tuple(crop)}"
            )

    @property
    def _spatial(self) -> str:
        return self.source.axes.spatial

    def _sample_indices(self, sample: int) -> dict[str, int]:
        s, t = divmod(sample, self.source.axes.extent("T"))
        return {"S": s, "T": t}


def image_of_sample(images: Sequence[TiledImage], sample_id: int) -> int:
    """Return the index of the image that a sample belongs to.

    Raises
    ------
    TileMismatchError
        If there is no such sample.
    """
    low, high = 0, len(images)
    while low < high:
        middle = (low + high) // 2
        image = images[middle]
        if sample_id < image.first_sample:
            high = middle
        elif sample_id >= image.first_sample + image.sample_count:
            low = middle + 1
        else:
            return middle
    raise TileMismatchError(f"there is no sample {sample_id} in the dataset of {len(images)} images")
