"""Runnable examples: ``python -m tilewright.examples.NAME``."""
