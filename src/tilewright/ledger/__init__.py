"""The durable list of what is stored: one receipt for each unit, appended after its objects are in place."""
