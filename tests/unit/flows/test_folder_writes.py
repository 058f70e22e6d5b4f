"""Writes of a flow into its job folder: errors are explained, and a refused outcome hides no other error."""

import pytest

from bluesky_multislice.errors import JobError
from bluesky_multislice.jobs import JobFolder, RecordState
from flows.folder_writes import explain_write_errors, record_outcome


def test_outcome_is_recorded(tmp_path):
    folder = JobFolder(tmp_path)
    record_outcome(folder, lambda record: record.fail("why"))
    assert (folder.read_record().state, folder.read_record().message) == (RecordState.FAILED, "why")


def test_outcome_that_cannot_be_written_does_not_hide_the_error_that_it_records(tmp_path):
    folder = JobFolder(tmp_path / "missing")
    record_outcome(folder, lambda record: record.fail("why"))
    assert folder.read_record().state is RecordState.STAGED


def test_filesystem_error_names_the_folder_and_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    folder = JobFolder(tmp_path / "file" / "job")
    with (
        pytest.raises(JobError, match=r"writable by the flow, and have free space.*Not a directory"),
        explain_write_errors(folder),
    ):
        folder.job.write_text("")
