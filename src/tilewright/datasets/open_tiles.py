"""Tiles that are still needed, in a file that all data-loader workers read.

A trainer starts its data-loader workers before the start of the prediction, so that a file alone reaches them.
"""

import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil

from tilewright.assemble import AnyArray
from tilewright.stores.put import write_file
from tilewright.stores.removal import remove_file

_NAME = re.compile(r"tilewright-(\d+)-[0-9a-f]{32}\.tiles(\.[0-9a-f]{32}\.partial)?")
"""Name of a file, with the number of the process that wrote it."""


class OpenTiles:
    """Tiles of a dataset that are still needed; all, before the first `keep`.

    Examples
    --------
    >>> tiles = OpenTiles()
    >>> list(tiles.needed(range(6)))
    [0, 1, 2, 3, 4, 5]
    >>> tiles.keep(np.array([False, False, True, False, False, False]), batch_size=2)
    >>> list(tiles.needed(range(6)))
    [2, 3]
    >>> tiles.keep_all()
    """

    def __init__(self) -> None:
        self._file = Path(tempfile.gettempdir()) / f"tilewright-{os.getpid()}-{uuid.uuid4().hex}.tiles"

    def keep(self, is_open: AnyArray, batch_size: int | None) -> None:
        """Write down the tiles that are needed.

        Parameters
        ----------
        is_open : array of bool
            One element per tile.
        batch_size : int or None
            Tiles per batch. A tile comes with all tiles of its batch, since the batch may change the last digits of a
            prediction.
        """
        # Those of killed processes.
        for name in os.listdir(self._file.parent):  # noqa: PTH208
            match = _NAME.fullmatch(name)
            if match is not None and not psutil.pid_exists(int(match[1])):
                remove_file(self._file.parent / name)
        header = np.array([batch_size or 1], np.int64).tobytes()
        write_file(self._file, [header, np.packbits(is_open.astype(bool)).tobytes()])

    def keep_all(self) -> None:
        """Forget the tiles: all are needed again."""
        remove_file(self._file)

    def needed(self, tiles: Iterable[int]) -> Iterator[int]:
        """Iterate over the needed tiles of one data-loader worker, in whole batches."""
        waiting = iter(tiles)
        yielded = 0
        while (known := self._read()) is None or yielded % known[0] != 0:
            tile = next(waiting, None)
            if tile is None:
                return
            yield tile
            yielded += 1
        batch_size, bits = known
        while batch := list(islice(waiting, batch_size)):
            if any(bits[tile >> 3] & (128 >> (tile & 7)) for tile in batch):
                yield from batch

    def _read(self) -> tuple[int, bytes] | None:
        try:
            raw = self._file.read_bytes()
        except FileNotFoundError:
            return None
        return int(np.frombuffer(raw[:8], np.int64)[0]), raw[8:]
