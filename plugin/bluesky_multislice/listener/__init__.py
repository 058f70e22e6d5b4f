"""The listener: starts a Prefect flow run for each finished scan that requests a reconstruction."""

from bluesky_multislice.listener.handover import AUTOMATIC_TAG
from bluesky_multislice.listener.history import BACKFILL_TAG, BackfilledRun, Selection, backfill
from bluesky_multislice.listener.keys import tiled_key
from bluesky_multislice.listener.listener import listen
from bluesky_multislice.listener.state import ListenerState
from bluesky_multislice.listener.wanted import RequestedRun, automatic_key, finished_runs, requested_run

__all__ = [
    "AUTOMATIC_TAG",
    "BACKFILL_TAG",
    "BackfilledRun",
    "ListenerState",
    "RequestedRun",
    "Selection",
    "automatic_key",
    "backfill",
    "finished_runs",
    "listen",
    "requested_run",
    "tiled_key",
]
