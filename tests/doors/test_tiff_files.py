"""A TIFF file gives all of its planes, or is refused: a plane that is missing is never one of zeros."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tests.doors.conftest import Predict

from tilewright.errors import GeometryError, SourceError
from tilewright.sources.opening import open_source

VOLUME = np.random.default_rng(4).integers(1, 60_000, (6, 24, 32)).astype("uint16")
TILES: dict[str, Any] = {"axes": "ZYX", "tile_size": (4, 16, 16), "overlap": (2, 4, 4)}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, compressed": {"compression": "zlib"},
    "without metadata": {"metadata": None},
    "without metadata, compressed": {"metadata": None, "compression": "zlib"},
    "in tiles": {"tile": (16, 16)},
    "BigTIFF": {"bigtiff": True, "compression": "zlib"},
    "ImageJ": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ImageJ, compressed": {"imagej": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
    "OME": {"ome": True, "metadata": {"axes": "ZYX"}},
    "OME, compressed": {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
}
OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
    'DimensionOrder="XYZCT" Type="uint16" SizeX="32" SizeY="24" SizeZ="{planes}" SizeC="1" SizeT="1">{data}</Pixels>'
    "</Image></OME>"
)


def written(path: Path, options: dict[str, Any]) -> Path:
    tifffile.imwrite(path, VOLUME, photometric="minisblack", **options)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_gives_its_voxels(kind: str, folder: Path, predict: Predict) -> None:
    source = written(folder / "whole.tif", KINDS[kind])
    report = predict(lambda tiles: tiles, source, **TILES)
    np.testing.assert_array_equal(report.array[...], VOLUME)
    assert report.notes == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_short_anywhere_is_refused_and_axes_are_not_blamed(kind: str, tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.tif", KINDS[kind]).read_bytes()
    cut = tmp_path / "cut.tif"
    lengths = {len(whole) - 1, len(whole) - 30, 10, *range(100, len(whole), len(whole) // 23)}
    for nbytes in sorted(lengths):
        cut.write_bytes(whole[:nbytes])
        try:
            source = open_source(cut, "ZYX")
        except SourceError as error:
            assert "cut.tif" in str(error)  # noqa: PT017
            assert "axes" not in str(error)  # noqa: PT017
        else:
            # What was cut off may say nothing.
            read = source.read_window({})[0]
            np.testing.assert_array_equal(read, VOLUME, err_msg=str(nbytes))
            assert nbytes > len(whole) - 40


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_that_are_missing_are_counted_and_refused(
    compression: str | None, folder: Path, predict: Predict
) -> None:
    tifffile.imwrite(
        "planes.ome.tif",
        VOLUME[:5],
        description=OME.format(planes=8, data="<TiffData/>"),
        metadata=None,
        compression=compression,
        photometric="minisblack",
    )
    with pytest.raises(SourceError, match=r"8 planes, of which 3 are missing \(the first is plane 5\)"):
        predict(source="planes.ome.tif", **TILES)
    assert [path.name for path in folder.iterdir()] == ["planes.ome.tif"]


def test_a_file_of_an_image_that_is_missing_is_refused(folder: Path, predict: Predict) -> None:
    names = ["one.ome.tif", "two.ome.tif"]
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="{z % 3}" PlaneCount="1"><UUID FileName="{names[z // 3]}">urn:uuid:{z // 3}</UUID>'
        "</TiffData>"
        for z in range(6)
    )
    for number, name in enumerate(names):
        description = OME.format(planes=6, data=data).replace("<OME ", f'<OME UUID="urn:uuid:{number}" ')
        planes = VOLUME[3 * number : 3 * number + 3]
        tifffile.imwrite(name, planes, description=description, metadata=None, photometric="minisblack")
    report = predict(lambda tiles: tiles, "one.ome.tif", **TILES)
    np.testing.assert_array_equal(report.array[...], VOLUME)
    Path("two.ome.tif").unlink()
    with pytest.raises(SourceError, match="6 planes, of which 3 are missing"):
        predict(source="one.ome.tif", destination="other.zarr", **TILES)


def test_of_several_series_one_is_taken_and_the_others_are_counted(folder: Path, predict: Predict) -> None:
    with tifffile.TiffWriter("several.ome.tif", ome=True) as file:
        for number in range(3):
            file.write(VOLUME + number, photometric="minisblack", metadata={"axes": "ZYX"})
    report = predict(lambda tiles: tiles, "several.ome.tif", **TILES)
    np.testing.assert_array_equal(report.array[...], VOLUME)
    assert "series 0 of the 3" in report.notes[0]
    second = predict(lambda tiles: tiles, "several.ome.tif", "second.zarr", series=2, **TILES)
    np.testing.assert_array_equal(second.array[...], VOLUME + 2)
    with pytest.raises(SourceError, match="holds 3 series, counted from 0: none is 3"):
        predict(source="several.ome.tif", destination="third.zarr", series=3, **TILES)


def test_axes_that_the_file_says_in_another_order_are_refused(tmp_path: Path) -> None:
    image = np.zeros((4, 3, 24, 32), "uint16")
    tifffile.imwrite(tmp_path / "raw.tif", image, imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(GeometryError, match="axes 'CZYX' contradict the source, whose metadata say 'ZCYX'"):
        open_source(tmp_path / "raw.tif", "CZYX")
    assert open_source(tmp_path / "raw.tif", "ZCYX").notes == ()
    assert "taken as 'TCYX', as was asked for" in open_source(tmp_path / "raw.tif", "TCYX").notes[0]
