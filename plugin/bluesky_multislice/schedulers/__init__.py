"""Schedulers: submit, status, cancel and tail of reconstruction jobs."""

from bluesky_multislice.schedulers.local import LocalScheduler
from bluesky_multislice.schedulers.scheduler import JobState, Scheduler, run_to_end

__all__ = ["JobState", "LocalScheduler", "Scheduler", "run_to_end"]
