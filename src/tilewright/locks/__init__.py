"""The right to write one output: one run has it at a time, and a run that has lost it writes nothing more."""
