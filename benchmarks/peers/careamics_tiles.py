"""CAREamics writes each tile into a Zarr array as it comes: it costs reading and writing again what tiles share."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import zarr

from benchmarks.workloads import Assignment, Write


def _stand_in_for_torchvision() -> None:
    """Let careamics be imported: some of its models need torchvision, which is not built for every torch."""
    # They use torchvision where it is there, and must have found that it is not.
    import lightning.pytorch  # noqa: F401
    import torchmetrics.image  # noqa: F401

    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        module: Any = ModuleType(name)
        module.__version__ = "0"
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def tile_writer(assignment: Assignment) -> Write:
    _stand_in_for_torchvision()
    from careamics.dataset.image_region_data import ImageRegionData
    from careamics.dataset.patching import TiledPatching
    from careamics.lightning.callbacks.prediction import ZarrTileWriteStrategy

    workload = assignment.workload
    metadata = {"chunks": workload.chunks, "shards": workload.shards}

    def region(specification: Any) -> ImageRegionData:
        starts = specification["coords"]
        window = tuple(slice(a, a + b) for a, b in zip(starts, specification["patch_size"], strict=True))
        return ImageRegionData(
            data=assignment.volume[window][np.newaxis],
            source="array",
            data_shape=(1, 1, *workload.shape),
            dtype="float32",
            axes="ZYX",
            target_axes="ZYX",
            original_data_shape=workload.shape,
            region_spec=specification,
            additional_metadata=metadata,
        )

    tiling = TiledPatching([(1, 1, *workload.shape)], workload.tile_size, workload.overlap)
    regions = [region(specification) for specification in tiling.tile_specs]

    def write(folder: Path) -> None:
        # CAREamics knows one codec, but takes an array that is there already.
        zarr.create_group(folder / "prediction.zarr").create_array("0", **assignment.array_options)
        strategy = ZarrTileWriteStrategy()
        for tile in regions:
            strategy.write_batch(folder, [tile])

    return write
