"""The durable list of stored units: one record for each unit, appended after its objects are stored."""
