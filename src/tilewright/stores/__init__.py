"""A store of any kind is named, read, written, listed and emptied here, and nowhere else."""
