"""One reader for each kind of source: Zarr, TIFF, Dask, arrays and functions."""
