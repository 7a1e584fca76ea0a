"""Of HDF5 and N5 only the blocks of a window are read, and what is missing, elsewhere or not installed is said."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
from tests.support import write_hdf5, write_n5

import tilewright as tw
from tilewright.errors import DestinationError, GeometryError, SourceError
from tilewright.sources.opening import open_source
from tilewright.sources.source_identity import source_identity

IMAGE = np.random.default_rng(7).integers(1, 60_000, (6, 24, 20)).astype("uint16")
BLOCK = (2, 8, 8)
WINDOW = {"Z": (2, 4), "Y": (8, 17), "X": (0, 8)}
"""It touches two blocks."""
REQUEST: dict[str, Any] = {"axes": "ZYX", "tile_size": (4, 8, 8), "overlap": (2, 2, 2), "progress": False}


def hdf5(folder: Path) -> Path:
    return write_hdf5(folder / "raw.h5", IMAGE, chunks=BLOCK, compression="gzip")


def n5(folder: Path) -> Path:
    return write_n5(folder / "raw.n5/volumes/raw", IMAGE, BLOCK)


def test_a_window_of_hdf5_reads_no_chunk_beside_it(tmp_path: Path) -> None:
    address = hdf5(tmp_path)
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "raw.h5"
    with h5py.File(path) as file:
        dataset = file["volumes/raw"].id
        chunks = [dataset.get_chunk_info(number) for number in range(dataset.get_num_chunks())]
    content = bytearray(path.read_bytes())
    for chunk in chunks:
        if chunk.chunk_offset not in ((2, 8, 0), (2, 16, 0)):
            content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    source = open_source(address, "ZYX")
    np.testing.assert_array_equal(source.read_window(WINDOW)[0], IMAGE[2:4, 8:17, 0:8])
    with pytest.raises(SourceError, match=r"could not read Z 0:1, Y 0:24, X 0:20 of .*raw\.h5:/volumes/raw"):
        source.read_window({"Z": (0, 1)})


def test_blocks_of_n5_that_are_missing_are_counted_where_a_window_needs_them(tmp_path: Path) -> None:
    path = n5(tmp_path)
    for name in ("0/2/1", "2/0/0", "2/1/0"):
        (path / name).unlink()
    source = open_source(path, "ZYX")
    expected = IMAGE.copy()
    expected[2:4, 16:, :8] = expected[:2, :16, 16:] = 0
    assert source.read_window({"Z": (2, 4), "Y": (8, 16), "X": (0, 8)}).all()
    assert not source.take_missing()
    np.testing.assert_array_equal(source.read_window(WINDOW)[0], expected[2:4, 8:17, :8])
    assert len(source.take_missing()) == 1
    report = tw.predict_to_zarr(np.positive, path, tmp_path / "out.zarr", **REQUEST)
    np.testing.assert_array_equal(report.array[...], expected)
    assert report.missing_count == 3


@pytest.mark.parametrize("chunks", [BLOCK, None])
def test_chunks_of_hdf5_that_were_never_written_are_counted(chunks: Any, tmp_path: Path) -> None:
    with pytest.importorskip("h5py").File(tmp_path / "raw.h5", "w") as file:
        dataset = file.create_dataset("raw", IMAGE.shape, "uint16", chunks=chunks, fillvalue=9)
        if chunks:
            dataset[:2] = IMAGE[:2]
    report = tw.predict_to_zarr(np.positive, f"{tmp_path}/raw.h5:/raw", tmp_path / "out.zarr", **REQUEST)
    assert (report.array[2:] == 9).all()
    assert report.missing_count == (18 if chunks else 1)


def test_axes_of_n5_are_those_of_an_array_that_tensorstore_lists_in_reverse(tmp_path: Path) -> None:
    said = {"dimensions": [20, 24, 6], "blockSize": [8, 8, 2], "dataType": "uint16", "compression": {"type": "raw"}}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(tmp_path / "a.n5/raw")}, "metadata": said}
    tensorstore.open(spec, create=True).result().write(IMAGE.T).result()
    source = open_source(tmp_path / "a.n5/raw", "ZYX")
    assert source.axes.shape == IMAGE.shape
    np.testing.assert_array_equal(source.read_window(WINDOW)[0], IMAGE[2:4, 8:17, 0:8])


def test_labels_of_hdf5_are_axes_that_must_not_be_contradicted(tmp_path: Path) -> None:
    address = hdf5(tmp_path)
    with pytest.importorskip("h5py").File(tmp_path / "raw.h5", "a") as file:
        for dimension, name in zip(file["volumes/raw"].dims, "xyz", strict=True):
            dimension.label = name
    with pytest.raises(GeometryError, match="axes 'ZYX' contradict the source, whose metadata say 'XYZ'"):
        open_source(address, "ZYX")


@pytest.mark.parametrize(("make", "extra"), [(hdf5, "hdf5"), (n5, "n5")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    make: Any, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = make(tmp_path)
    monkeypatch.setitem(sys.modules, {"hdf5": "h5py", "n5": "tensorstore"}[extra], None)
    with pytest.raises(SourceError, match=rf'pip install "tilewright\[{extra}\]"'):
        open_source(address, "ZYX")


def test_a_part_of_a_virtual_dataset_that_is_missing_is_named(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    layout = h5py.VirtualLayout(IMAGE.shape, "uint16")
    layout[...] = h5py.VirtualSource("raw.h5", "volumes/raw", IMAGE.shape)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("all", layout)
    with pytest.raises(SourceError, match=r"has a part in raw\.h5, which is not there"):
        open_source(tmp_path / "all.h5:all", "ZYX")
    hdf5(tmp_path)
    source = open_source(tmp_path / "all.h5:all", "ZYX")
    np.testing.assert_array_equal(source.read_window({})[0], IMAGE)
    assert not source.take_missing()
    before = source_identity(source)
    source.close()
    with h5py.File(tmp_path / "raw.h5", "a") as file:
        file["more"] = np.zeros(9)
    assert source_identity(open_source(tmp_path / "all.h5:all", "ZYX")) != before


@pytest.mark.parametrize("make", [hdf5, n5])
def test_an_output_goes_on_with_the_same_dataset_only(make: Any, tmp_path: Path) -> None:
    address, out = make(tmp_path), tmp_path / "out.zarr"
    tw.predict_to_zarr(np.positive, address, out, **REQUEST)
    before = source_identity(open_source(address, "ZYX"))
    assert "not compared" not in before
    (out / "0/c/0/0/0").unlink()
    np.testing.assert_array_equal(tw.repair(out, np.positive, progress=False).array[...], IMAGE)
    with pytest.raises(DestinationError, match="is the source"):
        tw.predict_to_zarr(np.positive, address, tmp_path, if_exists="overwrite-foreign", **REQUEST)
    # The same extents, other elements.
    other = tmp_path / "other"
    other.mkdir()
    changed = IMAGE + 1
    write_hdf5(other / "raw.h5", changed) if make is hdf5 else write_n5(other / "raw.n5/volumes/raw", changed, BLOCK)
    with pytest.raises(DestinationError, match=r"source: .* then"):
        tw.predict_to_zarr(np.positive, other / address.relative_to(tmp_path), out, if_exists="resume", **REQUEST)
    if make is hdf5:
        # It is closed after a run: else HDF5 would not open it to be written.
        with pytest.importorskip("h5py").File(tmp_path / "raw.h5", "r+") as file:
            assert "volumes" in file


def test_datasets_of_one_file_have_outputs_of_their_own(tmp_path: Path) -> None:
    sources = [hdf5(tmp_path), write_hdf5(tmp_path / "raw.h5", IMAGE, "labels"), n5(tmp_path)]
    dataset = tw.IterablePredDataset(sources, "ZYX")
    assert [tw.get_sample_file_path(dataset, sample) for sample in range(3)] == sources
    names = [tw.create_write_file_path("out", path, ".tif").name for path in sources]
    assert names == ["raw_volumes_raw.tif", "raw_labels.tif", "raw_volumes_raw.tif"]


def test_metadata_of_n5_that_changed_are_refused(tmp_path: Path) -> None:
    path = n5(tmp_path)
    source = open_source(path, "ZYX")
    source.close()
    attributes = json.loads((path / "attributes.json").read_text())
    (path / "attributes.json").write_text(json.dumps({**attributes, "pixelResolution": [4, 4, 40]}))
    source.read_window(WINDOW)
    source.close()
    (path / "attributes.json").write_text(json.dumps({**attributes, "dataType": "int16"}))
    with pytest.raises(SourceError, match="are not those of the dataset that was opened first"):
        source.read_window(WINDOW)


def test_a_forked_process_says_that_it_cannot_read_n5(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from tilewright.sources.opening import open_source\n"
        f"source = open_source({str(n5(tmp_path))!r}, 'ZYX')\n"
        "source.read_window({})\n"
        "if os.fork() == 0:\n"
        "    source.read_window({})\n"
        "sys.exit(os.wait()[1] == 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "multiprocessing_context='spawn'" in done.stderr
    assert done.returncode == 0
