"""Datasets for prediction: images, samples and tiles, counted through all sources."""
