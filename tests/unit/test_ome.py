"""What is said of the place of an image is valid for others, right for each level, and read back as it was said."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import yaozarrs
from hypothesis import given
from hypothesis import strategies as st

from tilewright.errors import GeometryError
from tilewright.ome.attributes import SampleAxisError, collection_attributes, image_attributes
from tilewright.ome.multiscales import multiscales_of
from tilewright.ome.tiff import world_of_imagej, world_of_ome_xml
from tilewright.ome.units import unit_name
from tilewright.ome.world import GivenWorld, World

AXES = ["".join(chosen) + "YX" for chosen in product(("", "T"), ("", "C"), ("", "Z"))]
numbers = st.floats(0.001, 1000)


@st.composite
def pyramids(draw: st.DrawFn) -> tuple[str, list[tuple[int, ...]], World]:
    axes = draw(st.sampled_from(AXES))
    halved = draw(st.lists(st.sampled_from(["YX", "ZYX"]), max_size=3))
    factors = [tuple(2 ** sum(axis in names for names in halved[:level]) for axis in axes) for level in range(4)]
    physical = axes.replace("C", "")
    scale = {axis: draw(numbers) for axis in physical}
    moved = {axis: draw(st.floats(-100, 100)) for axis in physical}
    units = {axis: "second" if axis == "T" else "micrometer" for axis in physical}
    return axes, factors[: len(halved) + 1], World(scale, units, moved, ("a",) * (2 if "C" in axes else 1))


@given(pyramids(), st.sampled_from(["0.4", "0.5", "0.6"]))
def test_an_element_of_a_level_lies_in_the_middle_of_its_block(pyramid: Any, version: str) -> None:
    axes, factors, world = pyramid
    shape, windows = (2,) * len(axes), [(0, 255)] * len(world.channel_names)
    said = image_attributes(version, axes, shape, factors, world, method="mean", windows=windows)
    if version != "0.6":
        yaozarrs.validate_ome_object(said)
    (image,) = multiscales_of(said)
    assert (image.axes, image.levels[0].world) == (axes, world)
    for level, of_level in zip(image.levels, factors, strict=True):
        for axis, factor in zip(axes, of_level, strict=True):
            if axis != "C":
                block = world.translation[axis] + world.scale[axis] * np.arange(3 * factor, 4 * factor)
                at = level.world.translation[axis] + 3 * level.world.scale[axis]
                assert at == pytest.approx(block.mean(), abs=1e-9)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_and_collections_are_valid(version: str) -> None:
    label = image_attributes(version, "YX", (8, 8), [(1, 1)], World(), is_label=True, labelled="../../")
    for said in (label, *collection_attributes(version, ["0", "1"])):
        yaozarrs.validate_ome_object(said)


NAMES = ["t", "c", "z", "y", "x"]
STEPS = {
    "coordinateTransformations": [{"type": "scale", "scale": [2, 4]}, {"type": "translation", "translation": [1, 3]}]
}
OLD_AND_OTHER: dict[str, tuple[dict[str, Any], str, World]] = {
    "0.1": ({"version": "0.1", "datasets": [{"path": "0"}]}, "TCZYX", World()),
    "0.3": ({"version": "0.3", "axes": NAMES, "datasets": [{"path": "0"}]}, "TCZYX", World()),
    "a scale of all levels": (
        {
            "axes": [{"name": "y"}, {"name": "x", "unit": "nm"}],
            "datasets": [{"path": "0", **STEPS}],
            "coordinateTransformations": [{"type": "scale", "scale": [10, 10]}],
        },
        "YX",
        World({"Y": 20, "X": 40}, {"X": "nm"}, {"Y": 10, "X": 30}),
    ),
    "a rotation": (
        {"axes": ["y", "x"], "datasets": [{"path": "0", "coordinateTransformations": [{"type": "rotation"}]}]},
        "YX",
        World(),
    ),
    "axes of other names": (
        {"axes": [{"name": "frame", "type": "time"}, "depth", "y", "x"], "datasets": [{"path": "0"}]},
        "T?YX",
        World(),
    ),
    "a scale of wrong length": (
        {
            "axes": ["y", "x"],
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1]}]}],
        },
        "YX",
        World(),
    ),
}


@pytest.mark.parametrize("kind", OLD_AND_OTHER)
def test_what_metadata_do_not_say_is_left_out(kind: str) -> None:
    said, axes, world = OLD_AND_OTHER[kind]
    (image,) = multiscales_of({"multiscales": [said]})
    assert (image.axes, image.levels[0].path, image.levels[0].world) == (axes, "0", world)


@pytest.mark.parametrize(
    "damaged", [None, 1, "0", {}, [None], [{"datasets": 3}], [{"datasets": [{"path": 0}], "axes": 1}]]
)
def test_damaged_metadata_name_no_level(damaged: Any) -> None:
    assert not any(image.levels for image in multiscales_of({"multiscales": damaged, "omero": damaged}))


def test_the_finest_level_is_found_in_any_order() -> None:
    steps = [[{"type": "scale", "scale": [scale, scale]}] for scale in (4, 1, 2)]
    levels = [{"path": f"s{n}", "coordinateTransformations": said} for n, said in enumerate(steps)]
    (image,) = multiscales_of({"multiscales": [{"axes": ["y", "x"], "datasets": levels}]})
    assert image.finest is not None
    assert image.finest.path == "s1"


@pytest.mark.parametrize(
    ("axis", "text", "name"),
    [
        ("X", "\u00b5m", "micrometer"),
        ("X", "\u03bcm", "micrometer"),
        ("X", "\\u00B5m", "micrometer"),
        ("X", "Micrometers", "micrometer"),
        ("Z", "millimetre", "millimeter"),
        ("Y", "inches", "inch"),
        ("T", "sec", "second"),
        ("T", "um", None),
        ("X", "pixel", None),
        ("X", 3, None),
    ],
)
def test_units_have_their_usual_spellings(axis: str, text: Any, name: str | None) -> None:
    assert unit_name(axis, text) == name


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (GivenWorld(scale=(1, 2)), "one number for each spatial axis ZYX"),
        (GivenWorld(scale=(1, 2, 0)), "scale of axis X must be above 0"),
        (GivenWorld(scale={"X": "wide"}), "scale of axis X must be a finite number"),
        (GivenWorld(scale={"T": 1}), "given for axis 'T', and the image has the axes CZYX"),
        (GivenWorld(units="furlong"), "units of axis Z must be a unit that OME-Zarr lists"),
        (GivenWorld(channel_names=["a", ""]), "channel_names must be names"),
    ],
)
def test_what_a_user_gives_is_checked(given: GivenWorld, match: str) -> None:
    with pytest.raises(GeometryError, match=match):
        given.on("CZYX")


def test_samples_are_no_axis_of_ome_zarr() -> None:
    with pytest.raises(SampleAxisError, match="store each sample as an image of its own"):
        image_attributes("0.5", "SYX", (2, 8, 8), [(1, 1, 1)], World())


def test_tiff_files_say_no_more_than_they_know() -> None:
    assert world_of_ome_xml("<OME", 0, 1) == World()
    text = '<OME><Image><Pixels PhysicalSizeX="2" PhysicalSizeXUnit="pixel"><Channel/></Pixels></Image></OME>'
    assert world_of_ome_xml(text, 0, 1) == World({"X": 2})
    assert world_of_ome_xml(text, 0, 2) == World()
    assert world_of_imagej({"unit": "pixel", "spacing": 3.0}, ((1, 1), (1, 1))) == World()
