"""Stored objects and write units: encoded, put and digested once, checked against the ledger later."""
