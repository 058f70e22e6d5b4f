"""The job folder, the job that torchrun starts on it, its provenance, and the schedulers that start it."""

from bluesky_multislice.jobs.job_folder import INTERRUPTED_STATUS, JobFolder, write_json
from bluesky_multislice.jobs.safe_names import safe_name

__all__ = [
    "INTERRUPTED_STATUS",
    "JobFolder",
    "safe_name",
    "write_json",
]
