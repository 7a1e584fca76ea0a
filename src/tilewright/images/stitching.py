"""An image is stitched from the valid regions of its tiles: each element from a tile, or an error counts what misses.

Nothing is blended and nothing is filled in. An image that is stitched lazily stitches a chunk when it is looked at, and
fetches only the tiles of that chunk.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray, paste, shared_slices, slices_of
from tilewright.conversion import as_array, is_array
from tilewright.errors import GeometryError, IncompleteImageError, ModelOutputError
from tilewright.geometry import Region, TileInformation, extents_of
from tilewright.plan import ImageAxes


def stitch_prediction_single(tiles: Iterable[Any], tile_infos: Iterable[TileInformation]) -> AnyArray:
    """Stitch the tiles of one sample together.

    Parameters
    ----------
    tiles, tile_infos
        As in `stitch_prediction`, all of the same sample.

    Returns
    -------
    array
        (1, C, (Z), Y, X), in the data type of the tiles.

    Raises
    ------
    IncompleteImageError, GeometryError
        As in `stitch_prediction`; GeometryError also if the tiles are of several samples.

    Examples
    --------
    >>> first = TileInformation((1, 2, 3), False, ((0, 2), (0, 2)), ((0, 2), (0, 2)), 0)
    >>> last = TileInformation((1, 2, 3), True, ((0, 2), (1, 2)), ((0, 2), (2, 3)), 0)
    >>> tiles = [np.array([[[1, 2], [3, 4]]]), np.array([[[0, 9], [0, 9]]])]
    >>> stitch_prediction_single(tiles, [first, last]).tolist()
    [[[[1, 2, 9], [3, 4, 9]]]]
    """
    tiles, tile_infos = _checked(tiles, tile_infos)
    samples = sorted({information.sample_id for information in tile_infos})
    if len(samples) > 1:
        raise GeometryError(f"the tiles are of the samples {samples}, not of one; use stitch_prediction")
    return stitch_prediction(tiles, tile_infos)[0]


def stitch_prediction(tiles: Iterable[Any], tile_infos: Iterable[TileInformation]) -> list[AnyArray]:
    """Stitch the tiles of several samples together.

    Parameters
    ----------
    tiles : iterable of array or tensor
        C(Z)YX or (1, C, (Z), Y, X) each, in any order.
    tile_infos : iterable of TileInformation
        One per tile.

    Returns
    -------
    list of array
        One (1, C, (Z), Y, X) per sample, in the order of ``sample_id``, in the data type of the tiles.

    Raises
    ------
    IncompleteImageError
        If elements of a sample are covered by no tile. It says which sample misses how many.
    GeometryError
        If tiles do not fit their tile information.

    Examples
    --------
    `extract_tiles` cuts an image into tiles, and a model may predict each of them in turn, without a trainer:

    >>> from tilewright import extract_tiles
    >>> image = np.random.default_rng(0).random((1, 1, 100, 110))
    >>> tiles, infos = zip(*extract_tiles(image, tile_size=(64, 64), overlaps=(16, 16)))
    >>> (stitched,) = stitch_prediction([2 * tile for tile in tiles], infos)
    >>> stitched.shape, bool((stitched == 2 * image).all())
    ((1, 1, 100, 110), True)
    """
    tiles, tile_infos = _checked(tiles, tile_infos)
    samples: dict[int, list[tuple[AnyArray, TileInformation]]] = defaultdict(list)
    for tile, information in zip(tiles, tile_infos, strict=True):
        samples[information.sample_id].append((_without_batch(as_array(tile), information), information))
    images = []
    for sample, placed in sorted(samples.items()):
        shapes = sorted({information.array_shape[1:] for _, information in placed})
        if len(shapes) > 1:
            raise GeometryError(f"the tiles of sample {sample} are of images of different extents: {shapes}")
        whole = tuple((0, extent) for extent in shapes[0])
        images.append(stitch_region(whole, placed, f"sample {sample}")[np.newaxis])
    return images


def stitch_region(region: Region, tiles: Iterable[tuple[AnyArray, TileInformation]], name: str) -> AnyArray:
    """Stitch a region of a sample together.

    Parameters
    ----------
    region : Region
        Which, (Z)YX.
    tiles : iterable of (array, TileInformation)
        Tiles, C(Z)YX, that reach into it; more do no harm.
    name : str
        How to name the sample in messages.

    Returns
    -------
    array
        C(Z)YX.

    Raises
    ------
    IncompleteImageError, GeometryError
        As in `stitch_prediction`.
    ModelOutputError
        If the tiles have different channels or data types.
    """
    covered = np.zeros(extents_of(region), bool)
    stitched: AnyArray | None = None
    for tile, information in tiles:
        stitch, crop = information.stitch_coords, information.overlap_crop_coords
        if any(stop > extent for (_, stop), extent in zip(crop, tile.shape[1:], strict=True)):
            raise GeometryError(
                f"{crop} of a tile of {name} is kept, but its prediction has the extents {tile.shape[1:]}"
            )
        if stitched is None:
            stitched = np.empty((len(tile), *covered.shape), tile.dtype)
        if (len(tile), tile.dtype) != (len(stitched), stitched.dtype):
            raise ModelOutputError(
                f"the tile at {stitch} of {name} has {len(tile)} channels of {tile.dtype}, others have {len(stitched)} "
                f"of {stitched.dtype}"
            )
        into, out_of = shared_slices(region, stitch)
        valid = tile[(slice(None), *slices_of(crop))]
        paste(stitched, (slice(None), *into), valid, (slice(None), *out_of))
        covered[into] = True
    missing = covered.size - int(np.count_nonzero(covered))
    if missing or stitched is None:
        raise IncompleteImageError(
            f"{name} misses {missing} elements of {covered.size}: no tile covers them; predict all tiles of the dataset"
        )
    return stitched


@dataclass(frozen=True)
class ImageStitching:
    """How the tiles of one image are put together; not the tiles themselves.

    Parameters
    ----------
    name, first_sample, sample_count
        As in `SourceImage`.
    tile_infos : sequence of TileInformation
        Where its tiles belong, and what of them is kept.
    channels, dtype : int, numpy.dtype
        Those of the tiles.
    source_axes : ImageAxes, optional
        The axes of the source where the image gets their order.
    """

    name: str
    first_sample: int
    sample_count: int
    tile_infos: Sequence[TileInformation]
    channels: int
    dtype: np.dtype[Any]
    source_axes: ImageAxes | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    @property
    def extents(self) -> tuple[int, ...]:
        """The extents of the image, (Z)YX."""
        return self.tile_infos[0].array_shape[1:]

    def stitch(self, tiles: Sequence[AnyArray]) -> AnyArray:
        """Return the image, C(Z)YX if it has one sample, else SC(Z)YX, or with the axes of the source.

        Tiles are C(Z)YX or (1, C, (Z), Y, X).
        """
        stitched: AnyArray = self.ordered(self._stitch(tiles))
        return stitched

    def ordered(self, image: Any) -> Any:
        """Return an image, (S)C(Z)YX, with the axes of the source where these are wanted; of NumPy or Dask."""
        axes = self.source_axes
        if axes is None:
            return image
        planned, wanted = axes.output_names(self.channels), axes.own_order(self.channels)
        return image.reshape(axes.output_shape(self.channels)).transpose(tuple(map(planned.index, wanted or planned)))

    def _stitch(self, tiles: Sequence[AnyArray]) -> AnyArray:
        whole = tuple((0, extent) for extent in self.extents)
        if self.sample_count == 1:
            return self.stitch_sample(0, whole, tiles, range(len(tiles)))
        by_sample: dict[int, list[int]] = defaultdict(list)
        for number, information in enumerate(self.tile_infos):
            by_sample[information.sample_id - self.first_sample].append(number)
        image: AnyArray = np.empty((self.sample_count, self.channels, *self.extents), self.dtype)
        for sample in range(self.sample_count):
            numbers = by_sample[sample]
            image[sample] = self.stitch_sample(sample, whole, [tiles[number] for number in numbers], numbers)
        return image

    def stitch_sample(self, sample: int, region: Region, tiles: Iterable[AnyArray], numbers: Sequence[int]) -> AnyArray:
        """Return a region of a sample, C(Z)YX, from those of its tiles that are given, with their numbers."""
        placed = (
            (_without_batch(tile, self.tile_infos[number]), self.tile_infos[number])
            for tile, number in zip(tiles, numbers, strict=True)
        )
        which = f", sample {sample}" if self.sample_count > 1 else ""
        stitched = stitch_region(region, placed, f"image {self.name}{which}")
        if (len(stitched), stitched.dtype) != (self.channels, self.dtype):
            raise ModelOutputError(
                f"image {self.name} has {self.channels} channels of {self.dtype}, but tiles of it{which} have "
                f"{len(stitched)} of {stitched.dtype}"
            )
        return stitched


def _without_batch(tile: AnyArray, information: TileInformation) -> AnyArray:
    """Return a tile C(Z)YX, whether or not it comes as a batch of one."""
    axis_count = len(information.array_shape)
    if tile.ndim == axis_count + 1 and len(tile) == 1:
        tile = tile.reshape(tile.shape[1:])
    if tile.ndim != axis_count:
        raise GeometryError(
            f"a tile of an image of {axis_count} axes must be C(Z)YX or (1, C, (Z), Y, X), got the shape {tile.shape}"
        )
    return tile


def is_information(value: Any) -> bool:
    """Tell whether a value is tile information, also where another library has its own class for it."""
    return all(hasattr(value, name) for name in TileInformation._fields)


def _checked(tiles: Iterable[Any], tile_infos: Iterable[TileInformation]) -> tuple[list[Any], list[TileInformation]]:
    for name, given in (("tiles", tiles), ("tile_infos", tile_infos)):
        if isinstance(given, str) or not hasattr(given, "__iter__"):
            raise TypeError(f"{name} must be a list, got {given!r:.80}")
    listed, infos = list(tiles), list(tile_infos)
    for name, values, is_one in (("tiles", listed, is_array), ("tile_infos", infos, is_information)):
        wrong = next((value for value in values if not is_one(value)), None)
        if wrong is not None:
            kind = "arrays or tensors" if name == "tiles" else "TileInformation"
            raise TypeError(f"{name} must be made of {kind}, got {type(wrong).__name__}: {wrong!r:.60}")
    if len(listed) != len(infos) or not listed:
        raise GeometryError(
            f"there must be tiles, and as much tile information; got {len(listed)} tiles and {len(infos)}"
        )
    return listed, infos
