"""The first run is honest: what it prints and draws was measured in this run, and no volume is held whole.

It trains a small denoiser, predicts an image and a volume larger than the memory for its tiles, draws both.
The quality of the image is measured on the half that the network was not trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch import nn

from tilewright.execution.report import Report
from tilewright.plan import plan_write
from tilewright.prediction import predict_to_zarr

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle
    from skimage.color import rgb2gray
    from skimage.data import immunohistochemistry
except ImportError as error:
    raise ImportError(
        f"The demo needs {error.name}, which is not installed. Remedy: pip install 'tilewright[demo]'"
    ) from error

FloatArray = npt.NDArray[np.float32]

NOISE_LEVEL = 0.15  # standard deviation of the added noise; intensities lie between 0 and 1
SLAB_PLANES = 8  # planes of the synthetic volume that are made, and held, at a time
MEMORY_NBYTES = 128 * 2**20  # predicted tiles of the volume that may wait: a third of the volume
VOLUME_TILE_SIZE, VOLUME_OVERLAP = (18, 288, 288), (2, 32, 32)  # steps of 16 x 256 x 256

INK, GREY = "#1b1f24", "#6a737d"
VALID, TILE, UNIT, CHUNK = "#4cc9f0", "#ffb703", "#ff4d8d", "#ffffff"
ARROW = "\N{RIGHTWARDS ARROW}"
CAPTION: dict[str, Any] = {"fontsize": 10, "color": GREY, "pad": 5}


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes
    ----------
    picture : Path
        The PNG.
    image_report, volume_report : Report
        The reports of the two predictions.
    image_psnr, volume_psnr : tuple of float
        Peak signal-to-noise ratio in dB of the noisy input and of the prediction: for the image on the half
        that was not used for training, for the volume on the plane that is drawn.
    """

    picture: Path
    image_report: Report
    volume_report: Report
    image_psnr: tuple[float, float]
    volume_psnr: tuple[float, float]


class DenoisingUNet(nn.Module):
    """A U-Net of two levels that estimates the noise of `(B, 1, Y, X)` and subtracts it.

    Y and X must be divisible by 4. It folds 2 x 2 pixels into channels first, which is several times faster
    on a CPU.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(2)
        self.encoder = _two_convolutions(4, channels)
        self.bottom = nn.Sequential(nn.MaxPool2d(2), _two_convolutions(channels, 2 * channels))
        self.up = nn.ConvTranspose2d(2 * channels, channels, kernel_size=2, stride=2)
        self.decoder = _two_convolutions(2 * channels, channels)
        self.noise = nn.Conv2d(channels, 4, kernel_size=1)
        self.unfold = nn.PixelShuffle(2)
        # The untrained network returns its input, from where training starts faster.
        nn.init.zeros_(self.noise.weight)
        nn.init.zeros_(self.noise.bias)  # type: ignore[arg-type]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image without its noise."""
        # Channels last: convolutions of few channels run about twice as fast on a CPU.
        fine = self.encoder(self.fold(image).contiguous(memory_format=torch.channels_last))
        coarse = self.up(self.bottom(fine))
        noise: torch.Tensor = self.unfold(self.noise(self.decoder(torch.cat([fine, coarse], dim=1))))
        return image - noise


class PlaneByPlane(nn.Module):
    """A 3D denoiser made from a 2D one: each plane of `(B, 1, Z, Y, X)` alone, then 1-2-1 along Z."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the volume without its noise."""
        planes = volume.movedim(2, 1).flatten(0, 1)
        denoised = self.network(planes).unflatten(0, (volume.shape[0], volume.shape[2])).movedim(1, 2)
        before = torch.cat([denoised[:, :, :1], denoised[:, :, :-1]], dim=2)
        after = torch.cat([denoised[:, :, 1:], denoised[:, :, -1:]], dim=2)
        averaged: torch.Tensor = (before + 2 * denoised + after) / 4
        return averaged


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
        Where the Zarr groups and the picture go; created if missing. Outputs of an earlier demo are replaced.
    seed : int, default: 0
        Seed of the noise, the synthetic volume and the training.
    training_seconds : float, default: 15.0
        How long to train.
    volume_shape : tuple of int, default: (96, 1024, 1024)
        Z, Y and X of the synthetic volume, which is stored as float32.
    echo : callable, default: print
        Takes each line of text.

    Returns
    -------
    DemoResult
        The picture and the reports.
    """
    directory.mkdir(parents=True, exist_ok=True)

    clean = load_microscopy_image()
    noise = np.random.default_rng(seed).standard_normal(clean.shape, dtype=np.float32)
    noisy = clean + NOISE_LEVEL * noise
    half = clean.shape[1] // 2
    echo(f"[1/4] Training a small U-Net denoiser for {training_seconds:g} s on the left half of an image")
    network, losses = train_denoiser(clean[:, :half], seconds=training_seconds, seed=seed)
    echo(f"      {len(losses)} steps, loss {np.mean(losses[:10]):.4f} -> {np.mean(losses[-10:]):.4f}")

    echo(f"[2/4] Predicting that image, {_times(clean.shape)} pixels, tile by tile")
    image_report = predict_to_zarr(
        network,
        noisy,
        directory / "image.zarr",
        axes="YX",
        tile_size=(128, 128),
        overlap=(32, 32),
        if_exists="overwrite",
    )
    image_prediction = np.asarray(image_report.array)
    image_psnr = (psnr(noisy[:, half:], clean[:, half:]), psnr(image_prediction[:, half:], clean[:, half:]))
    echo(f"      PSNR on the half it was not trained on: {image_psnr[0]:.1f} -> {image_psnr[1]:.1f} dB")

    source = directory / "volume_noisy.zarr"
    plane = volume_shape[0] // 2
    volume_mib = 4 * np.prod(volume_shape) / 2**20
    echo(f"[3/4] Predicting a volume, {_times(volume_shape)} voxels, {volume_mib:.0f} MiB, out of core")
    started = time.perf_counter()
    clean_plane = write_synthetic_volume(source, volume_shape, plane=plane, seed=seed)
    echo(f"      made {source.name} in {time.perf_counter() - started:.1f} s, {SLAB_PLANES} planes at a time")
    plan = plan_write(
        volume_shape,
        axes="ZYX",
        tile_size=VOLUME_TILE_SIZE,
        overlap=VOLUME_OVERLAP,
        memory_nbytes=MEMORY_NBYTES,
    )
    echo(str(plan))
    volume_report = predict_to_zarr(
        PlaneByPlane(network),
        source,
        directory / "volume.zarr",
        axes="ZYX",
        tile_size=VOLUME_TILE_SIZE,
        overlap=VOLUME_OVERLAP,
        if_exists="overwrite",
        memory_nbytes=MEMORY_NBYTES,
    )
    noisy_plane: FloatArray = np.asarray(zarr.open_array(source, mode="r")[plane])
    predicted_plane = np.asarray(volume_report.array[plane])
    volume_psnr = (psnr(noisy_plane, clean_plane), psnr(predicted_plane, clean_plane))
    echo(str(volume_report))
    echo(f"      PSNR of plane {plane}: {volume_psnr[0]:.1f} -> {volume_psnr[1]:.1f} dB")

    picture = directory / "demo.png"
    draw_picture(
        picture,
        rows=(
            PictureRow(
                f"An image: tissue section, {_times(clean.shape)} pixels",
                "PSNR on the half not used for training",
                image_report,
                image_psnr,
                noisy,
                image_prediction,
            ),
            PictureRow(
                f"A volume: synthetic cells, {_times(volume_shape)} voxels, {volume_mib:.0f} MiB, "
                f"at most {MEMORY_NBYTES / 2**20:.0f} MiB of tiles at a time",
                f"PSNR of plane {plane}",
                volume_report,
                volume_psnr,
                noisy_plane,
                predicted_plane,
            ),
        ),
    )
    echo(f"[4/4] Drew {picture}")
    return DemoResult(picture, image_report, volume_report, image_psnr, volume_psnr)


def load_microscopy_image() -> FloatArray:
    """Return how much light a stained tissue section absorbs, between 0 and 1.

    It is an immunohistochemistry image that lies inside scikit-image, so that nothing is downloaded.
    """
    image = immunohistochemistry()  # type: ignore[no-untyped-call]
    absorbed: FloatArray = (1 - rgb2gray(image)).astype(np.float32)
    return absorbed


def psnr(image: npt.NDArray[Any], clean: npt.NDArray[Any]) -> float:
    """Return the peak signal-to-noise ratio in dB, for a peak of 1."""
    return float(-10 * np.log10(np.mean((image - clean) ** 2, dtype=np.float64)))


def train_denoiser(clean: FloatArray, *, seconds: float, seed: int) -> tuple[DenoisingUNet, list[float]]:
    """Train a network to remove fresh noise from random crops of a clean image.

    Parameters
    ----------
    clean : array
        The image, Y and X.
    seconds : float
        How long to train; at least one step is done.
    seed : int
        Seed of the weights, crops and noise. The number of steps still depends on the machine.

    Returns
    -------
    tuple of DenoisingUNet and list of float
        The network, ready to predict, and the loss of each step.
    """
    crop_size, batch_size, learning_rate = 64, 2, 4e-3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DenoisingUNet()
    generator = torch.Generator().manual_seed(seed)
    # The crops, with all their overlaps, as a view: nothing is copied.
    crops = torch.from_numpy(clean).unfold(0, crop_size, 1).unfold(1, crop_size, 1)
    optimizer = torch.optim.Adam(network.parameters())
    losses: list[float] = []
    threads = torch.get_num_threads()
    # A step takes milliseconds: threads that wait for each other cost more than they give.
    torch.set_num_threads(1)
    started, progress = time.perf_counter(), 0.0
    try:
        while progress < 1 or not losses:
            # The step length falls to nothing when the time is over, however many steps that is.
            optimizer.param_groups[0]["lr"] = learning_rate * max(0.01, 1 - progress)
            rows = torch.randint(crops.shape[0], (batch_size,), generator=generator)
            columns = torch.randint(crops.shape[1], (batch_size,), generator=generator)
            target = torch.rot90(crops[rows, columns], k=len(losses) % 4, dims=(1, 2)).unsqueeze(1)
            noise = torch.randn(target.shape, generator=generator)
            loss = nn.functional.mse_loss(network(target + NOISE_LEVEL * noise), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
            progress = (time.perf_counter() - started) / max(seconds, 1e-9)
    finally:
        torch.set_num_threads(threads)
    return network.eval(), losses


def write_synthetic_volume(path: Path, shape: tuple[int, int, int], *, plane: int, seed: int) -> FloatArray:
    """Write a noisy volume of cells and filaments as a Zarr array, some planes at a time.

    Parameters
    ----------
    path : Path
        Where the array goes; one that is there is replaced.
    shape : tuple of int
        Z, Y and X.
    plane : int
        The plane to return.
    seed : int
        Seed of the cells, filaments and noise; the volume depends on nothing else.

    Returns
    -------
    array
        The plane as it is without noise.
    """
    array = zarr.create_array(
        path,
        shape=shape,
        chunks=(min(SLAB_PLANES, shape[0]), min(256, shape[1]), min(256, shape[2])),
        dtype="float32",
        compressors=None,
        dimension_names=("z", "y", "x"),
        overwrite=True,
    )
    generator = np.random.default_rng(seed)
    cells = _place_cells(shape, generator)
    filaments = _place_filaments(shape, generator)

    def write_slab(start: int) -> FloatArray | None:
        stop = min(start + SLAB_PLANES, shape[0])
        slab = np.full((stop - start, *shape[1:]), 0.04, dtype=np.float32)
        for cell in cells:
            _draw_cell(slab, start, cell)
        _draw_filaments(slab, start, filaments)
        clean_plane = slab[plane - start].copy() if start <= plane < stop else None
        # Each slab has its own noise, so that their order does not matter.
        noise = np.random.default_rng((seed, start)).standard_normal(slab.shape, dtype=np.float32)
        slab += NOISE_LEVEL * noise
        array[start:stop] = slab
        return clean_plane

    with ThreadPoolExecutor(max_workers=2) as threads:
        found = [result for result in threads.map(write_slab, range(0, shape[0], SLAB_PLANES)) if result is not None]
    return found[0]


@dataclass(frozen=True)
class _Cell:
    """One synthetic cell: an ellipsoid with a wavy membrane and a nucleus."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    angle: float
    waves: tuple[float, float]
    brightness: float


def _place_cells(shape: tuple[int, int, int], generator: np.random.Generator) -> list[_Cell]:
    """Return cells on a jittered grid, so that they touch but rarely cover each other."""
    spacing = (26.0, 84.0, 84.0)
    counts = [int(np.ceil(extent / step)) + 1 for extent, step in zip(shape, spacing, strict=True)]
    cells = []
    for index in np.ndindex(*counts):
        jitter = generator.uniform(-0.3, 0.3, size=3)
        # Every other layer is shifted by half a cell, like oranges in a box.
        shift = np.array([0.0, 0.5, 0.5]) * (index[0] % 2)
        z, y, x = (np.array(index) + jitter + shift) * np.array(spacing)
        radii = generator.uniform((10, 34, 34), (14, 50, 50))
        cells.append(
            _Cell(
                center=(float(z), float(y), float(x)),
                radii=(float(radii[0]), float(radii[1]), float(radii[2])),
                angle=float(generator.uniform(0, np.pi)),
                waves=(float(generator.uniform(0, 2 * np.pi)), float(generator.uniform(0, 2 * np.pi))),
                brightness=float(generator.uniform(0.45, 1.0)),
            )
        )
    return cells


def _draw_cell(slab: FloatArray, slab_start: int, cell: _Cell) -> None:
    """Draw the part of a cell that lies in a slab; the brighter of cell and background stays."""
    reach = 1.25 * max(cell.radii[1:])
    z_reach = 1.25 * cell.radii[0]
    z_low, z_high = _clip(cell.center[0] - z_reach - slab_start, cell.center[0] + z_reach - slab_start, slab.shape[0])
    y_low, y_high = _clip(cell.center[1] - reach, cell.center[1] + reach, slab.shape[1])
    x_low, x_high = _clip(cell.center[2] - reach, cell.center[2] + reach, slab.shape[2])
    if z_low >= z_high or y_low >= y_high or x_low >= x_high:
        return
    z = (np.arange(z_low, z_high, dtype=np.float32) + slab_start - cell.center[0]) / cell.radii[0]
    y = np.arange(y_low, y_high, dtype=np.float32)[:, None] - cell.center[1]
    x = np.arange(x_low, x_high, dtype=np.float32) - cell.center[2]
    cosine, sine = np.cos(cell.angle), np.sin(cell.angle)
    along = ((cosine * x + sine * y) / cell.radii[2]).astype(np.float32)
    across = ((cosine * y - sine * x) / cell.radii[1]).astype(np.float32)
    direction = np.arctan2(across, along)
    wavy = 1 + 0.07 * np.sin(3 * direction + cell.waves[0]) + 0.04 * np.sin(7 * direction + cell.waves[1])
    # 0 at the center of the cell, 1 on its membrane.
    distance = np.sqrt((along**2 + across**2) * wavy.astype(np.float32) ** 2 + (z**2)[:, None, None])
    membrane = 0.75 * np.exp(-(((distance - 1) * 14) ** 2))
    inside = np.clip((1 - distance) * 12, 0, 1)
    grain = 0.06 * np.sin(0.55 * x + cell.waves[0]) * np.sin(0.6 * y + cell.waves[1])
    nucleus = np.clip((0.5 - distance) * 10, 0, 1)
    part = cell.brightness * (membrane + inside * (0.16 + grain.astype(np.float32)) + 0.42 * nucleus)
    window = slab[z_low:z_high, y_low:y_high, x_low:x_high]
    np.maximum(window, part, out=window)


def _place_filaments(shape: tuple[int, int, int], generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the points `(z, y, x)` of smooth random curves, about one pixel apart."""
    count = max(2, int(np.prod(shape)) // 700_000)
    length = max(shape[1:])
    turns = np.cumsum(generator.normal(0, 0.02, size=(count, length)), axis=1)
    heading = generator.uniform(0, 2 * np.pi, size=(count, 1)) + turns
    start = generator.uniform(0, 1, size=(count, 1, 3)) * np.array(shape)
    rise = np.broadcast_to(generator.normal(0, 0.03, size=(count, 1)), heading.shape)
    steps = np.stack([rise, np.sin(heading), np.cos(heading)], axis=-1)
    points: npt.NDArray[np.float64] = (start + np.cumsum(steps, axis=1)).reshape(-1, 3)
    return points


def _draw_filaments(slab: FloatArray, slab_start: int, points: npt.NDArray[np.float64]) -> None:
    """Draw points as small soft balls; the brighter of ball and background stays."""
    local = points - np.array([slab_start, 0, 0])
    reach = 2
    local = local[np.all((local > -reach) & (local < np.array(slab.shape) + reach), axis=1)]
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    voxels = np.rint(local).astype(np.intp)[:, None] + offsets
    squared = np.sum((voxels - local[:, None]) ** 2, axis=-1)
    brightness = (0.8 * np.exp(-squared / (2 * 1.1**2))).astype(np.float32)
    present = np.all((voxels >= 0) & (voxels < np.array(slab.shape)), axis=-1)
    z, y, x = voxels[present].T
    np.maximum.at(slab, (z, y, x), brightness[present])


def _clip(low: float, high: float, extent: int) -> tuple[int, int]:
    """Return the whole numbers between low and high that lie in the extent, half-open."""
    return max(0, int(np.floor(low))), min(extent, int(np.ceil(high)) + 1)


def _two_convolutions(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each with its rectifier.

    The rectifiers leak: with plain ones some seeds do not learn within seconds.
    """
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
    )


@dataclass(frozen=True)
class PictureRow:
    """What one row of the picture shows.

    Attributes
    ----------
    title, psnr_label : str
        What was predicted, and on what its quality was measured.
    report : Report
        The report of the prediction; its last two axes are drawn.
    psnr : tuple of float
        Peak signal-to-noise ratio in dB of input and prediction.
    noisy, predicted : array
        The input and the prediction, Y and X.
    """

    title: str
    psnr_label: str
    report: Report
    psnr: tuple[float, float]
    noisy: npt.NDArray[Any]
    predicted: npt.NDArray[Any]


def draw_picture(path: Path, rows: tuple[PictureRow, ...]) -> None:
    """Write a PNG with one row per prediction: input, prediction, and the grids of tiles and stored objects.

    Parameters
    ----------
    path : Path
        Where the PNG goes.
    rows : tuple of PictureRow
        What to draw, from top to bottom.
    """
    # A figure without pyplot: no window, no global state.
    width, row_height, head, foot = 12.5, 4.7, 0.68, 0.44
    height = head + row_height * len(rows) + foot
    figure = Figure(figsize=(width, height), dpi=144, facecolor="white")
    left, gap, panel = 0.3 / width, 0.15 / width, 3.866 / width
    figure.text(left, 1 - 0.36 / height, "tilewright", fontsize=19, fontweight="bold", color=INK, va="center")
    figure.text(
        left + 1.62 / width,
        1 - 0.375 / height,
        "tiles in any order, every stored object written once, whole",
        fontsize=12.5,
        color=GREY,
        va="center",
    )
    for number, row in enumerate(rows):
        top = 1 - (head + row_height * number) / height
        report = row.report
        figure.text(left, top - 0.22 / height, row.title, fontsize=11.5, fontweight="bold", color=INK, va="center")
        figure.text(
            1 - left,
            top - 0.22 / height,
            f"{row.psnr_label}: {row.psnr[0]:.1f} {ARROW} {row.psnr[1]:.1f} dB",
            fontsize=10.5,
            color=INK,
            va="center",
            ha="right",
        )
        bottom = top - (row_height - 0.14) / height
        panels = [
            figure.add_axes((left + (panel + gap) * column, bottom, panel, panel * width / height))
            for column in range(3)
        ]
        # One window and one contrast for input and prediction, so that they can be compared.
        window = _detail(row.noisy.shape)
        low, high = np.percentile(row.predicted, (0.5, 99.8))
        for axes, image in zip(panels, (row.noisy[window], row.predicted[window], row.predicted), strict=True):
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="antialiased")
            axes.set_axis_off()
        panels[0].set_title("input, noise added", **CAPTION)
        panels[1].set_title("prediction", **CAPTION)
        panels[2].set_title(
            f"{_count(report.tile_count, 'tile')} {ARROW} {_count(report.unit_count, 'write unit')} "
            f"{ARROW} {_count(report.object_count, 'stored object')}, {report.total_seconds:.1f} s",
            **CAPTION,
        )
        _draw_grids(panels[2], row, window)
    figure.legend(
        handles=[
            Line2D([], [], color=VALID, linewidth=1.4, label="valid region of a tile"),
            Patch(facecolor=to_rgba(TILE, 0.3), edgecolor=TILE, linewidth=1.6, label="one tile with its halo"),
            Line2D([], [], color=UNIT, linewidth=3, label="write unit: one task writes it"),
            Line2D([], [], color=GREY, linewidth=1.2, linestyle=(0, (1, 1.6)), label="stored chunk"),
            Patch(facecolor="none", edgecolor=GREY, linewidth=1, label="detail shown on the left"),
        ],
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=5,
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        handlelength=1.7,
        columnspacing=2.4,
    )
    figure.savefig(path, format="png")


def _draw_grids(axes: Axes, row: PictureRow, window: tuple[slice, slice]) -> None:
    """Draw tiles, write units and chunks over the prediction."""
    plan = row.report.plan
    height, width = plan.shape[-2:]
    rows, columns = plan.tilings[-2:]
    # The image steps back, so that the lines can be read.
    axes.add_patch(Rectangle((-0.5, -0.5), width, height, facecolor=INK, alpha=0.45))

    units = [_inner_starts(axis.span, axis.count) for axis in plan.units[-2:]]
    _draw_lines(axes, units, plan.shape, color=UNIT, linewidth=3.0)
    _outline(axes, (0, height), (0, width), facecolor="none", edgecolor=UNIT, linewidth=3.0)
    valid = [_inner_starts(axis.valid, axis.count) for axis in plan.tilings[-2:]]
    _draw_lines(axes, valid, plan.shape, color=VALID, linewidth=1.0)
    # Where a unit ends a chunk ends too: that border is drawn already.
    chunks = [
        sorted(set(range(chunk, extent, chunk)) - set(borders))
        for chunk, extent, borders in zip(plan.chunks[-2:], (height, width), units, strict=True)
    ]
    _draw_lines(axes, chunks, plan.shape, color=CHUNK, linewidth=0.9, linestyle=(0, (1, 2.4)))

    # A tile with neighbours on all sides, if there is one: it shows the whole halo.
    y, x = (rows.count - 1) // 2, (columns.count - 1) // 2
    (top, bottom), (left, right) = rows.read(y), columns.read(x)
    _outline(axes, rows.read(y), columns.read(x), facecolor=to_rgba(TILE, 0.4), edgecolor=TILE, linewidth=1.8)
    (top, bottom), (left, right) = rows.valid(y), columns.valid(x)
    low, high = axes.images[0].get_clim()
    axes.imshow(
        row.predicted[top:bottom, left:right],
        cmap="gray",
        vmin=low,
        vmax=high,
        extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5),
        zorder=3,
    )
    _outline(axes, (top, bottom), (left, right), facecolor="none", edgecolor=VALID, linewidth=1.8)

    down, across = window
    if (down.stop - down.start, across.stop - across.start) != (height, width):
        detail = ((down.start, down.stop), (across.start, across.stop))
        _outline(axes, *detail, facecolor="none", edgecolor="white", linewidth=1.3)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def _inner_starts(region: Callable[[int], tuple[int, int]], count: int) -> list[int]:
    """Return where the regions of one axis start, without the first."""
    return [region(index)[0] for index in range(1, count)]


def _draw_lines(axes: Axes, borders: Sequence[Sequence[int]], shape: Sequence[int], **style: Any) -> None:
    """Draw a line at each border along Y, and at each along X, across the whole image."""
    # The first pixel reaches from -0.5 to 0.5.
    axes.hlines([border - 0.5 for border in borders[0]], -0.5, shape[-1] - 0.5, **style)
    axes.vlines([border - 0.5 for border in borders[1]], -0.5, shape[-2] - 0.5, **style)


def _outline(axes: Axes, rows: tuple[int, int], columns: tuple[int, int], **style: Any) -> None:
    """Draw a rectangle around rows and columns, both half-open."""
    corner = (columns[0] - 0.5, rows[0] - 0.5)
    axes.add_patch(Rectangle(corner, columns[1] - columns[0], rows[1] - rows[0], zorder=3, **style))


def _detail(shape: Sequence[int], largest: int = 512, detail: int = 432) -> tuple[slice, slice]:
    """Return all of a small image, and of a large one a part in which its noise can be seen."""
    if max(shape) <= largest:
        return slice(0, shape[0]), slice(0, shape[1])
    # Not at the border, and not on the borders of tiles and chunks, where its outline could not be seen.
    down, across = (int(0.9 * max(0, extent - detail)) for extent in shape)
    return slice(down, min(down + detail, shape[0])), slice(across, min(across + detail, shape[1]))


def _count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _times(shape: Sequence[int]) -> str:
    """Return a shape as people write it."""
    return " × ".join(str(extent) for extent in shape)
