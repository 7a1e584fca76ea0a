"""What is written is an image of OME-Zarr to the readers of others, and to one that knows the specification alone."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from distributed import Client
from tests.support import coarser, read_by_tensorstore

import tilewright as tw

Levels = list[np.ndarray]
"""One array per level, the finest first."""

OUTPUTS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "2D": ("YX", (17, 18), {}),
    "2D in shards": ("YX", (17, 18), {"chunks": (4, 4), "shards": (8, 8)}),
    "2D in 0.4": ("YX", (17, 18), {"zarr_format": 2}),
    "3D in shards": ("ZYX", (5, 8, 9), {"chunks": (2, 4, 4), "shards": (4, 8, 8)}),
    "3D in 0.4": ("ZYX", (5, 8, 9), {"zarr_format": 2}),
    "channels": ("CYX", (3, 10, 11), {"channel_names": ["a", "b", "c"]}),
    "channels in 0.4": ("CYX", (3, 10, 11), {"channel_names": ["a", "b", "c"], "zarr_format": 2}),
    "frames, channels and depth": ("TCZYX", (2, 2, 3, 5, 6), {"shards": "auto"}),
    "frames, channels and depth in 0.4": ("TCZYX", (2, 2, 3, 5, 6), {"zarr_format": 2}),
    "samples in shards": ("SZYX", (2, 3, 6, 7), {"chunks": (1, 1, 4, 4), "shards": (1, 2, 8, 8)}),
    "samples in 0.4": ("SCYX", (2, 2, 6, 7), {"zarr_format": 2}),
}
"""Axes and extents of an image, and how its prediction is stored."""


def yaozarrs_reads(path: Path, axes: str) -> None:
    yaozarrs.validate_zarr_store(path)


def ome_zarr_models_reads(path: Path, axes: str) -> None:
    models = needed("ome_zarr_models")
    models.open_ome_zarr(zarr.open_group(path, mode="r"))


def ome_zarr_reads(path: Path, axes: str) -> Levels:
    io, reader = needed("ome_zarr.io"), needed("ome_zarr.reader")
    (node,) = reader.Reader(io.parse_url(str(path)))()
    return node.data  # type: ignore[no-any-return]


def ngff_zarr_reads(path: Path, axes: str) -> Levels:
    return [image.data for image in needed("ngff_zarr").from_ngff_zarr(str(path), validate=True).images]


def napari_ome_zarr_reads(path: Path, axes: str) -> Levels:
    read = needed("napari_ome_zarr").napari_get_reader(str(path))
    layers = [levels for levels, _, _ in read(str(path))]
    if "C" not in axes:
        return layers[0]  # type: ignore[no-any-return]
    # Each channel is a layer.
    return [np.stack(level, axes.index("C")) for level in zip(*layers, strict=True)]


READERS: dict[str, Callable[[Path, str], Levels | None]] = {
    "yaozarrs": yaozarrs_reads,
    "ome-zarr-models": ome_zarr_models_reads,
    "ome-zarr": ome_zarr_reads,
    "ngff-zarr": ngff_zarr_reads,
    "napari-ome-zarr": napari_ome_zarr_reads,
}
"""Each raises where it finds a fault in an image of these axes; those that read arrays return them."""


def needed(module: str) -> Any:
    return pytest.importorskip(module, reason=f"{module} is not installed; .ci/run installs it")


def expected_levels(name: str) -> Levels:
    """What each level of an output must hold."""
    axes, shape, _ = OUTPUTS[name]
    levels = [-np.random.default_rng(len(name)).integers(1, 99, shape).astype("int16")]
    levels.append(coarser(levels[0], [2 if axis in "YX" else 1 for axis in axes], "mean"))
    return levels


def images_of(output: Path) -> list[tuple[Path, str, Levels]]:
    """The images in an output: where they are, their axes, and what each level must hold."""
    axes, levels = OUTPUTS[output.stem][0], expected_levels(output.stem)
    if "S" not in axes:
        return [(output, axes, levels)]
    return [(output / f"{at}", axes[1:], [level[at] for level in levels]) for at in range(len(levels[0]))]


@pytest.fixture(scope="module", params=OUTPUTS)
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, embedded: Client) -> Path:
    """An output, which all readers read."""
    axes, _, options = OUTPUTS[request.param]
    spatial = sum(axis in "ZYX" for axis in axes)
    path: Path = tmp_path_factory.mktemp("ome") / f"{request.param}.zarr"
    tiles = {"tile_size": (4,) * spatial, "overlap": (0,) * spatial, "levels": 2}
    where = {"scale": (2.0, 0.5, 0.25)[-spatial:], "units": "um"}
    image = -expected_levels(request.param)[0]
    tw.predict_to_zarr(
        np.negative, image, path, axes=axes, client=embedded, progress=False, **where, **tiles, **options
    )
    return path


@pytest.mark.parametrize("reader", READERS)
def test_readers_of_others_accept_what_is_written(output: Path, reader: str) -> None:
    with warnings.catch_warnings():
        # What they warn of is no fault of what they read.
        warnings.simplefilter("ignore")
        if reader == "yaozarrs":
            # The others take images, not collections of them.
            yaozarrs_reads(output, "")
        for path, axes, levels in images_of(output):
            read = READERS[reader](path, axes)
            for is_read, expected in zip(levels if read is None else read, levels, strict=True):
                np.testing.assert_array_equal(is_read, expected)


def value_at(path: Path, level: int, position: dict[str, float]) -> Any:
    """Return the value at a place in the world, by the words of the specification alone."""
    is_new = (path / "zarr.json").exists()
    document = json.loads((path / ("zarr.json" if is_new else ".zattrs")).read_text())
    image = (document["attributes"]["ome"] if is_new else document)["multiscales"][0]
    dataset = image["datasets"][level]
    scale, moved = (step[step["type"]] for step in dataset["coordinateTransformations"])
    at = [position[axis["name"]] for axis in image["axes"]]
    index = np.rint((np.array(at) - moved) / scale).astype(int)
    return read_by_tensorstore(path / dataset["path"], 3 if is_new else 2)[tuple(index)]


@pytest.mark.parametrize("level", [0, 1])
def test_the_specification_alone_leads_from_a_place_to_its_value(output: Path, level: int) -> None:
    path, axes, levels = images_of(output)[-1]
    random = np.random.default_rng(level)
    size = {"T": 1, "C": 1, "Z": 2.0, "Y": 0.5, "X": 0.25}
    values = levels[level]
    for _ in range(10):
        index = tuple(random.integers(0, values.shape))
        # Anywhere in the block of elements that this one stands for.
        blocks = [2**level if axis in "YX" else 1 for axis in axes]
        inside = random.uniform(-0.45, 0.45, len(axes))
        places = zip(axes, index, blocks, inside, strict=True)
        position = {
            axis.lower(): size[axis] * ((number + shift) * block + (block - 1) / 2)
            for axis, number, block, shift in places
        }
        assert value_at(path, level, position) == values[index]
