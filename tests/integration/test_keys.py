"""Where flows have the Tiled server's key from: a Secret block, which neither log nor job folder repeats."""

import os
from pathlib import Path

import pytest
from flow_runs import eventually, log_of, run
from prefect.blocks.system import Secret
from real_services import TILED_KEY

from bluesky_multislice.catalog import find_reconstructions

BLOCK = "tiled-key-of-a-test"


@pytest.fixture
def keep(services, monkeypatch):
    """Keeps a key in the block, which is the only place to find one."""
    monkeypatch.delenv("TILED_API_KEY")
    monkeypatch.setenv("MULTISLICE_TILED_KEY_BLOCK", BLOCK)
    yield lambda key: Secret(value=key).save(BLOCK, overwrite=True)
    Secret.delete(BLOCK)


def test_a_flow_opens_tiled_with_the_key_of_a_secret_block(keep, take, tiled_client):
    uid = take()
    keep("another-key")
    assert run(uid).is_failed()
    keep(TILED_KEY)
    state = run(uid)
    assert state.is_completed(), state.message
    (only,) = find_reconstructions(tiled_client, uid)
    flow_run_id = state.state_details.flow_run_id
    log = eventually(lambda: "Published at" in (text := log_of(flow_run_id)) and text)
    assert TILED_KEY not in log
    folder = Path(os.environ["MULTISLICE_JOBS_ROOT"]) / uid / str(flow_run_id)
    assert only.job_folder == str(folder)
    for path in folder.rglob("*"):
        assert path.is_dir() or TILED_KEY.encode() not in path.read_bytes()


def test_a_block_that_does_not_exist_is_named(services, take, monkeypatch):
    monkeypatch.setenv("MULTISLICE_TILED_KEY_BLOCK", "no-such-block")
    state = run(take())
    assert state.is_failed()
    assert "must name a Secret block" in state.message
    assert "no-such-block" in state.message
