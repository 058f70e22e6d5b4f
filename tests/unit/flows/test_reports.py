"""What a line of progress says, and that any scan gives a key that Prefect takes."""

import re
from datetime import UTC, datetime

import pytest

from flows.reports import artifact_key, progress_line

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_record_is_told_with_losses_pace_memory_and_end():
    record = {"epoch": 10, "loss": 0.012345, "held_back_loss": 0.02, "seconds": 30.0, "memory_bytes": 1.5e9}
    assert progress_line(record, 40, now=NOON) == (
        "Epoch 10 of 40: loss 0.01235, validation loss 0.02, 20 epochs per minute, done by 12:01:30 UTC at the latest, "
        "memory 1.5 GB per rank"
    )


def test_a_job_that_has_ended_is_not_said_to_end_later():
    record = {"epoch": 10, "loss": 0.5, "seconds": 30.0}
    assert progress_line(record, 40, ended=True) == "Epoch 10 of 40: loss 0.5, 20 epochs per minute"


def test_what_is_not_known_is_left_out():
    assert progress_line({"epoch": 1, "loss": 1.0, "held_back_loss": None}, 2) == "Epoch 1 of 2: loss 1"


@pytest.mark.parametrize("run_uid", ["0f8c-11", "A_b.C", "../x", "a\nb", "", "µ", "x" * 5000])
def test_any_scan_gives_a_key_that_prefect_takes(run_uid):
    key = artifact_key("progress", run_uid)
    assert re.fullmatch("[a-z0-9-]+", key)
    assert len(key) < 120
