"""From finished scans to flow runs."""

from bluesky_multislice.listener.handover import AUTOMATIC_TAG
from bluesky_multislice.listener.keys import tiled_key
from bluesky_multislice.listener.listener import listen
from bluesky_multislice.listener.wanted import WantedRun, automatic_key, finished_runs, wanted_run

__all__ = ["AUTOMATIC_TAG", "WantedRun", "automatic_key", "finished_runs", "listen", "tiled_key", "wanted_run"]
