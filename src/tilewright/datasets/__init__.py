"""What a data loader reads from: images, samples and tiles, counted through all sources."""
