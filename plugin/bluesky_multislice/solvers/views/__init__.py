"""The views of a rank: reading and batching of frames."""

from bluesky_multislice.solvers.views.views import (
    Prefetcher,
    ViewSet,
    assign_lanes,
    load_views,
    make_batches,
    share_held_back,
    share_views,
    split_views,
)

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
