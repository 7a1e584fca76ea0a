"""A small picture as PNG, by the standard library alone.

A report is also written on a node without extras, where a job has failed; a library for pictures would be one more
thing that may be missing there. Of the format, 8 bits and no filter are enough.
"""

import struct
from base64 import b64encode
from zlib import compress, crc32

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Colour type of the format, by the number of channels."""


def encode_png(pixels: Pixels) -> bytes:
    r"""Return a picture as the bytes of a PNG file.

    Parameters
    ----------
    pixels : array of uint8
        Picture YXC, with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels.

    Returns
    -------
    bytes
        The file.

    Examples
    --------
    >>> encode_png(np.zeros((2, 3, 1), np.uint8))[:8]
    b'\x89PNG\r\n\x1a\n'
    """
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    # Each row begins with the number of its filter.
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))
    chunks = ((b"IHDR", header), (b"IDAT", compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data)) for kind, data in chunks
    )


def data_url(pixels: Pixels) -> str:
    """Return a picture as a URL that holds it; as `encode_png`."""
    return f"data:image/png;base64,{b64encode(encode_png(pixels)).decode('ascii')}"
