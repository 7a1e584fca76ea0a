"""Values and tiles on their way between this process and the workers of a cluster."""
