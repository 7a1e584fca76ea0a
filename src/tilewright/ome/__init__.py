"""Physical metadata of images: what OME-Zarr, OME-TIFF and ImageJ say, read and written."""
