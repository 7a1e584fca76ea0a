"""Sources of images, which are read window by window."""
