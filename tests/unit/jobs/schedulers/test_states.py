import pytest

from bluesky_multislice.jobs.schedulers import JobState, JobStatus

NOT_ENDED = {JobState.PENDING, JobState.RUNNING, JobState.NOT_VISIBLE}


@pytest.mark.parametrize("state", sorted(set(JobState) - NOT_ENDED))
def test_final_states_have_ended(state):
    assert state.ended
    assert JobStatus(state).ended


@pytest.mark.parametrize("state", sorted(NOT_ENDED))
def test_waiting_running_and_unseen_jobs_have_not_ended(state):
    assert not state.ended
    assert not JobStatus(state).ended


def test_a_status_says_all_that_is_known():
    assert str(JobStatus(JobState.RUNNING)) == "running"
    full = JobStatus(JobState.FAILED, reason="NonZeroExitCode", exit_detail="exit status 1", restarts=2)
    assert str(full) == "failed (NonZeroExitCode, exit status 1, restarts 2)"
