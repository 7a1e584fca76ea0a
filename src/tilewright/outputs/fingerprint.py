"""What an output is made of has a name for each part, by which a run knows whether it may complete what is there."""

import json
from typing import Any

import zarr

from tilewright.plan import WritePlan
from tilewright.sources.source import Source
from tilewright.sources.source_identity import source_identity
from tilewright.stores.metadata import array_metadata

Fingerprint = dict[str, Any]
"""All that stored bytes follow from, by name; values as JSON has them."""

SOURCE_PATH = "source path"
SERIES = "source series"
PREDICTED_BY = "predicted by"
CLUSTER = "predict_to_zarr"
"""Who predicts where it is no trainer."""


def fingerprint_of(
    source: Source, model: str, predicted_by: str, plan: WritePlan, array: zarr.Array[Any]
) -> Fingerprint:
    """Return the fingerprint of one output.

    Parameters
    ----------
    source : Source
        The image.
    model : str
        The identity of the model.
    predicted_by : str
        Who cuts and predicts the tiles.
    plan : WritePlan
        What was asked for of tiles and chunks.
    array : zarr.Array
        An array as the output is, or would be, created.
    """
    metadata = array_metadata(array)
    fingerprint = {
        SOURCE_PATH: source.recorded_path,
        SERIES: source.series,
        "source": source_identity(source),
        "source axes": source.axes.names,
        "source shape": source.axes.shape,
        "source dtype": source.dtype.str,
        "model": model,
        PREDICTED_BY: predicted_by,
        "axes": plan.axes,
        "shape": plan.shape,
        "dtype": plan.dtype,
        "tile size": plan.tile_size,
        "overlap": plan.overlap,
        "layout": plan.layout,
        "chunks": plan.chunks,
        "shards": plan.shards,
        "blend": "valid regions",
        "zarr format": metadata["zarr_format"],
        "fill value": metadata["fill_value"],
        "codecs": metadata.get("codecs", [metadata.get("filters"), metadata.get("compressor")]),
    }
    # As it comes back from a file.
    loaded: Fingerprint = json.loads(json.dumps(fingerprint))
    return loaded


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Return in words how two fingerprints differ.

    Examples
    --------
    >>> differences({"chunks": [32, 32], "model": "a"}, {"chunks": [64, 64], "model": "a"})
    ['chunks: [32, 32] then, [64, 64] now']
    """
    names = dict.fromkeys([*before, *now])
    return [
        f"{name}: {before.get(name)} then, {now.get(name)} now" for name in names if before.get(name) != now.get(name)
    ]
