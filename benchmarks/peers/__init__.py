"""Every way to write the volume that is measured, one module each; none is imported before it takes part."""
