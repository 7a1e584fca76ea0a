"""A run completes an existing output only if all named inputs are equal: image, model, plan and array."""

import json
from collections.abc import Sequence
from typing import Any

from tilewright.conversion import ValueRange
from tilewright.plan import WritePlan
from tilewright.sources.source import Source
from tilewright.sources.source_identity import source_identity
from tilewright.stores.metadata import HasMetadata, array_metadata

Fingerprint = dict[str, Any]
"""All inputs that stored bytes depend on, by name; JSON values."""

SOURCE_PATH = "source path"
SERIES = "source series"
VALUE_RANGE = "value range"
PREDICTED_BY = "predicted by"
CLUSTER = "predict_to_zarr"
"""Value of `PREDICTED_BY` for a run without a trainer."""


def fingerprint_of(
    source: Source,
    model: str,
    predicted_by: str,
    plan: WritePlan,
    arrays: Sequence[HasMetadata],
    value_range: ValueRange | None = None,
) -> Fingerprint:
    """Return the fingerprint of one output, with the identity of its model, and its arrays or templates of them."""
    metadata = array_metadata(arrays[0])
    fingerprint = {
        SOURCE_PATH: source.recorded_path,
        SERIES: source.series,
        "source": source_identity(source),
        "source axes": source.axes.names,
        "source shape": source.axes.shape,
        "source dtype": source.dtype.str,
        "model": model,
        PREDICTED_BY: predicted_by,
        "axes": plan.stored_axes or plan.axes,
        "samples apart": plan.is_collection,
        "shape": plan.shape,
        "dtype": plan.dtype,
        VALUE_RANGE: None if value_range is None else (value_range.lower, value_range.upper),
        "tile size": plan.tile_size,
        "overlap": plan.overlap,
        "padding": plan.padding,
        "layout": plan.layout,
        "chunks": plan.chunks,
        "shards": plan.shards,
        "blend": "valid regions",
        "levels": plan.factors,
        "reduction": plan.reduction,
        "zarr format": metadata["zarr_format"],
        "fill value": metadata["fill_value"],
        "codecs": metadata.get("codecs", [metadata.get("filters"), metadata.get("compressor")]),
    }
    # Tuples become lists, as in a file.
    loaded: Fingerprint = json.loads(json.dumps(fingerprint))
    return loaded


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Describe the differences of two fingerprints.

    Examples
    --------
    >>> differences({"chunks": [32, 32], "model": "a"}, {"chunks": [64, 64], "model": "a"})
    ['chunks: [32, 32] then, [64, 64] now']
    """
    names = dict.fromkeys([*before, *now])
    return [
        f"{name}: {before.get(name)} then, {now.get(name)} now" for name in names if before.get(name) != now.get(name)
    ]
