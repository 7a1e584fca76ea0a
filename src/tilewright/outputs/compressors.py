"""What chunks go through where nobody says is what serves predictions best, as `benchmarks.compressors` measures it.

Blosc puts the bits of equal significance of all elements together, of which the high ones of a prediction hardly
change. What is left of floats is noise, which LZ4 skips at several times the speed of Zstandard and with the same
result; whole numbers, of few values often, are worth Zstandard.
"""

from typing import Any

import numcodecs
import numpy as np
from zarr.codecs import BloscCodec


def default_compressor(dtype: str, zarr_format: int) -> Any:
    """Return the compressor of an array, of Zarr 3 or 2.

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
