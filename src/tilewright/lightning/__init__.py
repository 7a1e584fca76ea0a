"""Lightning trainers: the callback that hands predictions over."""

from tilewright.lightning.callback import PredictionWriterCallback

__all__ = ["PredictionWriterCallback"]
