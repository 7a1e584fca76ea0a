"""Public names of CAREamics 0.0.15 stand for those of tilewright: a plugin of pytest, for its own test-suite."""

import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import tilewright as tw

_WRITER = "careamics.lightning.callbacks.prediction_writer_callback"
OLD_NAMES = {
    "careamics.config.tile_information": ["TileInformation"],
    "careamics.dataset.tiling": ["collate_tiles", "extract_tiles"],
    "careamics.dataset.tiling.tiled_patching": ["extract_tiles"],
    "careamics.file_io.write": ["write_tiff"],
    "careamics.lightning.callbacks": ["PredictionWriterCallback"],
    "careamics.prediction_utils": ["stitch_prediction", "stitch_prediction_single"],
    _WRITER: ["CacheTiles", "PredictionWriterCallback", "WriteImage", "WriteStrategy", "create_write_strategy"],
    f"{_WRITER}.file_path_utils": ["create_write_file_path", "get_sample_file_path"],
    f"{_WRITER}.write_strategy": ["CacheTiles", "WriteImage"],
}

# It reads Zarr with a version that is long gone.
old: Any = sys.modules
old["careamics.file_io.read.zarr"] = SimpleNamespace(read_zarr=None)
for module, names in OLD_NAMES.items():
    for name in names:
        assert hasattr(import_module(module), name)
        setattr(import_module(module), name, getattr(tw, name))
datasets: Any = import_module("careamics.dataset")
tw.IterablePredDataset.register(datasets.IterablePredDataset)
tw.IterableTiledPredDataset.register(datasets.IterableTiledPredDataset)
writers: Any = import_module("careamics.file_io.write.get_func")
writers.WRITE_FUNCS[next(iter(writers.WRITE_FUNCS))] = tw.write_tiff
