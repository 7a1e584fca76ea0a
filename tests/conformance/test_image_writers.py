"""One suite for both formats of images: they appear whole or not at all, and are computed chunk by chunk."""

import errno
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tifffile
import zarr
from tests.lazy_images import calling, failing, image_of
from tests.support import files_of_at_most, tree

from tilewright.images.tiff import write_tiff
from tilewright.images.zarr import write_zarr


@dataclass(frozen=True)
class Way:
    """A function that writes images, its options, and how its files are read."""

    write_func: Callable[..., None]
    name: str
    read: Callable[[Path], np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, img: Any, **options: Any) -> None:
        self.write_func(folder / self.name, img, **self.options | options)


def read_zarr(path: Path) -> np.ndarray:
    return zarr.open_array(path / "0", mode="r")[...]


WAYS = {
    "TIFF": Way(write_tiff, "a.tiff", tifffile.imread),
    "TIFF, compressed": Way(write_tiff, "a.tiff", tifffile.imread, {"compression": "zlib"}),
    "TIFF, in tiles": Way(write_tiff, "a.tiff", tifffile.imread, {"tile": (16, 16)}),
    "Zarr": Way(write_zarr, "a.zarr", read_zarr),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt(), FileNotFoundError(2, "no", "src")])
def test_a_chunk_that_fails_leaves_nothing_and_what_was_there_as_it_was(
    error: BaseException, is_there: bool, way: Way, tmp_path: Path
) -> None:
    if is_there:
        way.write(tmp_path, image_of((5, 6)))
    before = tree(tmp_path)
    with pytest.raises(type(error)) as raised:
        way.write(tmp_path, failing(error))
    # An error of the source is not one of the output.
    assert str(raised.value) == str(error)
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [way.name] * is_there


def test_until_it_is_complete_an_image_has_a_partial_name_and_the_earlier_one_stays(way: Way, tmp_path: Path) -> None:
    earlier = image_of((5, 6))

    def look(_: tuple[int, ...]) -> None:
        names = {path.name for path in tmp_path.iterdir()}
        assert len(names) > 1
        assert all(name.endswith(".partial") for name in names - {way.name})
        np.testing.assert_array_equal(way.read(tmp_path / way.name), earlier)

    way.write(tmp_path, earlier)
    way.write(tmp_path, calling(look, (2, 1100, 1200), (1, 560, 1200)))
    read = way.read(tmp_path / way.name)
    assert read.shape == (2, 1100, 1200)
    assert read.all()
    assert [path.name for path in tmp_path.iterdir()] == [way.name]


CHUNKED: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("TIFF", (3, 50, 70), (2, 17, 29), {}),
    ("TIFF, compressed", (3, 50, 70), (2, 17, 29), {}),
    ("TIFF, in tiles", (3, 50, 70), (2, 17, 29), {"compression": "zlib"}),
    # Where the borders meet; of so many bytes that there are several units.
    ("Zarr", (3, 800, 1120), (1, 384, 512), {"chunks": (1, 128, 256)}),
    ("Zarr", (3, 800, 1120), (1, 384, 512), {"chunks": (1, 128, 256), "shards": (1, 384, 512)}),
    ("Zarr", (3, 800, 1120), (3, 800, 1120), {"chunks": (1, 64, 112)}),
    ("Zarr", (3, 800, 1120), (1, 160, 160), {"chunks": (1, 320, 480)}),
    ("Zarr", (2, 2800, 900), (1, 400, 450), {}),
    ("Zarr", (2, 12, 2800, 60), (1, 1, 2800, 60), {"chunks": (1, 1, 400, 60)}),
]


@pytest.mark.parametrize(("name", "shape", "chunks", "options"), CHUNKED)
def test_each_chunk_is_computed_once_in_the_calling_thread(
    name: str, shape: tuple[int, ...], chunks: tuple[int, ...], options: dict[str, Any], tmp_path: Path
) -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    threads = set()

    def count(block_id: tuple[int, ...]) -> None:
        counts[block_id] += 1
        threads.add(threading.get_ident())

    img = calling(count, shape, chunks)
    WAYS[name].write(tmp_path, img, **options)
    assert counts == Counter(np.ndindex(img.numblocks))
    assert threads == {threading.get_ident()}
    assert WAYS[name].read(tmp_path / WAYS[name].name).all()


@pytest.mark.slow
def test_what_cannot_grow_is_an_error_that_names_the_image_and_leaves_nothing(way: Way, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (4, 400, 400)).astype("uint8")
    for img in (image, dask.array.from_array(image, chunks=(1, 90, 90))):
        with (
            files_of_at_most(400_000 if "tiff" in way.name else 2_000),
            pytest.raises(OSError, match="could not write") as raised,
        ):
            way.write(tmp_path, img)
        assert raised.value.filename == str(tmp_path / way.name)
        # numpy.ndarray.tofile does not say why it failed.
        assert raised.value.errno in (errno.EFBIG, errno.EIO)
    assert list(tmp_path.iterdir()) == []


PAGES, PAGE, PART = (2, 2048, 2048), (1, 2048, 4096), (1, 4, 2048, 2048)
FAST = {"compression": "zlib", "compressionargs": {"level": 1}}
MEMORY = """
import re
from pathlib import Path
import dask.array, numpy as np
from tilewright.images.{module} import write_{module} as write

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def image(shape):
    ones = dask.array.ones(shape, chunks={chunks!r}, dtype="uint16")
    return ones.map_blocks(np.add, np.uint16(7), dtype="uint16")

write({path!r}, image({part!r}), **{options!r})
Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
before = peak_mib()
write({path!r}, image({shape!r}), **{options!r})
print(peak_mib() - before)
"""
LARGE: list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    # What is written, a part of it, and its chunks. 240 MiB as they are, and 160 MiB encoded, in pages, one, and tiles;
    ("TIFF", (30, 2048, 2048), PAGES, PAGES, {}),
    ("TIFF", (1, 8192, 10240), PAGE, PAGE, {}),
    ("TIFF", (20, 2048, 2048), PAGES, PAGES, FAST),
    ("TIFF", (1, 8192, 10240), PAGE, PAGE, FAST),
    ("TIFF", (1, 8192, 10240), PAGE, PAGE, {"tile": (512, 512)}),
    # and 192 MiB, of which a few regions are held.
    ("Zarr", (1, 24, 2048, 2048), PART, (1, 2, 2048, 2048), {}),
    ("Zarr", (1, 24, 2048, 2048), PART, (1, 20, 512, 800), {"compressors": None, "shards": (1, 20, 512, 512)}),
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize(("name", "shape", "part", "chunks", "options"), LARGE)
def test_a_large_image_takes_no_more_memory_than_a_part_of_it(
    name: str, shape: Any, part: Any, chunks: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    case = {"shape": shape, "part": part, "chunks": chunks, "options": options}
    script = MEMORY.format(module=name.lower(), path=str(tmp_path / WAYS[name].name), **case)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert float(done.stdout) < (64 if name == "TIFF" else 100)
