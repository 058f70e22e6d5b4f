"""The only room that says torch.distributed."""

from bluesky_multislice.parallel.lateral import Lateral
from bluesky_multislice.parallel.mesh import Mesh, end_process, join_mesh

__all__ = ["Lateral", "Mesh", "end_process", "join_mesh"]
