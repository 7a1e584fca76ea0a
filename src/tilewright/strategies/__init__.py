"""What a Lightning trainer hands its predictions to."""

from tilewright.strategies.write_strategy import WriteStrategy
from tilewright.strategies.write_tiles_zarr import WriteTilesZarr

__all__ = ["WriteStrategy", "WriteTilesZarr"]
