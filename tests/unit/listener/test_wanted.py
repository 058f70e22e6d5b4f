"""Runs of other beamlines are passed over in silence."""

import re

import pytest

from bluesky_multislice.listener import requested_run
from bluesky_multislice.listener.handover import shortened

STOP = {"exit_status": "success"}


@pytest.mark.parametrize(
    "start",
    [
        {},
        {"technique": None, "multislice": {"auto": True}},
        {"technique": "saxs", "multislice": {"auto": True}},
        {"technique": "ptychography", "multislice": "yes"},
        {"technique": "ptychography", "multislice": {"auto": "true"}},
    ],
)
def test_runs_that_do_not_request_a_reconstruction(start):
    assert requested_run("uid", {"start": {"uid": "uid", **start}, "stop": STOP}) is None


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"technique": ["ptychography", "xrf"]}, "must name a single technique"),
        ({"technique": {"name": "ptychography"}}, "must name a single technique"),
        ({"technique": "holography", "recipe": []}, r"must be a mapping.*Got: \[\]"),
        ({"technique": "holography", "recipe": 0}, "must be a mapping.*Got: 0"),
        ({"technique": "holography", "recipe": ""}, "must be a mapping.*Got: ''"),
        ({"technique": "holography", "recipe": ["x" * 3_000_000]}, "must be a mapping"),
        ({"technique": "holography", "recipe": {"x" * 3_000_000: 1}}, "Extra inputs"),
    ],
)
def test_a_wrong_request_is_an_error_and_a_short_one(start, words):
    options = {"auto": True} | ({"recipe": start["recipe"]} if "recipe" in start else {})
    found = requested_run("uid", {"start": {"technique": start["technique"], "multislice": options}, "stop": STOP})
    assert found is not None
    assert found.digest.startswith("invalid-")
    assert re.search(words, str(found.recipe), re.DOTALL)
    assert len(shortened(str(found.recipe))) < 5000


def test_a_run_without_a_stop_document_is_not_started_automatically():
    start = {"technique": "ptychography", "multislice": {"auto": True, "recipe": {"scan": {"allow_aborted": True}}}}
    assert requested_run("uid", {"start": start, "stop": None}) is None
    found = requested_run("uid", {"start": start, "stop": {"exit_status": "abort"}})
    assert found is not None
    assert found.recipe.scan.allow_aborted
