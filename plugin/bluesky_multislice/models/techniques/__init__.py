"""The techniques, one file each, and their registry."""
