"""Runs of other beamlines are passed over in silence."""

import pytest

from bluesky_multislice.listener import requested_run

STOP = {"exit_status": "success"}


@pytest.mark.parametrize(
    "start",
    [
        {},
        {"technique": ["ptychography", "xrf"], "multislice": {"auto": True}},
        {"technique": {"name": "ptychography"}, "multislice": {"auto": True}},
        {"technique": None, "multislice": {"auto": True}},
        {"technique": "saxs", "multislice": {"auto": True}},
        {"technique": "ptychography", "multislice": "yes"},
        {"technique": "ptychography", "multislice": {"auto": "true"}},
    ],
)
def test_runs_that_do_not_request_a_reconstruction(start):
    assert requested_run("uid", {"start": {"uid": "uid", **start}, "stop": STOP}) is None


def test_a_run_without_a_stop_document_is_not_started_automatically():
    start = {"technique": "ptychography", "multislice": {"auto": True, "recipe": {"scan": {"allow_aborted": True}}}}
    assert requested_run("uid", {"start": start, "stop": None}) is None
    found = requested_run("uid", {"start": start, "stop": {"exit_status": "abort"}})
    assert found is not None
    assert found.recipe.scan.allow_aborted
