"""The views of a rank: frames in batches."""
