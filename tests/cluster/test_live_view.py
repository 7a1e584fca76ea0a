"""A second process opens an image while it is written, and sees valid data at a coarse level."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from tests.faults.support import wait_for

import tilewright as tw

READER = """
import sys
import numpy as np
import tensorstore

spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": sys.argv[1] + "/1"}}
np.save(sys.argv[2], tensorstore.open(spec).result().read().result())
"""


@dataclass
class LooksAtTheOutput:
    """A model that lets another process read the output, once a unit of a coarser level is stored."""

    output: Path
    seen: Path
    tile_count: int
    calls: int = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.tile_count // 2:
            wait_for(lambda: any(path.is_file() for path in self.output.glob("1/c/**/*")), "a unit of level 1")
            command = [sys.executable, "-c", READER, str(self.output), str(self.seen)]
            subprocess.run(command, check=True, timeout=60)
        return tiles


def test_a_viewer_sees_the_image_grow(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 255, (2200, 1400), "uint8")
    request = {"axes": "YX", "tile_size": (96, 96), "overlap": (16, 16), "layout": "aligned", "memory_nbytes": 2**20}
    tile_count = tw.plan_write(image.shape, **request, dtype="uint8").tile_count
    model = LooksAtTheOutput(tmp_path / "o.zarr", tmp_path / "seen.npy", tile_count)
    report = tw.predict_to_zarr(model, image, tmp_path / "o.zarr", **request, progress=False)
    seen, whole = np.load(tmp_path / "seen.npy"), zarr.open_array(tmp_path / "o.zarr" / "1", mode="r")[:]
    assert len(report.plan.arrays) > 2
    assert seen.shape == whole.shape
    # What was not written then reads as the fill value, and all else is as it stays.
    is_seen = seen != 0
    assert 0 < is_seen.sum() < seen.size
    np.testing.assert_array_equal(seen[is_seen], whole[is_seen])
