"""Models of the real CAREamics, trained for a moment; without it, as in most environments, nothing is collected."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HAS_CAREAMICS = find_spec("careamics") is not None
# The plugin is for the processes of another suite.
collect_ignore_glob = ["old_names.py"] if HAS_CAREAMICS else ["*.py"]

if HAS_CAREAMICS:
    from careamics.config.factories import create_care_config, create_n2v_config

    from careamics import CAREamist
    from tilewright.careamics import PredictionWriter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave warnings alone: CAREamics, and the versions that it pins, have many."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@dataclass(frozen=True)
class Trained:
    """A trained model, and the writer among its callbacks, which is switched off."""

    careamist: Any
    writer: Any
    axes: str
    tile_size: tuple[int, ...]
    overlap: tuple[int, ...]

    def predict(
        self, source: Any, strategy: Any = None, folder: Path | None = None, **options: Any
    ) -> list[np.ndarray]:
        """Return what CAREamics predicts of the tiles of a source; a strategy writes them besides."""
        options = {"tile_size": self.tile_size, "tile_overlap": self.overlap, "batch_size": 3, **options}
        self.writer.writing_predictions = strategy is not None
        self.writer.write_strategy, self.writer.dirpath = strategy, folder
        try:
            return self.careamist.predict(source, **options)[0]
        finally:
            self.writer.writing_predictions = False

    def data_module(self, source: Any, **options: Any) -> Any:
        """Return the data module with which a trainer predicts the tiles of a source."""
        from careamics.lightning.data import CareamicsDataModule

        config = self.careamist.config.data_config.convert_mode(
            "predicting", new_patch_size=self.tile_size, overlap_size=self.overlap, **options
        )
        return CareamicsDataModule(config, pred_data=source)


def image_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise on a slope: no two places are alike."""
    slope = sum(np.ogrid[tuple(slice(extent) for extent in shape)])
    return (100 * np.random.default_rng(seed).random(shape) + slope).astype("float32")


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Trained]:
    """Train a model of an algorithm and axes, once a session."""
    trained: dict[tuple[str, str], Trained] = {}

    def of(algorithm: str, axes: str) -> Trained:
        if (algorithm, axes) not in trained:
            trained[algorithm, axes] = _trained(algorithm, axes, tmp_path_factory.mktemp("work"))
        return trained[algorithm, axes]

    return of


def _trained(algorithm: str, axes: str, folder: Path) -> Trained:
    from tilewright import WriteTilesZarr

    spatial = axes.count("Z") + 2
    size, tile, overlap = [(8, 32, 32), (8, 32, 32), (4, 16, 16)] if spatial == 3 else [(32, 32), (32, 32), (16, 16)]
    channels = {"n_channels": 2} if algorithm == "n2v" and "C" in axes else {}
    create = create_n2v_config if algorithm == "n2v" else create_care_config
    config = create(
        experiment_name=algorithm,
        data_type="array",
        axes=axes,
        patch_size=list(size),
        batch_size=8,
        num_epochs=1,
        num_steps=2,
        n_val_patches=1,
        **channels,
    )
    writer = PredictionWriter(WriteTilesZarr(), folder / "unused")
    writer.writing_predictions = False
    careamist = CAREamist(config, work_dir=folder, callbacks=[writer], enable_progress_bar=False)
    shape = {"C": 2, "S": 2, "T": 2, "Z": 24, "Y": 96, "X": 96}
    image = image_of(tuple(shape[name] for name in axes))
    careamist.train(train_data=image, **({"train_data_target": image / 2} if algorithm == "care" else {}))
    return Trained(careamist, writer, axes, tile, overlap)
