"""CAREamics: its trainers write through the strategies of tilewright, and its checkpoints are models."""

from tilewright.careamics.writer import PredictionWriter

__all__ = ["PredictionWriter"]
