"""The views of a rank: frames in batches."""

from bluesky_multislice.solvers.views.views import (
    FramesIn,
    ReadAhead,
    ViewSet,
    in_batches,
    lanes_of,
    load_views,
    share_held_back,
    share_views,
    split_views,
)

__all__ = [
    "FramesIn",
    "ReadAhead",
    "ViewSet",
    "in_batches",
    "lanes_of",
    "load_views",
    "share_held_back",
    "share_views",
    "split_views",
]
