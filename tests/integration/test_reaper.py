"""The reaper's table on a real Prefect server: every state of a record with every state of its flow run."""

from uuid import UUID, uuid4

import pytest
from held_flow_runs import reap
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

from bluesky_multislice.jobs import JobFolder, JobRecord, RecordState
from bluesky_multislice.recipe import DEPLOYMENT
from flows.deploy import deploy
from flows.reaper_table import FlowRunState

__all__ = ["reap"]

MESSAGE = "the state's message"
NAME = {"name": "flow run", "job_id": "none"}
RECORDS = {
    RecordState.STAGED: JobRecord(),
    RecordState.SUBMITTED: JobRecord().submit(**NAME),
    RecordState.PUBLISHED: JobRecord().submit(**NAME).publish("a/path"),
    RecordState.FAILED: JobRecord().submit(**NAME).fail("an error"),
    RecordState.CANCELLED: JobRecord().submit(**NAME).cancel("a person"),
}
# State of the flow run → action, its state afterwards, change of a record without an outcome.
EXPECTED = {
    FlowRunState.SCHEDULED: (None, "scheduled", None),
    FlowRunState.PENDING: ("run again", "scheduled", None),
    FlowRunState.RUNNING: ("run again", "scheduled", None),
    FlowRunState.PAUSED: (None, "paused", None),
    FlowRunState.CANCELLING: ("marked as cancelled", "cancelled", ("cancel", "The flow run was cancelled.")),
    FlowRunState.CANCELLED: (None, "cancelled", ("cancel", "The flow run was cancelled.")),
    FlowRunState.COMPLETED: (None, "completed", ("publish", MESSAGE)),
    FlowRunState.FAILED: (None, "failed", ("fail", MESSAGE)),
    FlowRunState.CRASHED: ("run again", "scheduled", None),
    FlowRunState.DELETED: (None, None, ("cancel", "its flow run was deleted")),
}
LOST_AFTER_PUBLICATION = (FlowRunState.RUNNING, FlowRunState.FAILED, FlowRunState.CRASHED)


@pytest.fixture(scope="module")
def client(prefect_server):
    deploy(jobs=1)
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def jobs_root(tmp_path, monkeypatch, tiled_server):
    monkeypatch.setenv("MULTISLICE_JOBS_ROOT", str(tmp_path))
    monkeypatch.setenv("MULTISLICE_TILED_URI", tiled_server.uri)
    monkeypatch.delenv("MULTISLICE_SITE", raising=False)
    return tmp_path


def flow_run_in(client, state):
    if state is FlowRunState.DELETED:
        return uuid4()
    deployment = client.read_deployment_by_name(DEPLOYMENT).id
    flow_run = client.create_flow_run_from_deployment(deployment, parameters={"run_uid": "scan"})
    if state is FlowRunState.CANCELLING:
        # Prefect marks a flow run that never ran as cancelled at once.
        client.set_flow_run_state(flow_run.id, State(type=StateType.RUNNING), force=True)
    wanted = State(type=StateType(state.upper()), name=state.capitalize(), message=MESSAGE)
    client.set_flow_run_state(flow_run.id, wanted, force=True)
    return flow_run.id


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_each_flow_run_of_a_silent_flow_gets_the_action_of_the_table(client, jobs_root, reap, record):
    ids = {state: flow_run_in(client, state) for state in FlowRunState}
    folders = {state: JobFolder.under(jobs_root, "scan", str(ids[state])).create() for state in FlowRunState}
    for folder in folders.values():
        folder.write_record(RECORDS[record])
    actions: dict[UUID, str] = reap()
    for state, (action, state_after, change) in EXPECTED.items():
        record_after = RECORDS[record]
        if record.ended:
            action, state_after = None, None if state is FlowRunState.DELETED else state
            if record is RecordState.PUBLISHED and state in LOST_AFTER_PUBLICATION:
                action, state_after = "marked as completed", "completed"
        elif change:
            record_after = getattr(record_after, change[0])(change[1])
        assert actions.get(ids[state]) == action, state
        assert folders[state].read_record() == record_after, state
        if state_after:
            assert client.read_flow_run(ids[state]).state.type.lower() == state_after, state


@pytest.mark.parametrize("record", [RecordState.STAGED, RecordState.SUBMITTED], ids=str)
def test_a_live_flow_is_left_alone_unless_prefect_reports_a_crash(client, jobs_root, reap, record, monkeypatch):
    monkeypatch.setattr("flows.heartbeat.HEARTBEAT_TIMEOUT_S", 600.0)
    ids = {state: flow_run_in(client, state) for state in FlowRunState}
    folders = {state: JobFolder.under(jobs_root, "scan", str(ids[state])).create() for state in FlowRunState}
    for folder in folders.values():
        folder.write_record(RECORDS[record])
        (folder.path / "followed").touch()
    assert reap() == {ids[FlowRunState.CRASHED]: "run again"}
    assert all(folder.read_record() == RECORDS[record] for folder in folders.values())


def test_a_crash_before_the_job_folder_is_run_again_once_tiled_answers(client, jobs_root, reap, monkeypatch):
    crashed, failed = (flow_run_in(client, state) for state in (FlowRunState.CRASHED, FlowRunState.FAILED))
    with monkeypatch.context() as away:
        away.setenv("MULTISLICE_TILED_URI", "http://127.0.0.1:1/api/v1?api_key=secret")
        assert reap() == {}
    assert reap() == {crashed: "run again"}
    assert client.read_flow_run(crashed).state.is_scheduled()
    assert client.read_flow_run(failed).state.is_failed()


def test_empty_torn_and_foreign_files_of_a_job_do_not_stop_the_others(client, jobs_root, reap):
    ids = [flow_run_in(client, FlowRunState.CRASHED) for _ in range(5)]
    folders = [JobFolder.under(jobs_root, "scan", str(each)).create() for each in ids]
    for folder, content in zip(folders, ["", '{"version"', "[]", '{"version": 1}'], strict=False):
        folder.record.write_text(content)
    assert reap() == {ids[-1]: "run again"}
