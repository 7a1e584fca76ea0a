"""Denoising network that learns in seconds on one CPU core from one clean image."""

import time

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

CROP_SIZE, BATCH_SIZE, LEARNING_RATE = 64, 2, 4e-3


class DenoisingUNet(nn.Module):
    """U-Net of two levels that estimates the noise of `(B, 1, Y, X)` and subtracts it.

    Y and X must be divisible by 4. It folds 2 x 2 pixels into channels first, which is several times faster on a CPU.

    Parameters
    ----------
    channels : int, default: 16
        Channels of the fine level; the coarse one has twice as many.
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
        # The untrained network returns its input, which speeds up training.
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
    """3D denoiser made from a 2D one: each plane of `(B, 1, Z, Y, X)` alone, then a 1-2-1 filter along Z.

    Parameters
    ----------
    network : torch.nn.Module
        Denoiser of planes `(B, 1, Y, X)`.
    """

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


def train_denoiser(
    clean: npt.NDArray[np.float32], *, noise_level: float, seconds: float, seed: int
) -> tuple[DenoisingUNet, list[float]]:
    """Train a network to remove fresh noise from random crops of a clean image.

    Parameters
    ----------
    clean : array
        Image YX.
    noise_level : float
        Standard deviation of the noise.
    seconds : float
        Duration of the training, at least one step.
    seed : int
        Seed of the weights, crops and noise. The number of steps still depends on the machine.

    Returns
    -------
    tuple of DenoisingUNet and list of float
        The network, ready to predict, and the loss of each step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DenoisingUNet()
    generator = torch.Generator().manual_seed(seed)
    # A view of all crops, without a copy.
    crops = torch.from_numpy(clean).unfold(0, CROP_SIZE, 1).unfold(1, CROP_SIZE, 1)
    optimizer = torch.optim.Adam(network.parameters())
    losses: list[float] = []
    threads = torch.get_num_threads()
    # A step takes milliseconds: several threads are slower than one.
    torch.set_num_threads(1)
    started, progress = time.perf_counter(), 0.0
    try:
        while progress < 1 or not losses:
            # The learning rate falls with time, for any number of steps.
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * max(0.01, 1 - progress)
            rows = torch.randint(crops.shape[0], (BATCH_SIZE,), generator=generator)
            columns = torch.randint(crops.shape[1], (BATCH_SIZE,), generator=generator)
            target = torch.rot90(crops[rows, columns], k=len(losses) % 4, dims=(1, 2)).unsqueeze(1)
            noise = torch.randn(target.shape, generator=generator)
            loss = nn.functional.mse_loss(network(target + noise_level * noise), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
            progress = (time.perf_counter() - started) / max(seconds, 1e-9)
    finally:
        torch.set_num_threads(threads)
    return network.eval(), losses


def _two_convolutions(channels_in: int, channels_out: int) -> nn.Sequential:
    # Leaky: with plain rectifiers some seeds do not learn within seconds.
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
    )
