"""The job folder, the job that runs in it, the provenance of its result, and the schedulers."""

from bluesky_multislice.jobs.early_ranks import EarlyRanks
from bluesky_multislice.jobs.job_folder import INTERRUPTED_STATUS, JobFolder, write_json
from bluesky_multislice.jobs.job_record import JobRecord, RecordState
from bluesky_multislice.jobs.safe_names import safe_name

__all__ = [
    "INTERRUPTED_STATUS",
    "EarlyRanks",
    "JobFolder",
    "JobRecord",
    "RecordState",
    "safe_name",
    "write_json",
]
