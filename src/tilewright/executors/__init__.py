"""Instructions of the coordinator are carried out here: in one thread, in lanes of this process, or on a cluster."""
