"""Choices of a plan where a request leaves something open: chunks, shards, units, layout and coarser levels."""
