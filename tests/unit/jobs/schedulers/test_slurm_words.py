"""What Slurm's words mean here, and which of them end a job."""

import pytest

from bluesky_multislice.jobs.environment import slurm_environment, without_secrets
from bluesky_multislice.jobs.schedulers import JobState, JobStatus
from bluesky_multislice.jobs.schedulers.slurm_states import (
    can_never_start,
    exit_detail,
    job_rows,
    last_accounting_status,
    parse_job_record,
    state_from_slurm,
)

RECORD = (
    "JobId=7 JobName=JobStateish UserId=root(0) Requeue=1 JobState={state} Reason={reason} Dependency=(null) "
    "Restarts={restarts} ExitCode={code} Comment=JobState=COMPLETED Restarts=9 WorkDir=/a b/JobState=FAILED"
)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", JobState.PENDING),
        ("CONFIGURING", JobState.PENDING),
        ("REQUEUED", JobState.PENDING),
        ("RUNNING", JobState.RUNNING),
        ("COMPLETING", JobState.RUNNING),
        ("SUSPENDED", JobState.RUNNING),
        ("COMPLETED", JobState.COMPLETED),
        ("FAILED", JobState.FAILED),
        ("CANCELLED", JobState.CANCELLED),
        ("CANCELLED by 1000", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        ("OUT_OF_ME+", JobState.OUT_OF_MEMORY),
        ("PREEM+", JobState.PREEMPTED),
        ("RE+", JobState.RUNNING),
        ("TIMEOUT", JobState.TIMEOUT),
        ("DEADLINE", JobState.TIMEOUT),
        ("OUT_OF_MEMORY", JobState.OUT_OF_MEMORY),
        ("NODE_FAIL", JobState.NODE_FAILURE),
        ("BOOT_FAIL", JobState.NODE_FAILURE),
        ("PREEMPTED", JobState.PREEMPTED),
        ("A_WORD_OF_THE_FUTURE", JobState.RUNNING),
        ("", JobState.RUNNING),
    ],
)
def test_states(word, state):
    assert state_from_slurm(word) is state


def test_a_record_is_read_with_the_first_of_each_name():
    waits = parse_job_record(RECORD.format(state="PENDING", reason="QOSMaxJobsPerUserLimit", restarts=2, code="0:0"))
    assert waits == JobStatus(JobState.PENDING, reason="QOSMaxJobsPerUserLimit", restarts=2)
    failed = parse_job_record(RECORD.format(state="FAILED", reason="NonZeroExitCode", restarts=0, code="1:0"))
    assert failed == JobStatus(JobState.FAILED, reason="NonZeroExitCode", exit_detail="exit status 1")
    done = parse_job_record(RECORD.format(state="COMPLETED", reason="None", restarts=0, code="0:0"))
    assert done == JobStatus(JobState.COMPLETED)


@pytest.mark.parametrize(
    ("code", "words"), [("0:0", ""), ("", ""), ("1:0", "exit status 1"), ("0:9", "signal 9"), ("75", "exit status 75")]
)
def test_exit_codes_in_words(code, words):
    assert exit_detail(code) == words


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("", None),
        ("\n", None),
        ("COMPLETED|0:0\n", JobStatus(JobState.COMPLETED)),
        ("PREEMPTED|0:0\nNODE_FAIL|1:0\nFAILED|1:0\n", JobStatus(JobState.FAILED, exit_detail="exit status 1")),
        ("NODE_FAIL|1:0\nRUNNING|0:0\n\n", JobStatus(JobState.RUNNING)),
        ("FAILED|1:0\nCANCELLED by 1000|0:15\n", JobStatus(JobState.CANCELLED, exit_detail="signal 15")),
    ],
)
def test_the_last_attempt_of_a_requeued_job_counts(answer, status):
    assert last_accounting_status(answer) == status


def test_array_tasks_heterogeneous_jobs_and_steps_are_no_jobs_of_ours():
    answer = "70_[1-9]|/a\n70_[1,3-9%2]|/a\n70_3|/a\n72+0|/a\n71.batch|/a\n71.0|/a\nslurm: a warning\n71|/a|b\n\n"
    assert list(job_rows(answer)) == [("71", "/a|b")]


@pytest.mark.parametrize(
    "reason",
    [
        "PartitionConfig",
        "PartitionTimeLimit",
        "BadConstraints",
        "InvalidQOS",
        "QOSMaxNodePerJobLimit",
        "AssocMaxCpuPerJobLimit",
    ],
)
def test_reasons_that_waiting_does_not_mend(reason):
    assert can_never_start(JobStatus(JobState.PENDING, reason=reason))
    assert not can_never_start(JobStatus(JobState.RUNNING, reason=reason))


@pytest.mark.parametrize(
    "reason", ["Resources", "Priority", "BeginTime", "QOSMaxJobsPerUserLimit", "AssocGrpCpuLimit", "PartitionDown", ""]
)
def test_reasons_that_pass(reason):
    assert not can_never_start(JobStatus(JobState.PENDING, reason=reason))


def test_keys_and_the_tools_defaults_stay_outside():
    plain = {"PATH": "/bin", "HOME": "/root", "SLURM_CONF": "/etc/slurm.conf"}
    keys = {"TILED_API_KEY": "x", "PREFECT_API_URL": "x", "aws_secret_access": "x", "GH_TOKEN": "x", "DB_PASSWORD": "x"}
    defaults = {"SBATCH_EXPORT": "ALL", "SLURM_JOB_ID": "1", "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "x"}
    assert without_secrets(plain | keys) == plain
    assert slurm_environment(plain | keys | defaults) == plain
