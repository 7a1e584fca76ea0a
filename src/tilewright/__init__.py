"""Tiled deep-learning predictions of huge image volumes into Zarr on Dask, every stored object written once, whole.

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewright.execution.report import Report
    from tilewright.geometry import TileInformation
    from tilewright.lightning import IterableTiledPredDataset, PredictionWriterCallback, collate_tiles
    from tilewright.plan import WritePlan, plan_write
    from tilewright.prediction import predict_to_zarr
    from tilewright.strategies import WriteStrategy, WriteTilesZarr

__version__ = "0.1.0"

__all__ = [
    "IterableTiledPredDataset",
    "PredictionWriterCallback",
    "Report",
    "TileInformation",
    "WritePlan",
    "WriteStrategy",
    "WriteTilesZarr",
    "collate_tiles",
    "plan_write",
    "predict_to_zarr",
]

_HOMES = {
    "IterableTiledPredDataset": "tilewright.lightning",
    "PredictionWriterCallback": "tilewright.lightning",
    "Report": "tilewright.execution.report",
    "TileInformation": "tilewright.geometry",
    "WritePlan": "tilewright.plan",
    "WriteStrategy": "tilewright.strategies",
    "WriteTilesZarr": "tilewright.strategies",
    "collate_tiles": "tilewright.lightning",
    "plan_write": "tilewright.plan",
    "predict_to_zarr": "tilewright.prediction",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
