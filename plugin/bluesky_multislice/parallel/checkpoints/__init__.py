"""Checkpoints of all ranks on shared storage."""

from bluesky_multislice.parallel.checkpoints.checkpoints import Checkpoints

__all__ = [
    "Checkpoints",
]
