"""The model of a user, which predicts one batch of tiles at a time."""
