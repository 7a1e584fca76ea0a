"""Whole images: stitched from tiles, and written as TIFF, as Zarr, or by a function of the user."""
