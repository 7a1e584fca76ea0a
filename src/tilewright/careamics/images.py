"""Images and tiles of a dataset of CAREamics are those of a dataset of tilewright, tile by tile in the same order."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from tilewright.assemble import AnyArray
from tilewright.careamics.stack_reader import source_of
from tilewright.conversion import as_array
from tilewright.datasets.images import SourceImage
from tilewright.datasets.tiled_image import TiledImage
from tilewright.errors import TileMismatchError
from tilewright.geometry import Interval, TileInformation


def images_of(dataset: Any) -> tuple[SourceImage, ...]:
    """Return the images of a prediction dataset of CAREamics, tiled where it is.

    Raises
    ------
    TypeError
        If it is no dataset of CAREamics for prediction.
    """
    extractor = getattr(getattr(dataset, "patch_constructor", None), "input_extractor", None)
    patching = getattr(getattr(dataset, "config", None), "patching", None)
    if extractor is None or patching is None:
        raise TypeError(
            f"{type(dataset).__name__} is no dataset of CAREamics for prediction; use PredictionWriterCallback of "
            "tilewright for other datasets"
        )
    sources = [source_of(stack, index) for index, stack in enumerate(extractor.image_stacks)]
    first = accumulate((source.axes.sample_count for source in sources[:-1]), initial=0)
    size = getattr(patching, "patch_size", None)
    if size is None:
        return tuple(map(SourceImage, sources, first))
    overlaps = patching.overlaps
    return tuple(
        TiledImage.of(source, start, size, overlaps, pads_behind=True)
        for source, start in zip(sources, first, strict=True)
    )


def predicted_tiles(prediction: Any, images: Sequence[SourceImage]) -> tuple[AnyArray, list[TileInformation]]:
    """Return the tiles of a batch that CAREamics has predicted, and where they belong.

    Parameters
    ----------
    prediction : ImageRegionData
        What its module returns: data (B, C, (Z), Y, X), and where each tile lies.
    images : sequence of SourceImage
        The images of its dataset.
    """
    tiles, spec = as_array(prediction.data), prediction.region_spec
    if "stitch_coords" not in spec:
        raise TypeError("the prediction is of whole images, and this strategy writes tiles; use WriteImage")
    infos = []
    for number in range(len(tiles)):
        image = _image(images, int(spec["data_idx"][number]))
        of_tile = {
            name: [value[number] for value in spec[name]] for name in ("crop_coords", "stitch_coords", "crop_size")
        }
        crop, stitch = intervals_of(of_tile, "crop_coords"), intervals_of(of_tile, "stitch_coords")
        shape = image.sample_shape
        is_last = all(stop == extent for (_, stop), extent in zip(stitch, shape[1:], strict=True))
        sample = image.first_sample + int(spec["sample_idx"][number])
        infos.append(TileInformation(shape, is_last, crop, stitch, sample))
    return tiles, infos


def predicted_samples(prediction: Any, images: Sequence[SourceImage]) -> tuple[AnyArray, list[int]]:
    """Return whole samples that CAREamics has predicted, and their numbers in the dataset; as `predicted_tiles`."""
    samples, spec = as_array(prediction.data), prediction.region_spec
    numbers = zip(spec["data_idx"], spec["sample_idx"], strict=True)
    return samples, [_image(images, int(index)).first_sample + int(sample) for index, sample in numbers]


def _image(images: Sequence[SourceImage], index: int) -> SourceImage:
    if not 0 <= index < len(images):
        raise TileMismatchError(f"the prediction is of image {index}, and the dataset has {len(images)} images")
    return images[index]


def intervals_of(spec: Mapping[str, Any], name: str) -> list[Interval]:
    """Return where a tile is cropped, or stitched, per spatial axis, from its specification in CAREamics."""
    sizes = map(int, spec["crop_size"])
    return [(start, start + size) for start, size in zip(map(int, spec[name]), sizes, strict=True)]
