import pytest

from bluesky_multislice.schedulers import JobState


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_final_states_have_ended(state):
    assert state.ended


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING])
def test_waiting_and_running_jobs_have_not_ended(state):
    assert not state.ended
