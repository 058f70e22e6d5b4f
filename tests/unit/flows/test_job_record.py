"""What a flow leaves in the job folder, and that no scan leads out of the jobs root."""

import os
import threading
from uuid import uuid4

import pytest

from bluesky_multislice.errors import JobError
from bluesky_multislice.jobs import JobFolder
from flows.job_record import (
    HEARTBEAT_TIMEOUT_S,
    Outcome,
    clear_outcome,
    explain_write_errors,
    has_heartbeat,
    heartbeat,
    job_folders,
    read_outcome,
    write_outcome,
)

HOSTILE = [
    "../../etc",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "$(touch x)",
    "a\n#SBATCH --x",
    "'\"; rm -rf",
    "x" * 5000,
    "µ",
]


@pytest.mark.parametrize("run_uid", HOSTILE)
def test_no_run_leads_out_of_the_jobs_root(tmp_path, run_uid):
    folder = JobFolder.under(tmp_path, run_uid, str(uuid4())).create()
    assert folder.path.resolve().parent.parent == tmp_path.resolve()
    assert folder.path.is_dir()


def test_runs_keep_apart_and_plain_ones_keep_their_name(tmp_path):
    assert len({JobFolder.under(tmp_path, run_uid, "1").path for run_uid in HOSTILE}) == len(HOSTILE)
    uid = str(uuid4())
    assert JobFolder.under(tmp_path, uid, "1").path == tmp_path / uid / "1"


def test_an_outcome_is_kept_until_it_is_forgotten(tmp_path):
    folder = JobFolder(tmp_path)
    assert read_outcome(folder) is None
    write_outcome(folder, Outcome("failed", "why"))
    assert read_outcome(folder) == Outcome("failed", "why")
    clear_outcome(folder)
    assert read_outcome(folder) is None


def test_a_full_disk_does_not_hide_the_error_that_was_to_be_kept(tmp_path):
    folder = JobFolder(tmp_path / "missing")
    write_outcome(folder, Outcome("failed", "why"))
    assert read_outcome(folder) is None


def test_a_flow_gives_signs_of_life_until_it_ends(tmp_path):
    folder, sign = JobFolder(tmp_path), tmp_path / "followed"
    with heartbeat(folder):
        while not sign.exists():
            threading.Event().wait(0.01)
        touched = sign.stat().st_mtime
        assert has_heartbeat(folder, now=touched)
        assert not has_heartbeat(folder, now=touched + HEARTBEAT_TIMEOUT_S)
    assert not has_heartbeat(folder, now=touched)


def test_folders_are_found_by_their_flow_run(tmp_path):
    flow_run_id = uuid4()
    folder = JobFolder.under(tmp_path, "scan", str(flow_run_id)).create()
    (tmp_path / "scan" / "notes").mkdir()
    os.mknod(tmp_path / "listener.json")
    assert list(job_folders(tmp_path)) == [(flow_run_id, folder)]


def test_a_filesystem_that_does_not_take_it_is_named(tmp_path):
    (tmp_path / "file").touch()
    folder = JobFolder(tmp_path / "file" / "job")
    with (
        pytest.raises(JobError, match=r"writable by the flow, and have free space.*Not a directory"),
        explain_write_errors(folder),
    ):
        folder.job.write_text("")
