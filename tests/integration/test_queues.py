"""Who goes first, on a real Prefect server: live scans before reruns, and no more jobs than there may be."""

from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from prefect.client.orchestration import get_client
from prefect.states import Running

from bluesky_multislice.cli.commands import multislice
from bluesky_multislice.listener import RequestedRun
from bluesky_multislice.listener.handover import start_flow_run
from bluesky_multislice.recipe import DEPLOYMENT, LIVE_QUEUE, POOL, RERUN_QUEUE, Recipe


@pytest.fixture
def client(prefect_server):
    """Prefect with the deployment for three jobs; made twice, the first time for others."""
    for jobs in ("9", "3"):
        assert CliRunner().invoke(multislice, ["deploy", "--jobs", jobs], catch_exceptions=False).exit_code == 0
    with get_client(sync_client=True) as client:
        remove_flow_runs(client)  # what other tests have left takes places
        yield client
        remove_flow_runs(client)


def remove_flow_runs(client):
    for flow_run in client.read_flow_runs():
        if flow_run.state is None or not flow_run.state.is_final():
            client.delete_flow_run(flow_run.id)


def rerun(client):
    """What a person asks for in the Prefect page."""
    deployment = client.read_deployment_by_name(DEPLOYMENT)
    return client.create_flow_run_from_deployment(deployment.id, parameters={"run_uid": "any"}).id


def offered(client):
    """The flow runs that a worker would get now, in its order."""
    soon = datetime.now(UTC) + timedelta(seconds=5)
    found = client.get_scheduled_flow_runs_for_work_pool(POOL, scheduled_before=soon)
    return [response.flow_run.id for response in found]


def test_live_scans_go_before_reruns_and_reruns_leave_them_room(client):
    reruns = [rerun(client) for _ in range(3)]
    live = start_flow_run(RequestedRun("scan", Recipe(), Recipe().digest()))
    queues = {client.read_flow_run(flow_run_id).work_queue_name for flow_run_id in reruns}
    assert queues == {RERUN_QUEUE}
    assert client.read_flow_run(live).work_queue_name == LIVE_QUEUE
    assert offered(client) == [live, *reruns[:2]]
    for flow_run_id in reruns[:2]:
        client.set_flow_run_state(flow_run_id, Running(), force=True)
    assert offered(client) == [live]
    client.set_flow_run_state(live, Running(), force=True)
    start_flow_run(RequestedRun("another scan", Recipe(), Recipe().digest()))
    assert offered(client) == []
