"""Heartbeats of a flow."""

import threading

from bluesky_multislice.jobs import JobFolder
from flows.heartbeat import HEARTBEAT_TIMEOUT_S, has_heartbeat, heartbeat


def test_heartbeat_lasts_until_the_flow_ends(tmp_path):
    folder, file = JobFolder(tmp_path), tmp_path / "followed"
    with heartbeat(folder):
        while not file.exists():
            threading.Event().wait(0.01)
        touched = file.stat().st_mtime
        assert has_heartbeat(folder, now=touched)
        assert not has_heartbeat(folder, now=touched + HEARTBEAT_TIMEOUT_S)
    assert not has_heartbeat(folder, now=touched)
