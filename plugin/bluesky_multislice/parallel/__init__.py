"""The only room that says torch.distributed."""

from bluesky_multislice.parallel.mesh import Mesh, join_mesh

__all__ = ["Mesh", "join_mesh"]
