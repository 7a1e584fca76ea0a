"""One output as it lies in its store: the group and its array, what it was begun from, what it replaces."""
