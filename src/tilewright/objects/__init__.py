"""One stored object, and one unit of them: encoded, put and digested once, checked against the ledger later."""
