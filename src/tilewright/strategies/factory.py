"""One place decides which strategy writes what: by the kind of output, and whether predictions are tiles."""

from typing import TYPE_CHECKING, Any

from tilewright.images.image_writer import WriteFunc
from tilewright.images.tiff import write_tiff
from tilewright.images.zarr import write_zarr
from tilewright.strategies.cache_tiles import CacheTiles
from tilewright.strategies.write_image import WriteImage
from tilewright.strategies.write_strategy import WriteStrategy
from tilewright.strategies.write_tiles_zarr import WriteTilesZarr

if TYPE_CHECKING:
    from distributed import Client

WRITE_TYPES = ("tiff", "zarr", "custom")


def create_write_strategy(
    write_type: str,
    tiled: bool,
    write_func: WriteFunc | None = None,
    write_extension: str | None = None,
    write_func_kwargs: dict[str, Any] | None = None,
    *,
    client: "Client | None" = None,
    axes: str = "STCZYX",
) -> WriteStrategy:
    """Return the strategy for a kind of output.

    Parameters
    ----------
    write_type : {"tiff", "zarr", "custom"}
        The kind of output.
    tiled : bool
        Whether predictions are tiles, or whole samples.
    write_func, write_extension
        As in `CacheTiles`, for ``"custom"``; the other kinds have their own.
    write_func_kwargs : dict, optional
        Further keywords of the function that writes; for tiles to Zarr those of `WriteTilesZarr`.
    client, axes
        As in `CacheTiles` and `WriteTilesZarr`.

    Returns
    -------
    WriteStrategy
        `WriteTilesZarr` for tiles to Zarr, `CacheTiles` for other tiles, else `WriteImage`.

    Raises
    ------
    ValueError
        If the kind is unknown, or ``"custom"`` lacks its function or its extension.

    Examples
    --------
    >>> type(create_write_strategy("tiff", tiled=True)).__name__
    'CacheTiles'
    """
    if write_type not in WRITE_TYPES:
        raise ValueError(f"write_type must be one of {WRITE_TYPES}, got {write_type!r}")
    kwargs = write_func_kwargs or {}
    if write_type == "zarr" and tiled:
        return WriteTilesZarr(**{"client": client, "axes": axes} | kwargs)
    if write_type != "custom":
        write_func, write_extension = (write_tiff, ".tiff") if write_type == "tiff" else (write_zarr, ".zarr")
    if write_func is None or write_extension is None:
        missing = "write_func" if write_func is None else "write_extension"
        raise ValueError(f"write_type 'custom' needs a write_func and a write_extension; {missing} is missing")
    strategy = CacheTiles if tiled else WriteImage
    return strategy(write_func, write_extension, kwargs, client=client, axes=axes)
