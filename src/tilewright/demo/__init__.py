"""Demo that trains, predicts and draws, with figures measured in this run, and no volume held whole in memory.

The quality of the image is measured on the half that was not used for training.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from tilewright.demo.network import DenoisingUNet, PlaneByPlane, train_denoiser
from tilewright.prediction import predict_to_zarr
from tilewright.runs.report import Report

try:
    from tilewright.demo.picture import PictureRow, draw_picture
    from tilewright.demo.samples import (
        NOISE_LEVEL,
        SLAB_PLANES,
        FloatArray,
        add_noise,
        load_microscopy_image,
        write_synthetic_volume,
    )
except ImportError as error:
    raise ImportError(
        f"The demo needs {error.name}, which is not installed. Remedy: pip install 'tilewright[demo]'"
    ) from error

__all__ = ["DemoResult", "run_demo"]

MEMORY_NBYTES = 128 * 2**20  # for predicted tiles that wait: a third of the volume
VOLUME, REPORT = "volume.zarr", "report.html"


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo.

    Attributes
    ----------
    picture : Path
        Path of the PNG.
    image_report, volume_report : Report
        Reports of the two predictions.
    image_psnr, volume_psnr : tuple of float
        Peak signal-to-noise ratio in dB of the noisy input and of the prediction: for the image on the half
        that was not used for training, for the volume on the plane in the picture.
    """

    picture: Path
    image_report: Report
    volume_report: Report
    image_psnr: tuple[float, float]
    volume_psnr: tuple[float, float]


def run_demo(
    directory: Path,
    *,
    seed: int = 0,
    training_seconds: float = 15.0,
    volume_shape: tuple[int, int, int] = (96, 1024, 1024),
    echo: Callable[[str], None] = print,
) -> DemoResult:
    """Train a small denoiser, predict an image and a volume with it, and draw both.

    Parameters
    ----------
    directory : Path
        Folder of the Zarr groups and the picture; created if missing. Outputs of an earlier demo are replaced.
    seed : int, default: 0
        Seed of the noise, the synthetic volume and the training.
    training_seconds : float, default: 15.0
        Duration of the training.
    volume_shape : tuple of int, default: (96, 1024, 1024)
        Extents Z, Y, X of the synthetic float32 volume.
    echo : callable, default: print
        Function that prints a line of text.

    Returns
    -------
    DemoResult
        Picture, reports and quality.
    """
    directory.mkdir(parents=True, exist_ok=True)
    clean = load_microscopy_image()
    half = clean.shape[1] // 2

    echo(f"[1/4] Training a small U-Net denoiser for {training_seconds:g} s on the left half of an image")
    network, losses = train_denoiser(clean[:, :half], noise_level=NOISE_LEVEL, seconds=training_seconds, seed=seed)
    echo(f"      {len(losses)} steps, loss {np.mean(losses[:10]):.4f} -> {np.mean(losses[-10:]):.4f}")

    image = _predict_image(network, clean, half, directory, seed, echo)
    volume = _predict_volume(network, volume_shape, directory, seed, echo)

    picture = directory / "demo.png"
    draw_picture(picture, rows=(image, volume))
    echo(f"[4/4] Drew {picture}")
    echo(f"      What happened is shown in {directory / REPORT}; open the volume with napari-ome-zarr:")
    echo(f"      napari --plugin napari-ome-zarr {directory / VOLUME}")
    return DemoResult(picture, image.report, volume.report, image.psnr, volume.psnr)


def psnr(image: npt.NDArray[Any], clean: npt.NDArray[Any]) -> float:
    """Return the peak signal-to-noise ratio in dB, for a peak of 1."""
    return float(-10 * np.log10(np.mean((image - clean) ** 2, dtype=np.float64)))


def _predict_image(
    network: DenoisingUNet, clean: FloatArray, half: int, directory: Path, seed: int, echo: Callable[[str], None]
) -> PictureRow:
    """Predict the noisy image, and measure the columns from `half` on, which were not used for training."""
    echo(f"[2/4] Predicting that image, {_times(clean.shape)} pixels, tile by tile")
    noisy = add_noise(clean, seed)
    report = predict_to_zarr(
        network,
        noisy,
        directory / "image.zarr",
        axes="YX",
        tile_size=(128, 128),
        overlap=(32, 32),
        if_exists="overwrite",
    )
    predicted = np.asarray(report.array)
    quality = (psnr(noisy[:, half:], clean[:, half:]), psnr(predicted[:, half:], clean[:, half:]))
    echo(f"      PSNR on the half it was not trained on: {quality[0]:.1f} -> {quality[1]:.1f} dB")
    title = f"An image: tissue section, {_times(clean.shape)} pixels"
    return PictureRow(title, "PSNR on the half not used for training", report, quality, noisy, predicted)


def _predict_volume(
    network: DenoisingUNet, shape: tuple[int, int, int], directory: Path, seed: int, echo: Callable[[str], None]
) -> PictureRow:
    """Make a synthetic volume, predict it, and measure the plane in its middle."""
    size = f"{_times(shape)} voxels, {4 * np.prod(shape) / 2**20:.0f} MiB"
    echo(f"[3/4] Predicting a volume, {size}, out of core")
    source = directory / "volume_noisy.zarr"
    plane = shape[0] // 2
    started = time.perf_counter()
    clean = write_synthetic_volume(source, shape, plane=plane, seed=seed)
    echo(f"      made {source.name} in {time.perf_counter() - started:.1f} s, {SLAB_PLANES} planes at a time")

    report = predict_to_zarr(
        PlaneByPlane(network),
        source,
        directory / VOLUME,
        axes="ZYX",
        tile_size=(18, 288, 288),
        overlap=(2, 32, 32),
        memory_nbytes=MEMORY_NBYTES,
        if_exists="overwrite",
        on_plan=lambda plan: echo(str(plan)),
        report=directory / REPORT,
    )
    echo(str(report))
    noisy = np.asarray(zarr.open_array(source, mode="r")[plane])
    predicted = np.asarray(report.array[plane])
    quality = (psnr(noisy, clean), psnr(predicted, clean))
    echo(f"      PSNR of plane {plane}: {quality[0]:.1f} -> {quality[1]:.1f} dB")
    title = f"A volume: synthetic cells, {size}, at most {MEMORY_NBYTES / 2**20:.0f} MiB of tiles at a time"
    return PictureRow(title, f"PSNR of plane {plane}", report, quality, noisy, predicted)


def _times(shape: Sequence[int]) -> str:
    """Return a shape as text, such as 96 × 1024 × 1024."""
    return " × ".join(str(extent) for extent in shape)
