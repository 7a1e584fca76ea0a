"""What a Lightning trainer hands its predictions to."""

from tilewright.strategies.cache_tiles import CacheTiles
from tilewright.strategies.factory import create_write_strategy
from tilewright.strategies.write_image import WriteImage
from tilewright.strategies.write_strategy import WriteStrategy
from tilewright.strategies.write_tiles_zarr import WriteTilesZarr

__all__ = ["CacheTiles", "WriteImage", "WriteStrategy", "WriteTilesZarr", "create_write_strategy"]
