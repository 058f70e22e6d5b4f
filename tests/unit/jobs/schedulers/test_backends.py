"""Scheduler backends by name: this package's, and the one of the documentation, offered by another package."""

import re
from pathlib import Path

import pytest
from installed_package import installed

from bluesky_multislice.errors import SchedulerError
from bluesky_multislice.jobs import JobFolder, RecordState
from bluesky_multislice.jobs.schedulers import (
    JobState,
    LocalScheduler,
    SiteProfile,
    SlurmScheduler,
    allocate,
    machine_of,
    make_scheduler,
    read_site,
    schedulers,
    submit_once,
)
from bluesky_multislice.jobs.schedulers.backends import GROUP
from bluesky_multislice.recipe import Resources

DOCUMENT = Path(__file__).parents[4] / "docs" / "how-to" / "add-a-scheduler-backend.md"
(PYTHON,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
(ENTRY_POINT,) = re.findall(r'^spool = "(.*)"$', DOCUMENT.read_text(), re.MULTILINE)


@pytest.fixture
def facility(tmp_path, monkeypatch):
    """A package is installed that offers the documentation's scheduler."""
    points = {"module": "facility_spool", "group": GROUP, "points": {"spool": ENTRY_POINT}}
    with installed(tmp_path, monkeypatch, schedulers, source=PYTHON, **points):
        yield


@pytest.fixture
def site(facility, tmp_path):
    (tmp_path / "spool").mkdir()
    path = tmp_path / "site.toml"
    lines = ('scheduler = "spool"', "nodes = 2", "ranks_per_node = 4", "memory_gb = 16", "[environment]")
    path.write_text("\n".join((*lines, f'SPOOL = "{tmp_path / "spool"}"')))
    return read_site(path)


def test_the_packages_own_backends():
    assert isinstance(make_scheduler(SiteProfile()), LocalScheduler)
    profile = SiteProfile(scheduler="slurm", nodes=1, ranks_per_node=1, memory_gb=1)
    assert isinstance(make_scheduler(profile), SlurmScheduler)


def test_another_packages_backend_runs_jobs_on_the_nodes_of_its_site(site, tmp_path):
    assert machine_of(site, Resources()).places == 8
    allocation = allocate(site, Resources(), ranks=8)
    assert (allocation.nodes, allocation.ranks_per_node) == (2, 4)
    folder = JobFolder(tmp_path / "job").create()
    scheduler = make_scheduler(site)
    job = submit_once(scheduler, folder, name="flow-run", allocation=allocation)
    assert scheduler.status(job).state is JobState.PENDING
    assert scheduler.active_jobs() == {"flow-run": "flow-run"}
    assert folder.read_record().state is RecordState.SUBMITTED
    assert submit_once(make_scheduler(site), folder, name="flow-run", allocation=allocation) == job
    folder.result.touch()
    (tmp_path / "spool" / "flow-run").unlink()
    assert scheduler.status(job).state is JobState.COMPLETED


def test_another_packages_backend_cancels(site, tmp_path):
    scheduler, folder = make_scheduler(site), JobFolder(tmp_path / "job").create()
    job = submit_once(scheduler, folder, name="flow-run", allocation=allocate(site, Resources(), ranks=1))
    scheduler.cancel(job)
    assert scheduler.status(job).state is JobState.CANCELLED


def test_without_the_package_its_name_is_refused(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text('scheduler = "spool"')
    with pytest.raises(SchedulerError, match="unknown scheduler; known are local, slurm"):
        read_site(path)
