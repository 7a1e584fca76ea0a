"""One run of one output: the loop between coordinator and executor, and what it records and reports."""
