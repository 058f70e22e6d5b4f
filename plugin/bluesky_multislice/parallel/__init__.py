"""Ranks, slabs, exchange between ranks, and checkpoints: the only package that uses torch.distributed."""

from bluesky_multislice.parallel.agreement import Agreement
from bluesky_multislice.parallel.checkpoints import Checkpoints
from bluesky_multislice.parallel.exchange_rate import measured_rate
from bluesky_multislice.parallel.lateral import Lateral
from bluesky_multislice.parallel.launcher import end_with_failed_job, end_with_launcher
from bluesky_multislice.parallel.lost_rank import lost_rank
from bluesky_multislice.parallel.mesh import Mesh, end_process, join_mesh
from bluesky_multislice.parallel.plane_shares import PlaneShares, planes_are_shared
from bluesky_multislice.parallel.slab import Rows, Slab, check_rows, ranks_of_views
from bluesky_multislice.parallel.threads import THREADS, requested_threads

__all__ = [
    "THREADS",
    "Agreement",
    "Checkpoints",
    "Lateral",
    "Mesh",
    "PlaneShares",
    "Rows",
    "Slab",
    "check_rows",
    "end_process",
    "end_with_failed_job",
    "end_with_launcher",
    "join_mesh",
    "lost_rank",
    "measured_rate",
    "planes_are_shared",
    "ranks_of_views",
    "requested_threads",
]
