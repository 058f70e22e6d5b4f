"""Schedulers: submit, query, cancel and adopt reconstruction jobs on the machine that a site profile describes."""

from bluesky_multislice.jobs.schedulers.backends import make_scheduler, schedulers
from bluesky_multislice.jobs.schedulers.following import (
    job_error,
    may_resume,
    monitor_job,
    run_and_wait,
    submit_once,
    submit_or_resume,
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
    "job_error",
    "machine_of",
    "make_scheduler",
    "may_resume",
    "monitor_job",
    "read_site",
    "run_and_wait",
    "schedulers",
    "submit_once",
    "submit_or_resume",
]
