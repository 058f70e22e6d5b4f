"""Cheap jobs under the tests' Slurm: they do what ``job.json`` tells them, see sleeping_job."""

import json
from pathlib import Path

import pytest
from slurm_cluster import eventually, processes_of

from bluesky_multislice.jobs import JobFolder, write_json
from bluesky_multislice.jobs.schedulers import Allocation, SiteProfile, SlurmScheduler

MODULES = Path(__file__).parents[1] / "integration"
ONE = Allocation(memory_gb=1, walltime_minutes=10, cpus_per_task=1)
FOUR = Allocation(nodes=2, ranks_per_node=2, memory_gb=1, walltime_minutes=10, cpus_per_task=2)
GRACE_S = 8


def site(**fields):
    """The profile of the tests' cluster."""
    environment = {"PYTHONPATH": str(MODULES), "GLOO_SOCKET_IFNAME": "lo"} | fields.pop("environment", {})
    fields = {"nodes": 2, "ranks_per_node": 2, "memory_gb": 1} | fields
    return SiteProfile(scheduler="slurm", environment=environment, **fields)


def scheduler(**fields):
    """A scheduler of such jobs; a new one knows nothing of those that another submitted."""
    return SlurmScheduler(site(**fields), module="sleeping_job", grace_s=GRACE_S, poll_s=0.2)


def staged(path, **order):
    folder = JobFolder(path).create()
    write_json(folder.job, order)
    return folder


def ranks_of(folder, count):
    """What the ranks told when they had started."""
    paths = [folder.path / f"rank-{rank}.json" for rank in range(count)]
    eventually(lambda: all(path.exists() and path.stat().st_size for path in paths))
    return [json.loads(path.read_text()) for path in paths]


def ended(slurm, job):
    """The status of a job that has come to its end."""
    return eventually(lambda: (status := slurm.status(job)).ended and status)


@pytest.fixture
def room(cluster, tmp_path):
    """A folder for job folders, of whose jobs nothing is left after the test."""
    yield tmp_path
    left = cluster.ask("squeue", "--noheader", "--format=%i").split()
    if left:
        cluster.ask("scancel", *left)
    eventually(lambda: not cluster.ask("squeue", "--noheader", "--format=%i").split())
    assert not left, "a job was left behind"
    eventually(lambda: not [each for path in tmp_path.iterdir() for each in processes_of(path)], limit_s=10)
