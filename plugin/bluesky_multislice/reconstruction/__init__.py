"""The reconstruction itself, what it starts from, and the expected frames of a volume."""
