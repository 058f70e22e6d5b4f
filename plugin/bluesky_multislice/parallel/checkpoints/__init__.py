"""Checkpoints of all ranks on shared storage."""
