"""The views of a rank: reading and batching of frames."""

from bluesky_multislice.solvers.views.amplitudes import Prefetcher
from bluesky_multislice.solvers.views.batches import (
    assign_lanes,
    make_batches,
    share_held_back,
    share_views,
    split_views,
)
from bluesky_multislice.solvers.views.views import ViewSet, load_views

__all__ = [
    "Prefetcher",
    "ViewSet",
    "assign_lanes",
    "load_views",
    "make_batches",
    "share_held_back",
    "share_views",
    "split_views",
]
