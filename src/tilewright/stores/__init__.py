"""Stores of any kind: names, reads, puts, lists and removals."""
