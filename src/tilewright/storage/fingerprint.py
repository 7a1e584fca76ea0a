"""What an output is made of has a name for each part, by which a run knows whether it may complete what is there."""

import json
from typing import Any

import numpy as np
import zarr
from xxhash import xxh3_64
from zarr.core.buffer import default_buffer_prototype

from tilewright.assemble import AnyArray
from tilewright.plan import WritePlan
from tilewright.storage.source import Source

Fingerprint = dict[str, Any]
"""All that stored bytes follow from, by name; values as JSON has them."""

SOURCE_PATH = "source path"
PREDICTED_BY = "predicted by"
CLUSTER = "predict_to_zarr"
"""Who predicts where it is no trainer."""
_PIECE_NBYTES = 2**16
_MOST_PIECES = 1024


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
        SOURCE_PATH: str(source.path.resolve()) if source.path is not None else None,
        "source": identity_of(source),
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


def array_metadata(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return the metadata of an array as they are stored, without its attributes, which anybody may change."""
    documents = array.metadata.to_buffer_dict(default_buffer_prototype())
    document = documents["zarr.json" if array.metadata.zarr_format == 3 else ".zarray"]
    metadata: dict[str, Any] = json.loads(document.to_bytes())
    metadata.pop("attributes", None)
    return metadata


def identity_of(source: Source) -> str:
    """Return what tells a source from others at its path: the size and time of a file, the layout of a Zarr array.

    Of an array in memory it is a digest of its elements, or of 64 MiB of them. Of what is computed when it is read, as
    an array of Dask is, nothing is known but its type.
    """
    opened = source.opened()
    if isinstance(opened, zarr.Array):
        text = json.dumps(array_metadata(opened), sort_keys=True)
        where = "" if source.path is not None else f" in {opened.store_path}"
        return f"Zarr array {xxh3_64(text.encode()).hexdigest()}{where}"
    if source.path is not None and source.path.is_file():
        status = source.path.stat()
        return f"file of {status.st_size} bytes, written at {status.st_mtime_ns / 1e9:.6f}"
    if isinstance(opened, np.ndarray):
        return f"array {array_digest(opened)}"
    return f"{type(opened).__module__}.{type(opened).__qualname__}"


def array_digest(array: AnyArray) -> str:
    """Return a digest of an array: of all elements of a small one, of pieces spread evenly over a large one.

    Examples
    --------
    >>> array = np.arange(12).reshape(3, 4)
    >>> array_digest(array) == array_digest(np.asfortranarray(array)) != array_digest(array[::-1])
    True
    """
    digest = xxh3_64()
    rows = array.reshape(1, -1) if array.ndim < 2 else array.reshape(-1, array.shape[-1])
    rows_per_piece = max(1, _PIECE_NBYTES // max(1, rows[:1].nbytes))
    pieces = -(-len(rows) // rows_per_piece)
    for piece in range(0, pieces, max(1, pieces // _MOST_PIECES)):
        start = piece * rows_per_piece
        digest.update(np.ascontiguousarray(rows[start : start + rows_per_piece]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
