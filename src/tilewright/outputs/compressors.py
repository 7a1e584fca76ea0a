"""Default compressor per data type, chosen by the benchmark `compressors`.

Blosc with bit shuffle groups bits of equal significance; the high bits of a prediction hardly change. The other bits of
floats are noise, which LZ4 passes several times faster than Zstandard, at the same size. Whole numbers often have few
values, which Zstandard compresses further.
"""

from typing import Any

import numcodecs
import numpy as np
from zarr.codecs import BloscCodec


def default_compressor(dtype: str, zarr_format: int) -> Any:
    """Return the default compressor of a data type, for Zarr format 3 or 2.

    Examples
    --------
    >>> default_compressor("float32", 2)
    Blosc(cname='lz4', clevel=5, shuffle=BITSHUFFLE, blocksize=0)
    >>> default_compressor("uint8", 2)
    Blosc(cname='zstd', clevel=1, shuffle=BITSHUFFLE, blocksize=0)
    """
    kind = np.dtype(dtype)
    name, level = ("lz4", 5) if kind.kind == "f" else ("zstd", 1)
    if zarr_format == 2:
        return numcodecs.Blosc(name, level, numcodecs.Blosc.BITSHUFFLE)
    return BloscCodec(cname=name, clevel=level, shuffle="bitshuffle", typesize=kind.itemsize)  # type: ignore[arg-type]
