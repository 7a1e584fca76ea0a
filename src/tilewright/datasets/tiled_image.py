"""Tiles of an image: the same for the data loader that cuts them and for the writer."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any, Self

from tilewright.assemble import AnyArray
from tilewright.conversion import is_array
from tilewright.datasets.images import SourceImage
from tilewright.errors import GeometryError, TileMismatchError
from tilewright.geometry import AxisTiling, Interval, Region, TileInformation, position_of
from tilewright.plan import WritePlan
from tilewright.plan.axes import SPATIAL, per_spatial_axis
from tilewright.sources.opening import open_source
from tilewright.sources.source import Source


@dataclass(frozen=True)
class TiledImage(SourceImage):
    """Image of a dataset, and its tiles.

    Parameters
    ----------
    source, first_sample
        See `SourceImage`.
    tile_size, overlaps, borders : tuple of int
        Per spatial axis; valid regions end on multiples of ``borders``, which are 1 for the compact layout.
    pads_behind : bool
        As in `AxisTiling`.
    """

    tile_size: tuple[int, ...]
    overlaps: tuple[int, ...]
    borders: tuple[int, ...]
    pads_behind: bool = False

    @property
    def tile_count(self) -> int:
        """Number of tiles of all samples, as in the plan of the image."""
        return self.sample_count * prod(tiling.count for tiling in self._spatial_tilings.values())

    @property
    def _spatial_tilings(self) -> dict[str, AxisTiling]:
        axes = self.source.axes
        numbers = zip(axes.spatial, self.tile_size, self.overlaps, self.borders, strict=True)
        return {
            name: AxisTiling(axes.extent(name), tile, overlap, border, self.pads_behind)
            for name, tile, overlap, border in numbers
        }

    @classmethod
    def of(
        cls,
        source: Source,
        first_sample: int,
        tile_size: Sequence[int],
        overlaps: Sequence[int],
        borders: Sequence[int] | None = None,
        *,
        pads_behind: bool = False,
    ) -> Self:
        """Return an image with its tiles, or raise GeometryError where they do not fit."""
        spatial = source.axes.spatial
        image = cls(
            source,
            first_sample,
            per_spatial_axis("tile_size", tile_size, spatial),
            per_spatial_axis("overlaps", overlaps, spatial),
            per_spatial_axis("borders", [1] * len(spatial) if borders is None else borders, spatial),
            pads_behind,
        )
        # Refuse a bad overlap here rather than in a data-loader worker.
        image.tilings(channels=1)
        return image

    def tilings(self, channels: int) -> tuple[AxisTiling, ...]:
        """Return the tilings of all axes of an output."""
        axes = self.source.axes
        spatial = self._spatial_tilings
        return tuple(
            spatial.get(name) or AxisTiling(extent, extent if name == "C" else 1, 0)
            for name, extent in zip(axes.output_names(channels), axes.output_shape(channels), strict=True)
        )

    def read_tile(self, number: int) -> tuple[AnyArray, TileInformation]:
        """Return a tile, C(Z)YX, and its tile information; tiles are counted sample by sample, in C order."""
        axes, spatial = self.source.axes, self._spatial_tilings
        tiles_per_sample = prod(tiling.count for tiling in spatial.values())
        sample, rank = divmod(number, tiles_per_sample)
        position = position_of(rank, tuple(tiling.count for tiling in spatial.values()))
        indices = dict(zip(spatial, position, strict=True)) | self.sample_indices(sample)
        names = axes.output_names(1).replace("C", "")
        tilings = [spatial.get(name) or AxisTiling(axes.extent(name), 1, 0) for name in names]
        tile = self.source.read_tile(names, tilings, [indices[name] for name in names])
        information = TileInformation(
            array_shape=self.sample_shape,
            last_tile=rank == tiles_per_sample - 1,
            overlap_crop_coords=tuple(tiling.crop(indices[name]) for name, tiling in spatial.items()),
            stitch_coords=tuple(tiling.valid(indices[name]) for name, tiling in spatial.items()),
            sample_id=self.first_sample + sample,
        )
        return tile, information

    def tile_of(self, information: Any, plan: WritePlan) -> int:
        """Return the index of a tile in the plan, or raise TileMismatchError where the plan has another tile there."""
        sample = information.sample_id - self.first_sample
        spatial = self.source.axes.spatial
        coordinates = {name: stitch[0] for name, stitch in zip(spatial, information.stitch_coords, strict=False)}
        coordinates |= self.sample_indices(sample)
        expected: list[Interval] = []
        if 0 <= sample < self.sample_count and len(information.stitch_coords) == len(spatial):
            with suppress(IndexError):
                tile = plan.tile_at(tuple(coordinates.get(name, 0) for name in plan.axes))
                expected = _spatial_part(plan, plan.valid_region(tile))
                if list(map(tuple, information.stitch_coords)) == expected:
                    self._check_crop(information, _spatial_part(plan, plan.crop_region(tile)))
                    return tile
        raise TileMismatchError(
            f"a tile of sample {information.sample_id} belongs at {tuple(information.stitch_coords)} of "
            f"{self.source.name}, but the tiles of its dataset of size {self.tile_size} with overlap {self.overlaps} "
            f"have {tuple(expected) or 'nothing'} there; predict with the tiles of this dataset"
        )

    def _check_crop(self, information: Any, crop: list[Interval]) -> None:
        if list(map(tuple, information.overlap_crop_coords)) != crop:
            raise TileMismatchError(
                f"the tile of {self.source.name} at {tuple(information.stitch_coords)} says that "
                f"{tuple(information.overlap_crop_coords)} of it is kept, but its dataset keeps {tuple(crop)}"
            )


def _spatial_part(plan: WritePlan, region: Region) -> list[Interval]:
    return [part for part, name in zip(region, plan.axes, strict=True) if name in SPATIAL]


def extract_tiles(
    arr: Any, tile_size: Sequence[int], overlaps: Sequence[int]
) -> Iterator[tuple[AnyArray, TileInformation]]:
    """Cut an image into tiles that overlap, with valid regions that partition it.

    Parameters
    ----------
    arr : array
        SC(Z)YX, of NumPy, Zarr or Dask; only the window of a tile is read at a time.
    tile_size, overlaps : sequence of int
        Per spatial axis, in the order (Z)YX.

    Yields
    ------
    tile : array
        Shape C(Z)YX, always of the full size: a smaller image is padded by reflection.
    tile_information : TileInformation
        Origin of the tile, and the part of it that is kept. ``sample_id`` is the index along S.

    Raises
    ------
    GeometryError
        If the array is not SC(Z)YX, or the tiles or overlaps do not fit it.

    Notes
    -----
    Samples come in order, and their tiles in C order. The last tile of an axis is shifted back to end with the axis,
    and keeps all elements after the valid region before it.

    Examples
    --------
    >>> import numpy as np
    >>> arr = np.arange(35 * 32).reshape(1, 1, 35, 32)
    >>> [information.stitch_coords[0] for _, information in extract_tiles(arr, (32, 32), (24, 0))]
    [(0, 20), (20, 35)]
    """
    if not is_array(arr):
        raise TypeError(f"arr must be an array SC(Z)YX of NumPy, Zarr or Dask, got {type(arr).__name__}: {arr!r:.80}")
    names = {4: "SCYX", 5: "SCZYX"}.get(len(arr.shape))
    if names is None:
        raise GeometryError(f"the array must be SC(Z)YX, with 4 or 5 axes, got the shape {tuple(arr.shape)}")
    source = open_source(arr, names)
    image = TiledImage.of(source, 0, tile_size, overlaps)
    return (image.read_tile(number) for number in range(image.tile_count))
