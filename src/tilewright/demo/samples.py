"""Samples of the demo: made from a seed without a download, with the clean image for comparison."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import zarr
from skimage.color import rgb2gray
from skimage.data import immunohistochemistry

FloatArray: TypeAlias = npt.NDArray[np.float32]

NOISE_LEVEL = 0.15  # standard deviation of the added noise; intensities lie between 0 and 1
BACKGROUND = 0.04  # intensity of the empty synthetic volume
SLAB_PLANES = 8  # planes of the synthetic volume in memory per thread


def load_microscopy_image() -> FloatArray:
    """Return the absorption of a stained tissue section, between 0 and 1: an image inside scikit-image."""
    image = immunohistochemistry()  # type: ignore[no-untyped-call]
    absorbed: FloatArray = (1 - rgb2gray(image)).astype(np.float32)
    return absorbed


def add_noise(clean: FloatArray, seed: int | tuple[int, int]) -> FloatArray:
    """Return an array with Gaussian noise of `NOISE_LEVEL`, which depends on seed and shape only."""
    noise = np.random.default_rng(seed).standard_normal(clean.shape, dtype=np.float32)
    noisy: FloatArray = clean + NOISE_LEVEL * noise
    return noisy


def write_synthetic_volume(path: Path, shape: tuple[int, int, int], *, plane: int, seed: int) -> FloatArray:
    """Write a noisy volume of cells and filaments as a Zarr array, some planes at a time.

    Parameters
    ----------
    path : Path
        Path of the array; an existing one is replaced.
    shape : tuple of int
        Extents Z, Y, X.
    plane : int
        Index of the plane to return.
    seed : int
        Seed of the cells, filaments and noise.

    Returns
    -------
    array
        The plane without noise.
    """
    array = zarr.create_array(
        path,
        shape=shape,
        # A slab is a layer of chunks: no two threads write one chunk.
        chunks=(min(SLAB_PLANES, shape[0]), min(256, shape[1]), min(256, shape[2])),
        dtype="float32",
        compressors=None,
        dimension_names=("z", "y", "x"),
        overwrite=True,
    )
    generator = np.random.default_rng(seed)
    cells = _place_cells(shape, generator)
    filaments = _place_filaments(shape, generator)

    def draw_slab(start: int, stop: int) -> FloatArray:
        slab = np.full((stop - start, *shape[1:]), BACKGROUND, dtype=np.float32)
        for cell in cells:
            _draw_cell(slab, start, cell)
        _draw_filaments(slab, start, filaments)
        return slab

    def write_slab(start: int) -> None:
        stop = min(start + SLAB_PLANES, shape[0])
        # Own noise per slab: the order of slabs does not matter.
        array[start:stop] = add_noise(draw_slab(start, stop), (seed, start))

    with ThreadPoolExecutor(max_workers=2) as threads:
        # The list raises the errors of the threads.
        list(threads.map(write_slab, range(0, shape[0], SLAB_PLANES)))
    clean_plane: FloatArray = draw_slab(plane, plane + 1)[0]
    return clean_plane


@dataclass(frozen=True)
class _Cell:
    """Synthetic cell: an ellipsoid with a wavy membrane and a nucleus; lengths along Z, Y, X."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    angle: float
    waves: tuple[float, float]
    brightness: float


def _place_cells(shape: tuple[int, int, int], generator: np.random.Generator) -> list[_Cell]:
    """Return cells on a jittered grid: they touch, but rarely overlap."""
    spacing = np.array([26, 84, 84])
    cells = []
    for index in np.ndindex(*(np.ceil(shape / spacing).astype(int) + 1)):
        jitter = generator.uniform(-0.3, 0.3, size=3)
        # Every second layer is shifted by half a cell.
        shift = np.array([0, 0.5, 0.5]) * (index[0] % 2)
        center = (index + jitter + shift) * spacing
        cells.append(
            _Cell(
                center=tuple(center.tolist()),
                radii=tuple(generator.uniform((10, 34, 34), (14, 50, 50)).tolist()),
                angle=generator.uniform(0, np.pi),
                waves=(generator.uniform(0, 2 * np.pi), generator.uniform(0, 2 * np.pi)),
                brightness=generator.uniform(0.45, 1.0),
            )
        )
    return cells


def _draw_cell(slab: FloatArray, slab_start: int, cell: _Cell) -> None:
    """Draw the part of a cell in a slab; the brighter of cell and background stays."""
    z_center, y_center, x_center = cell.center[0] - slab_start, *cell.center[1:]
    z_radius, y_radius, x_radius = cell.radii
    # The soft, wavy membrane reaches beyond the radii, and the cell is turned in the plane.
    center, reach = (z_center, y_center, x_center), 1.25 * max(y_radius, x_radius)
    window = tuple(map(_within, center, (1.25 * z_radius, reach, reach), slab.shape))
    part = slab[window]
    if part.size == 0:
        return
    positions = zip(np.ogrid[window], center, strict=True)
    z, y, x = (position.astype(np.float32) - middle for position, middle in positions)
    cosine, sine = math.cos(cell.angle), math.sin(cell.angle)
    along = (cosine * x + sine * y) / x_radius
    across = (cosine * y - sine * x) / y_radius
    direction = np.arctan2(across, along)
    wavy = 1 + 0.07 * np.sin(3 * direction + cell.waves[0]) + 0.04 * np.sin(7 * direction + cell.waves[1])
    # 0 at the center, 1 on the membrane.
    distance = np.sqrt((along**2 + across**2) * wavy**2 + (z / z_radius) ** 2)
    membrane = np.exp(-(((distance - 1) * 14) ** 2))
    inside = np.clip((1 - distance) * 12, 0, 1)
    grain = np.sin(0.55 * x + cell.waves[0]) * np.sin(0.6 * y + cell.waves[1])
    nucleus = np.clip((0.5 - distance) * 10, 0, 1)
    drawn = cell.brightness * (0.75 * membrane + inside * (0.16 + 0.06 * grain) + 0.42 * nucleus)
    np.maximum(part, drawn, out=part)


def _within(center: float, reach: float, extent: int) -> slice:
    """Return the positions of an axis within the reach of a center."""
    start, stop = math.floor(center - reach), math.ceil(center + reach) + 1
    return slice(max(0, start), max(0, min(stop, extent)))


def _place_filaments(shape: tuple[int, int, int], generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return points `(z, y, x)` of smooth random curves, about one pixel apart."""
    count = max(2, math.prod(shape) // 700_000)
    length = max(shape[1:])
    turns = np.cumsum(generator.normal(0, 0.02, size=(count, length)), axis=1)
    heading = generator.uniform(0, 2 * np.pi, size=(count, 1)) + turns
    start = generator.uniform(0, 1, size=(count, 1, 3)) * shape
    rise = np.broadcast_to(generator.normal(0, 0.03, size=(count, 1)), heading.shape)
    steps = np.stack([rise, np.sin(heading), np.cos(heading)], axis=-1)
    points: npt.NDArray[np.float64] = (start + np.cumsum(steps, axis=1)).reshape(-1, 3)
    return points


def _draw_filaments(slab: FloatArray, slab_start: int, points: npt.NDArray[np.float64]) -> None:
    """Draw points as small soft balls; the brighter of ball and background stays."""
    reach = 2
    local = points - (slab_start, 0, 0)
    # One voxel more than the reach: points are rounded to voxels.
    local = local[np.all((local > -reach - 1) & (local < np.add(slab.shape, reach)), axis=1)]
    ball = np.indices((2 * reach + 1,) * 3).reshape(3, -1).T - reach
    voxels = np.rint(local).astype(np.intp)[:, None] + ball
    squared = np.sum((voxels - local[:, None]) ** 2, axis=-1)
    brightness = (0.8 * np.exp(-squared / (2 * 1.1**2))).astype(np.float32)
    present = np.all((voxels >= 0) & (voxels < slab.shape), axis=-1)
    np.maximum.at(slab, tuple(voxels[present].T), brightness[present])
