"""Flow runs as a person meets them: started, waited for, and read back from Prefect with their logs."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.settings import get_current_settings

from bluesky_multislice.demo.processes import Service
from bluesky_multislice.recipe import Recipe
from flows.reconstruct_scan import reconstruct_scan

ROOT = Path(__file__).parents[1]
QUICK = Recipe(epochs=2, ranks=1, held_back_every=4)
"""One rank: a second one costs five seconds of a core and shows nothing of flows."""


def run(run_uid, recipe=QUICK):
    """Run the flow in this process and return its state."""
    return reconstruct_scan(run_uid, recipe, return_state=True)


def log_of(flow_run_id):
    """What Prefect's server has of a flow run's log and of its tasks' logs."""
    with get_client(sync_client=True) as client:
        lines = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
    return "\n".join(line.message for line in lines)


@contextmanager
def service(command, *words):
    """Run a command that is installed beside this Python, in the test's settings."""
    environment = os.environ | {
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    process = subprocess.Popen([Path(sys.executable).with_name(command), *words], env=environment, cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def served(port, home):
    """A Prefect server of the test's own, ended as a whole."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    server = Service.start("prefect", command, os.environ | {"PREFECT_HOME": str(home)}, home)
    try:
        server.wait_until(lambda: answers(f"http://127.0.0.1:{port}/api/health"))
        yield
    finally:
        server.stop()


def answers(address):
    try:
        return httpx.get(address).is_success
    except httpx.HTTPError:
        return False


def worker():
    """Run a worker of the deployment's pool."""
    return service("prefect", "worker", "start", "--pool", "multislice", "--type", "process", "--limit", "2")


def eventually(condition, limit_s=90):
    end = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)
    return value
