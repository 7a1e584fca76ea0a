"""The demo, small and short: it draws a picture, and predicts something better than what it was given."""

import numpy as np
import pytest
import zarr

from tilewright.demo import psnr, run_demo
from tilewright.demo.samples import add_noise, load_microscopy_image, write_synthetic_volume


@pytest.mark.slow
def test_demo_predicts_and_draws(tmp_path):
    lines = []
    result = run_demo(tmp_path / "demo", training_seconds=4.0, volume_shape=(20, 96, 320), echo=lines.append)

    content = result.picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert 100_000 < len(content) < 1_000_000
    assert result.image_report.array.shape == load_microscopy_image().shape == (512, 512)
    assert result.volume_report.array.shape == (20, 96, 320)
    assert str(result.volume_report.plan) in lines
    assert str(result.volume_report) in lines
    # That is short, on a busy machine very short: no more than some improvement is asked for.
    for noisy, predicted in (result.image_psnr, result.volume_psnr):
        assert predicted > noisy + 0.5
    assert result.image_psnr[0] < 17


@pytest.mark.slow
def test_demo_replaces_its_earlier_outputs(tmp_path):
    for _ in range(2):
        result = run_demo(tmp_path, training_seconds=0.0, volume_shape=(4, 64, 64), echo=lambda line: None)
    assert result.picture.exists()


def test_clean_plane_lies_beneath_the_noise_of_the_volume(tmp_path):
    # The first and the last plane of a slab, and one between them.
    for plane in (7, 8, 12):
        clean = write_synthetic_volume(tmp_path / "volume", (20, 80, 96), plane=plane, seed=3)
        noisy = zarr.open_array(tmp_path / "volume", mode="r")
        slab = np.zeros((min(8, 20 - plane // 8 * 8), 80, 96), dtype=np.float32)
        noise = add_noise(slab, (3, plane // 8 * 8))[plane % 8]
        np.testing.assert_allclose(noisy[plane] - noise, clean, atol=1e-5)


def test_synthetic_volume_depends_on_its_seed_only(tmp_path):
    shape = (20, 80, 96)
    planes = [write_synthetic_volume(tmp_path / name, shape, plane=9, seed=3) for name in ("first", "second")]
    first, second = (zarr.open_array(tmp_path / name, mode="r")[:] for name in ("first", "second"))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(*planes)
    assert 15 < psnr(first[9], planes[0]) < 18

    other = write_synthetic_volume(tmp_path / "other", shape, plane=9, seed=4)
    assert not np.array_equal(other, planes[0])
