"""Lock of an output: at most one run writes an output at a time."""
