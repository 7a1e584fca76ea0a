"""Lightning trainers: the callback that hands predictions over, and the datasets that cut tiles."""

from tilewright.lightning.callback import PredictionWriterCallback
from tilewright.lightning.datasets import IterableTiledPredDataset, collate_tiles

__all__ = ["IterableTiledPredDataset", "PredictionWriterCallback", "collate_tiles"]
