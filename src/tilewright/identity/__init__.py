"""Identity of values, task graphs and models: equal in each process, different where results may differ."""
