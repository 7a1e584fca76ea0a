"""Where an image lies passes from its source to the prediction, for readers that know the specification alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import tifffile
import yaozarrs
import zarr
from click.testing import CliRunner
from tests.conformance.strategy_cases import write
from tests.doors.conftest import Predict

import tilewright as tw
from tilewright.cli.commands import commands
from tilewright.errors import DestinationError, GeometryError
from tilewright.ome.world import World
from tilewright.sources.opening import open_source

VOLUME = np.random.default_rng(0).integers(0, 99, (6, 40, 48)).astype("uint16")
TILES = {"tile_size": (6, 32, 32), "overlap": (2, 8, 8), "axes": None}
WORLD = World({"Z": 2, "Y": 0.5, "X": 0.25}, dict.fromkeys("ZYX", "um"), {"Z": 0, "Y": 0, "X": 7})


def multiscale(paths: tuple[str, ...], factor: float = 1) -> list[dict[str, Any]]:
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    datasets = []
    for level, path in enumerate(paths):
        scale = {"type": "scale", "scale": [2, 0.5 * 2**level, 0.25 * 2**level]}
        moved = {"type": "translation", "translation": [0, 0, factor * 7]}
        datasets.append({"path": path, "coordinateTransformations": [scale, moved]})
    return [{"axes": axes, "datasets": datasets}]


def ome_zarr(*paths: str, version: str = "0.5") -> zarr.Group:
    group = zarr.open_group("raw.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    said = {"multiscales": multiscale(paths)}
    group.attrs.update(said if version == "0.4" else {"ome": {"version": version, **said}})
    for level, path in enumerate(paths):
        names = {} if version == "0.4" else {"dimension_names": "zyx"}
        group.create_array(path, data=VOLUME[:, :: 2**level, :: 2**level], chunks=(6, 16, 16), **names)
    return group


def ome_tiff() -> str:
    sizes = {f"PhysicalSize{axis}": size for axis, size in WORLD.scale.items()}
    said = {"axes": "ZYX", **sizes, "Channel": {"Name": ["DAPI"]}}
    tifffile.imwrite("raw.ome.tif", VOLUME, metadata=said, photometric="minisblack")
    return "raw.ome.tif"


def imagej() -> str:
    said = {"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    tifffile.imwrite("raw.tif", VOLUME, imagej=True, resolution=(4, 2), metadata=said)
    return "raw.tif"


def one_of_a_collection() -> zarr.Group:
    root = zarr.open_group("raw.zarr", mode="w", attributes={"bioformats2raw.layout": 3})
    image = root.create_group("0", attributes={"ome": {"version": "0.5", "multiscales": multiscale(("s0",))}})
    image.create_array("s0", data=VOLUME)
    return root


IN_PLACE = World(WORLD.scale, WORLD.units)
KINDS: dict[str, tuple[Callable[[], Any], World]] = {
    "OME-Zarr 0.4": (lambda: ome_zarr("0", version="0.4") and "raw.zarr", WORLD),
    "OME-Zarr 0.5": (lambda: ome_zarr("s0", "s1"), WORLD),
    "the array of a level": (lambda: ome_zarr("scale0/image", "scale1/image") and "raw.zarr/scale0/image", WORLD),
    "an open array of a level": (lambda: ome_zarr("s0", "s1")["s0"], WORLD),
    "an image of a collection": (one_of_a_collection, WORLD),
    "OME-TIFF": (ome_tiff, World(WORLD.scale, WORLD.units, channel_names=("DAPI",))),
    "ImageJ": (imagej, World({**WORLD.scale}, {**WORLD.units})),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_says_its_axes_and_where_it_lies(kind: str, folder: Path) -> None:
    make, world = KINDS[kind]
    source = open_source(make(), None)
    assert source.axes.names == "ZYX"
    assert source.world == world
    np.testing.assert_array_equal(source.opened()[...], VOLUME)


def test_each_level_has_a_scale_of_its_own(folder: Path) -> None:
    ome_zarr("s0", "s1")
    assert open_source("raw.zarr/s1", None).world.scale == {"Z": 2, "Y": 1, "X": 0.5}


def positions(path: str) -> dict[str, Any]:
    """Return, of the first and last element, the value and the position in the world, as the specification has it."""
    is_new = Path(path, "zarr.json").exists()
    document = json.loads(Path(path, "zarr.json" if is_new else ".zattrs").read_text())
    said = document["attributes"]["ome"] if is_new else document
    image = said["multiscales"][0]
    scale, moved = image["datasets"][0]["coordinateTransformations"]
    driver = {
        "driver": "zarr3" if is_new else "zarr",
        "kvstore": f"file://{Path(path, image['datasets'][0]['path']).absolute()}",
    }
    array = tensorstore.open(driver, open=True).result()
    last = np.array(array.shape) - 1
    return {
        "axes": "".join(axis["name"] for axis in image["axes"]),
        "units": [axis.get("unit") for axis in image["axes"]],
        "first": moved["translation"],
        "last": list(moved["translation"] + last * scale["scale"]),
        "value": int(array[tuple(last)].read().result()),
    }


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shards", [None, "auto"])
def test_the_prediction_lies_where_its_source_does(
    zarr_format: int, shards: str | None, folder: Path, predict: Predict
) -> None:
    if zarr_format == 2 and shards:
        return
    ome_zarr("s0")
    predict(lambda tiles: tiles, "raw.zarr", zarr_format=zarr_format, shards=shards, **TILES)
    yaozarrs.validate_zarr_store("out.zarr")
    assert positions("out.zarr") == {
        "axes": "zyx",
        "units": ["micrometer"] * 3,
        "first": [0, 0, 7],
        "last": [10, 19.5, 7 + 47 * 0.25],
        "value": VOLUME[-1, -1, -1],
    }
    # What is predicted is a source with the same world.
    assert open_source("out.zarr", None).world == WORLD


def test_what_the_user_gives_wins(folder: Path) -> None:
    ome_zarr("s0")
    Path("models.py").write_text("import numpy\ndef negative():\n    return numpy.negative\n")
    tiles = ["--tile-size", "6,32,32", "--overlap", "2,8,8", "--model", "models.py:negative"]
    physical = ["--scale", "Z=3,X=1", "--units", "nm", "--channel-name", "nuclei"]
    done = CliRunner().invoke(commands, ["predict", "raw.zarr", "out.zarr", *tiles, *physical], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    world = open_source("out.zarr", None).world
    assert world == World({"Z": 3, "Y": 0.5, "X": 1}, dict.fromkeys("ZYX", "nm"), WORLD.translation, ("nuclei",))


def test_lost_attributes_are_written_again(folder: Path, predict: Predict) -> None:
    ome_zarr("s0")
    predict(lambda tiles: tiles, "raw.zarr", zarr_format=2, **TILES)
    said = Path("out.zarr/.zattrs").read_text()
    assert tw.verify("out.zarr").is_complete
    Path("out.zarr/.zattrs").unlink()
    predict(lambda tiles: tiles, "raw.zarr", zarr_format=2, if_exists="resume", **TILES)
    assert json.loads(Path("out.zarr/.zattrs").read_text()) == json.loads(said)


def test_write_zarr_says_where_an_image_lies(folder: Path) -> None:
    tw.write_zarr("out.zarr", VOLUME, axes="ZYX", scale=(2, 1, 1), units="um", ome_version="0.6")
    assert open_source("out.zarr", None).world.scale == {"Z": 2, "Y": 1, "X": 1}
    with pytest.raises(GeometryError, match="give axes= too"):
        tw.write_zarr("other.zarr", VOLUME, scale=(2, 1, 1))


def test_what_a_trainer_predicts_lies_where_its_source_does(folder: Path) -> None:
    ome_zarr("s0")
    tiled = tw.IterableTiledPredDataset("raw.zarr", None, (6, 32, 32), (2, 8, 8))
    write(tw.WriteTilesZarr(channel_names=["a"]), tiled, folder / "out")
    assert open_source("out/raw.zarr", None).world == WORLD.updated(World(channel_names=("a",)))


REFUSED = {
    "axes that the metadata contradict": (
        {"axes": "TYX"},
        "axes 'TYX' contradict the source, whose metadata say 'ZYX'",
    ),
    "names of other channels": ({"channel_names": ["a", "b"]}, "one name for each of the 1 channels"),
    "a version of the other format": ({"ome_version": "0.4"}, r"ome_version must be one of \('0.5', '0.6'\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_metadata_that_do_not_fit_are_refused_and_nothing_is_made(what: str, folder: Path) -> None:
    given, match = REFUSED[what]
    ome_zarr("s0")
    tiles = (32, 32) if given.get("axes") == "TYX" else (6, 32, 32)
    with pytest.raises(GeometryError, match=match):
        tw.predict_to_zarr(
            np.negative, "raw.zarr", "out.zarr", tile_size=tiles, overlap=(2,) * len(tiles), progress=False, **given
        )
    assert not Path("out.zarr").exists()


def test_axes_that_nothing_names_must_be_given(folder: Path) -> None:
    with pytest.raises(GeometryError, match="axes must be given"):
        tw.plan_write(VOLUME, tile_size=(6, 32, 32), overlap=(2, 8, 8))
    assert tw.plan_write(ome_zarr("s0"), tile_size=(6, 32, 32), overlap=(2, 8, 8)).axes == "ZYX"
    assert tw.IterablePredDataset(ome_zarr("s0"), None).axes == "ZYX"


def threshold(tiles: np.ndarray) -> np.ndarray:
    return (tiles > 50).astype("uint8")


def test_labels_are_listed_in_their_image_and_can_be_repaired(folder: Path, predict: Predict) -> None:
    image = "raw.zarr"
    ome_zarr("s0")
    for name in ("cells", "nuclei"):
        predict(threshold, image, f"raw.zarr/labels/{name}", **TILES)
    tw.write_zarr("raw.zarr/labels/drawn", VOLUME, axes="ZYX")
    yaozarrs.validate_zarr_store("raw.zarr")
    assert zarr.open_group("raw.zarr/labels").attrs["ome"]["labels"] == ["cells", "nuclei", "drawn"]
    assert sorted(path.name for path in Path("raw.zarr/labels").iterdir()) == ["cells", "drawn", "nuclei", "zarr.json"]
    assert tw.verify("raw.zarr/labels/cells").is_complete
    next(path for path in Path("raw.zarr/labels/cells/0/c").rglob("*") if path.is_file()).unlink()
    assert tw.repair("raw.zarr/labels/cells", threshold, image, progress=False).unit_count == 1
    np.testing.assert_array_equal(zarr.open_array("raw.zarr/labels/cells/0")[...], VOLUME > 50)


def test_labels_that_are_no_whole_numbers_or_of_another_format_are_refused(folder: Path, predict: Predict) -> None:
    image = ome_zarr("s0")
    with pytest.raises(GeometryError, match="labels must be whole numbers, and the data type is float32"):
        predict(lambda tiles: tiles.astype("float32"), image, "raw.zarr/labels/cells", **TILES)
    with pytest.raises(DestinationError, match="must have the Zarr format of their image"):
        predict(threshold, image, "raw.zarr/labels/cells", zarr_format=2, **TILES)
