"""Examples that run: ``python -m tilewright.examples.NAME``."""
