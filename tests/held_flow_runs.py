"""A flow run whose job is held (SIGSTOP) until the test has done what it wants, and the reaper that sees to it."""

import os
import time
from pathlib import Path

import psutil
import pytest
from flow_runs import eventually, log_of
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType

from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.recipe import DEPLOYMENT, Recipe, ServiceSettings
from flows import reap_jobs

RECIPE = Recipe(epochs=30, ranks=1, held_back_every=0)
LONG = 240
LAUNCHER = "bluesky_multislice.parallel.start_ranks"


class Held:
    """A flow run whose job waits for the test."""

    def __init__(self, client, uid, recipe=RECIPE):
        self.client, self.uid = client, uid
        parameters = {"run_uid": uid, "recipe": recipe.model_dump(mode="json")}
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        self.id = client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id
        self.folder = JobFolder(Path(os.environ["MULTISLICE_JOBS_ROOT"]) / uid / str(self.id))

    @property
    def run(self):
        return self.client.read_flow_run(self.id)

    def job(self):
        return processes(lambda process: process.cmdline()[-1:] == [str(self.folder.path)])

    def ranks(self):
        # Before it is submitted, a process that has imported the job waits.
        job = self.job() if self.folder.read_record().job_id else []
        own = {process.pid for process in job}
        # A single rank on this machine has no launcher.
        return [process for process in job if process.ppid() in own or not is_module(process, LAUNCHER)]

    def hold(self):
        eventually(self.ranks, LONG)
        for process in self.job():
            process.suspend()

    def release(self):
        for process in self.job():
            process.resume()

    def kill_flow(self):
        """End the flow's process and leave it no time for anything."""
        found = processes(lambda process: process.environ().get("PREFECT__FLOW_RUN_ID") == str(self.id))
        assert found
        for process in found:
            process.kill()

    def is_reported_as_crashed(self):
        """The worker is done with the flow run: one that comes again while its hooks run ends Prefect's worker."""
        eventually(lambda: self.run.state.is_crashed(), LONG)
        eventually(lambda: "kept for the next attempt" in log_of(self.id), LONG)
        time.sleep(10)

    def follows_again(self, attempt):
        """The flow run has been started again and looks after the job it had."""
        eventually(lambda: self.run.run_count == attempt and self.run.state.is_running(), LONG)
        eventually(lambda: log_of(self.id).count("Adopted job") == attempt - 1, LONG)

    def seems_gone_for_long(self):
        (self.folder.path / "followed").touch()
        os.utime(self.folder.path / "followed", (0, 0))

    def completes(self, limit_s=LONG):
        eventually(lambda: self.run.state.is_final(), limit_s)
        assert self.run.state.is_completed(), self.run.state.message
        eventually(lambda: not self.job())


def is_module(process, name):
    """Whether a process runs a module of Python: the first that its command line names."""
    words = process.cmdline()
    return words[words.index("-m") + 1] == name


def processes(wanted):
    found = []
    for process in psutil.process_iter():
        try:
            if wanted(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def reap(monkeypatch):
    """Looks after what is left as if the flows had been gone for long; what earlier tests left is no part of it."""
    crashed = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])))
    with get_client(sync_client=True) as client:
        for left in client.read_flow_runs(flow_run_filter=crashed):
            client.delete_flow_run(left.id)
    for patience in ("HEARTBEAT_TIMEOUT_S", "_CRASH_SETTLING_S"):
        monkeypatch.setattr(reap_jobs, patience, 0.0)
    return lambda: {
        reaped.flow_run_id: reaped.action for reaped in reap_jobs.reap_jobs(ServiceSettings.from_environment())
    }
