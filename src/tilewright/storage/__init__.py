"""Everything that touches a store: sources, outputs, encoding, and writing whole objects."""
