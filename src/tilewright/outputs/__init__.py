"""One output in its store: its group and array, the inputs that it was begun from, and what it replaces."""
