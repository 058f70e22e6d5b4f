"""The views of a rank: reading and batching of frames."""

from bluesky_multislice.solvers.views.views import (
    FramesIn,
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
    "FramesIn",
    "Prefetcher",
    "ViewSet",
    "assign_lanes",
    "load_views",
    "make_batches",
    "share_held_back",
    "share_views",
    "split_views",
]
