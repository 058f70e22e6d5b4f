"""What is refined beside the volume: quantities of the geometry, the probe and its variations."""
