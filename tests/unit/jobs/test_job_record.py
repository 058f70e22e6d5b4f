"""The record of a job and its transitions."""

from dataclasses import replace

import pytest

from bluesky_multislice.errors import JobError
from bluesky_multislice.jobs import JobFolder, JobRecord, RecordState, write_json

SUBMITTED = JobRecord().submit(name="flow run", job_id="17")
RECORDS = {
    RecordState.STAGED: JobRecord(),
    RecordState.SUBMITTED: SUBMITTED,
    RecordState.PUBLISHED: SUBMITTED.publish("a/path"),
    RecordState.FAILED: SUBMITTED.fail("an error"),
    RecordState.CANCELLED: SUBMITTED.cancel("a person"),
}


@pytest.fixture
def folder(tmp_path):
    return JobFolder(tmp_path)


@pytest.mark.parametrize(("state", "record"), RECORDS.items())
def test_every_record_is_kept(folder, state, record):
    folder.write_record(record)
    assert folder.read_record() == record
    assert record.state is state
    assert state.ended == (state not in ("staged", "submitted"))


def test_a_folder_without_a_record_is_staged(folder):
    assert folder.read_record() == JobRecord()


def test_a_submission_forgets_the_earlier_job_and_its_cancellation(folder):
    folder.write_record(RECORDS[RecordState.CANCELLED])
    folder.cancelled.touch()
    folder.prepare_submission()
    assert folder.read_record() == JobRecord()
    folder.write_submission(name="flow run", job_id="18")
    assert folder.read_record() == replace(SUBMITTED, job_id="18")
    assert not folder.cancelled.exists()


@pytest.mark.parametrize("record", [RECORDS[state] for state in RecordState if state is not RecordState.STAGED])
def test_a_job_is_not_submitted_over_another(record):
    with pytest.raises(JobError, match="record without a job"):
        record.submit(name="flow run", job_id="18")


@pytest.mark.parametrize("record", [RECORDS[state] for state in RecordState if state is not RecordState.STAGED])
def test_an_adopted_job_has_no_outcome(record):
    assert record.reopen() == SUBMITTED


def test_a_record_without_a_job_cannot_be_reopened():
    with pytest.raises(JobError, match="record with a job"):
        JobRecord().fail("no answer").reopen()


@pytest.mark.parametrize("record", RECORDS.values())
def test_the_last_outcome_counts_but_a_published_volume_stays_published(record):
    published = record.state is RecordState.PUBLISHED
    assert record.fail("late") == (record if published else replace(record, state=RecordState.FAILED, message="late"))
    assert record.cancel("late").state is (RecordState.PUBLISHED if published else RecordState.CANCELLED)
    assert record.publish("b/path") == replace(record, state=RecordState.PUBLISHED, message="b/path")


def test_a_record_of_another_version_is_refused(folder):
    write_json(folder.record, JobRecord().as_dict() | {"version": 2})
    with pytest.raises(JobError, match="must have version 1"):
        folder.read_record()
