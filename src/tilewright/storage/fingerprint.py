"""What an output is made of has a name for each part, by which a run knows whether it may complete what is there."""

import json
from collections.abc import Iterator
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
_DIGESTED_NBYTES = 2**26
_PIECE_NBYTES = 2**20
_MOST_PARTS = 16


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
    if source.path is not None and source.path.is_file():
        status = source.path.stat()
        return f"file of {status.st_size} bytes, written at {status.st_mtime_ns / 1e9:.6f}{source.view}"
    opened = source.opened()
    if isinstance(opened, zarr.Array):
        text = json.dumps(array_metadata(opened), sort_keys=True)
        where = "" if source.path is not None else f" in {opened.store_path}"
        return f"Zarr array {xxh3_64(text.encode()).hexdigest()}{where}{source.view}"
    if isinstance(opened, np.ndarray):
        return f"array {array_digest(opened)}"
    return f"{type(opened).__module__}.{type(opened).__qualname__}{source.view}"


def array_digest(array: AnyArray) -> str:
    """Return a digest of an array: of all elements of a small one, of pieces spread evenly over a large one.

    Examples
    --------
    >>> array = np.arange(12).reshape(3, 4)
    >>> array_digest(array) == array_digest(np.asfortranarray(array)) != array_digest(array[::-1])
    True
    """
    digest = xxh3_64(repr(array.shape).encode())
    for piece in _pieces(array, _DIGESTED_NBYTES):
        digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _pieces(array: AnyArray, most_nbytes: int) -> Iterator[AnyArray]:
    """Iterate over parts of an array, of so many bytes together, at most, that are spread evenly over it."""
    if array.nbytes <= max(most_nbytes, array.itemsize) and array.nbytes <= _PIECE_NBYTES:
        yield array
    elif array.ndim == 1:
        length = max(1, min(most_nbytes, _PIECE_NBYTES) // array.itemsize)
        count = max(1, min(most_nbytes // (length * array.itemsize), -(-len(array) // length)))
        for start in np.linspace(0, len(array) - length, count).astype(int):
            yield array[start : start + length]
    elif array.nbytes <= most_nbytes and array.nbytes // len(array) <= _PIECE_NBYTES:
        length = max(1, _PIECE_NBYTES * len(array) // array.nbytes)
        for start in range(0, len(array), length):
            yield array[start : start + length]
    else:
        count = len(array) if array.nbytes <= most_nbytes else min(len(array), _MOST_PARTS)
        for index in np.linspace(0, len(array) - 1, count).astype(int):
            yield from _pieces(array[index], most_nbytes // count)
