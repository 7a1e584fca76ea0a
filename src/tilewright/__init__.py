"""Tiled deep-learning predictions of huge image volumes into Zarr on Dask, every stored object written once, whole.

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

# Nothing is imported here, not even `typing`: a command takes signals as early as it can.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tilewright import careamics
    from tilewright.datasets.images import get_sample_file_path
    from tilewright.datasets.iterable import IterablePredDataset, IterableTiledPredDataset, collate_tiles
    from tilewright.datasets.tiled_image import extract_tiles
    from tilewright.geometry import TileInformation
    from tilewright.images.lazy_image import takes_lazy_image
    from tilewright.images.stitching import stitch_prediction, stitch_prediction_single
    from tilewright.images.tiff import write_tiff
    from tilewright.images.zarr import write_zarr
    from tilewright.lightning import PredictionWriterCallback
    from tilewright.plan import WritePlan
    from tilewright.planning import plan_write
    from tilewright.prediction import predict_to_zarr, repair
    from tilewright.runs.report import Report
    from tilewright.sources.naming import create_write_file_path
    from tilewright.strategies import CacheTiles, WriteImage, WriteStrategy, WriteTilesZarr, create_write_strategy
    from tilewright.verification import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "CacheTiles",
    "IterablePredDataset",
    "IterableTiledPredDataset",
    "PredictionWriterCallback",
    "Report",
    "TileInformation",
    "Verification",
    "WriteImage",
    "WritePlan",
    "WriteStrategy",
    "WriteTilesZarr",
    "careamics",
    "collate_tiles",
    "create_write_file_path",
    "create_write_strategy",
    "extract_tiles",
    "get_sample_file_path",
    "plan_write",
    "predict_to_zarr",
    "repair",
    "stitch_prediction",
    "stitch_prediction_single",
    "takes_lazy_image",
    "verify",
    "write_tiff",
    "write_zarr",
]

_HOMES = {
    "CacheTiles": "tilewright.strategies",
    "IterablePredDataset": "tilewright.datasets.iterable",
    "IterableTiledPredDataset": "tilewright.datasets.iterable",
    "PredictionWriterCallback": "tilewright.lightning",
    "Report": "tilewright.runs.report",
    "TileInformation": "tilewright.geometry",
    "Verification": "tilewright.verification",
    "WriteImage": "tilewright.strategies",
    "WritePlan": "tilewright.plan",
    "WriteStrategy": "tilewright.strategies",
    "WriteTilesZarr": "tilewright.strategies",
    "collate_tiles": "tilewright.datasets.iterable",
    "create_write_file_path": "tilewright.sources.naming",
    "create_write_strategy": "tilewright.strategies",
    "extract_tiles": "tilewright.datasets.tiled_image",
    "get_sample_file_path": "tilewright.datasets.images",
    "plan_write": "tilewright.planning",
    "predict_to_zarr": "tilewright.prediction",
    "repair": "tilewright.prediction",
    "stitch_prediction": "tilewright.images.stitching",
    "stitch_prediction_single": "tilewright.images.stitching",
    "takes_lazy_image": "tilewright.images.lazy_image",
    "verify": "tilewright.verification",
    "write_tiff": "tilewright.images.tiff",
    "write_zarr": "tilewright.images.zarr",
}


_PACKAGES = {"careamics"}
"""Optional packages, which are loaded when they are first used."""


def __getattr__(name: str) -> "Any":
    if name in _PACKAGES:
        from importlib import import_module  # noqa: PLC0415

        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        from importlib import import_module  # noqa: PLC0415

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_PACKAGES])
