"""A model of CAREamics takes the values of the source and returns denormalised ones, as CAREamics itself predicts."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilewright.errors import TilewrightError
from tilewright.model.described import DescribedModel

LARGEST_OVERLAP = 48
"""Overlap of tiles per axis where the configuration has none, as in CAREamics; half of a tile at most."""

_PADDING = "zeros"
"""As CAREamics pads an axis that is shorter than a tile."""


class CareamicsModelError(TilewrightError, ValueError):
    """A model of CAREamics that cannot predict as it is."""


class CareamicsModel(torch.nn.Module):
    """Network of CAREamics with the normalisation of its data.

    Parameters
    ----------
    network : torch.nn.Module
        The network.
    normalization : Normalization
        The normalisation, of CAREamics.
    channels : sequence of int, optional
        Channels of the data that the network takes; all where not given.
    """

    def __init__(self, network: torch.nn.Module, normalization: Any, channels: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.normalization = normalization
        self.channels = None if channels is None else list(channels)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the prediction of a batch, (B, C, (Z), Y, X), both in the values of the data."""
        if self.channels is not None:
            batch = batch[:, self.channels]
        # CAREamics normalises arrays, tile by tile, before they go to the device.
        normalised = [self.normalization(item)[0] for item in batch.cpu().numpy()]
        predicted = self.network(torch.from_numpy(np.stack(normalised)).to(batch.device))
        denormalised: torch.Tensor = self.normalization.denormalize(predicted)
        return denormalised

    def get_extra_state(self) -> torch.Tensor:
        """Return what tells normalisation and channels from others, as a part of the weights."""
        said = {**vars(self.normalization), "channels": self.channels}
        text = f"{type(self.normalization).__qualname__} {sorted(said.items())}"
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Leave normalisation and channels as they are: they come from the configuration."""


class Checkpoint:
    """Checkpoint of CAREamics, which each process loads from its file.

    Parameters
    ----------
    path : path
        The file, which all workers see.
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        self.path = Path(path).absolute()
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {self.path}")

    def __call__(self) -> CareamicsModel:
        """Return the model."""
        return _model_of(_module_in(self.path), self._config, str(self.path))

    def describe_model(self) -> DescribedModel:
        """Return the model with its description."""
        return _described(self, self._config)

    @property
    def _config(self) -> Any:
        from careamics.lightning.utils.load_checkpoint import load_config_from_checkpoint  # noqa: PLC0415

        return _loaded(load_config_from_checkpoint, self.path)


def describe(model: Any) -> DescribedModel:
    """Return the model of a `CAREamist`, or of the path of a checkpoint.

    Parameters
    ----------
    model : CAREamist or path
        A trained one predicts with the checkpoint that ``CAREamist.predict`` takes: of Noise2Void and Noise2Noise the
        last, of others the best.

    Raises
    ------
    TypeError
        If it is something else of CAREamics, which does not know its normalisation.
    CareamicsModelError
        If it was not trained.
    """
    if isinstance(model, str | os.PathLike):
        return Checkpoint(model).describe_model()
    config = getattr(model, "config", None)
    if not hasattr(config, "data_config") or not hasattr(model, "trainer"):
        raise TypeError(
            f"a {type(model).__name__} of CAREamics does not know the normalisation of its data; pass the CAREamist, "
            "or the path of its checkpoint"
        )
    chosen = _chosen_checkpoint(model)
    module = model.model if chosen is None else _module_in(chosen)
    return _described(_model_of(module, config, "the CAREamist"), config)


def _chosen_checkpoint(careamist: Any) -> Path | None:
    """Return the checkpoint that CAREamics predicts with; None where it predicts with what is in memory."""
    callback = careamist.trainer.checkpoint_callback
    is_last = str(careamist.config.algorithm_config.algorithm) in ("n2v", "n2n")
    path = Path(getattr(callback, "last_model_path" if is_last else "best_model_path", "") or "missing")
    return path if path.is_file() else None


def _module_in(checkpoint: Path) -> Any:
    from careamics.lightning.utils.load_checkpoint import load_module_from_checkpoint  # noqa: PLC0415

    return _loaded(load_module_from_checkpoint, checkpoint)


def _loaded(load: Callable[[Path], Any], checkpoint: Path) -> Any:
    try:
        return load(checkpoint)
    except Exception as error:
        raise CareamicsModelError(
            f"{checkpoint} cannot be read as a checkpoint of CAREamics ({type(error).__name__}: {error}); it may be "
            "cut short, or be of another program or version"
        ) from error


def _model_of(module: Any, config: Any, name: str) -> CareamicsModel:
    from careamics.dataset.normalization import create_normalization  # noqa: PLC0415

    data = config.data_config
    if not hasattr(module, "model"):
        raise CareamicsModelError(f"{name} is of {type(module).__name__}; N2V, CARE and Noise2Noise are known")
    if data.normalization.needs_computation():
        raise CareamicsModelError(f"{name} has no statistics of its data, so it was not trained; train it first")
    normalization = create_normalization(data.normalization)
    return CareamicsModel(module.model, normalization, data.channels)


def _described(model: Any, config: Any) -> DescribedModel:
    data = config.data_config
    return DescribedModel(
        model,
        data.axes,
        getattr(data.patching, "patch_size", None),
        getattr(data.patching, "overlaps", None),
        LARGEST_OVERLAP,
        _PADDING,
        tile_multiple=2 ** int(getattr(config.algorithm_config.model, "depth", 0)),
    )
