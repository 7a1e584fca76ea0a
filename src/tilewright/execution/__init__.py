"""Who does what the coordinator asks for, and where: in this thread, in this process, or on a cluster."""
