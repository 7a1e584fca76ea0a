"""Identities of values, task graphs and models: equal in every process, different if results may differ."""
