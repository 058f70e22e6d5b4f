"""Schedulers: submit, status, cancel, logs and adoption of reconstruction jobs, on the machine of a site profile."""

from bluesky_multislice.jobs.schedulers.following import (
    failure,
    follow,
    may_go_on,
    run_to_end,
    start_again,
    submit_once,
)
from bluesky_multislice.jobs.schedulers.local import LocalScheduler
from bluesky_multislice.jobs.schedulers.scheduler import Job, JobState, JobStatus, Scheduler
from bluesky_multislice.jobs.schedulers.site import Allocation, SiteProfile, allocate, machine_of, read_site
from bluesky_multislice.jobs.schedulers.slurm import SlurmScheduler

__all__ = [
    "Allocation",
    "Job",
    "JobState",
    "JobStatus",
    "LocalScheduler",
    "Scheduler",
    "SiteProfile",
    "SlurmScheduler",
    "allocate",
    "failure",
    "follow",
    "machine_of",
    "make_scheduler",
    "may_go_on",
    "read_site",
    "run_to_end",
    "start_again",
    "submit_once",
]


def make_scheduler(profile: SiteProfile) -> Scheduler:
    """Return the scheduler of a site."""
    return SlurmScheduler(profile) if profile.scheduler == "slurm" else LocalScheduler(profile)
