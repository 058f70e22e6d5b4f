"""The only room that says torch.distributed."""

from bluesky_multislice.parallel.lateral import Lateral
from bluesky_multislice.parallel.mesh import Mesh, end_process, join_mesh
from bluesky_multislice.parallel.slab import Slab, check_rows, ranks_of_views

__all__ = ["Lateral", "Mesh", "Slab", "check_rows", "end_process", "join_mesh", "ranks_of_views"]
