"""The reaper's table: complete, and the same in the documentation."""

from itertools import product
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import StateType

from bluesky_multislice.jobs import JobFolder, RecordState
from flows.reap_jobs import job_folders
from flows.reaper_table import REAPER_TABLE, Action, Condition, FlowRunState, flow_run_state, reaper_table_lines

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "reaper.md"


def test_every_combination_is_in_the_table():
    assert set(REAPER_TABLE) == set(product(RecordState, FlowRunState))
    assert {rule.action for rule in REAPER_TABLE.values()} == set(Action)
    assert {rule.condition for rule in REAPER_TABLE.values()} == set(Condition)


def test_every_state_of_prefect_is_in_the_table():
    assert set(FlowRunState) == {kind.value.lower() for kind in StateType} | {"deleted"}
    assert flow_run_state(None) is FlowRunState.DELETED


@pytest.mark.parametrize(("record", "flow_run"), REAPER_TABLE)
def test_nothing_happens_to_a_job_with_a_live_flow_unless_prefect_has_reported_a_crash(record, flow_run):
    rule = REAPER_TABLE[record, flow_run]
    waits_for_silence = rule.condition in (Condition.NO_HEARTBEAT, Condition.QUIET)
    crashed = flow_run is FlowRunState.CRASHED and not record.ended
    assert waits_for_silence or rule.action is Action.NOTHING or crashed


def test_the_document_shows_the_table():
    lines = DOCUMENT.read_text().splitlines()
    assert [line for line in lines if line.startswith("|")] == list(reaper_table_lines())


def test_folders_are_found_by_their_flow_run(tmp_path):
    flow_run_id = uuid4()
    folder = JobFolder.under(tmp_path, "scan", str(flow_run_id)).create()
    (tmp_path / "scan" / "notes").mkdir()
    (tmp_path / "listener.json").touch()
    assert list(job_folders(tmp_path)) == [(flow_run_id, folder)]
