"""Real jobs of several ranks that are killed or asked to stop, and go on."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import numpy as np
import psutil
import pytest
from failing_disk import fail, failing_disk
from forked_jobs import run_job
from small_scan import hologram_scan

from bluesky_multislice.errors import JobError
from bluesky_multislice.files import read_provenance, read_volume, write_scan
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import Allocation, Job, JobState, LocalScheduler, may_resume, run_and_wait
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from flows.owned_job import OwnedJob

__all__ = ["failing_disk"]

RANKS, EPOCHS = 2, 40
ALLOCATION = Allocation(ranks_per_node=RANKS)
EVERY_SIGNAL = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def stage(path, **recipe):
    folder, scan = JobFolder(path).create(), hologram_scan()
    asked = {
        "ranks": RANKS,
        "epochs": EPOCHS,
        "held_back_every": 4,
        "checkpoint_every": 1,
        "device": "cpu",
        "mesh": "2x1",
    }
    settings = Recipe(**(asked | recipe))
    write_scan(folder.frames, scan)
    plan = make_plan(settings, scan).as_dict()
    folder.write_job(recipe=settings.model_dump(mode="json"), plan=plan, origin={})
    return folder


@contextmanager
def started(folder):
    """The ranks as a batch script starts them; whatever is left of them in the end is killed."""
    command = [sys.executable, "-u", "-m", "bluesky_multislice.parallel.start_ranks", f"--nproc-per-node={RANKS}"]
    own = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PET_SIGNALS_TO_HANDLE": EVERY_SIGNAL}
    with folder.log.open("ab") as log:
        agent = subprocess.Popen(
            [*command, "-m", "bluesky_multislice.jobs.job", str(folder.path)],
            env=os.environ | own,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    family = [psutil.Process(agent.pid)]
    try:
        yield agent
    finally:
        if agent.poll() is None:
            family += family[0].children(recursive=True)
            for process in family:
                process.kill()
            agent.wait()


def finish(folder, ranks=RANKS):
    assert run_job(folder, ranks) == 0, folder.log.read_text()
    return {
        "loss": [(row["loss"], row["held_back_loss"]) for row in folder.read_progress()],
        "delta": read_volume(folder.result).delta,
        "provenance": read_provenance(folder.result),
    }


def wait_for(what, limit_s=200):
    end = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def checkpoints(folder):
    return [path for path in folder.checkpoints.glob("0*") if path.suffix != ".part"]


def ranks_of(agent):
    """The processes of the ranks, in the order of their numbers."""
    return sorted(psutil.Process(agent.pid).children(), key=lambda process: process.pid)


def kill(agent):
    """Kill the launcher, and see that its ranks go with it."""
    ranks = ranks_of(agent)
    assert ranks
    agent.kill()
    assert agent.wait(20) == -signal.SIGKILL
    assert not psutil.wait_procs(ranks, timeout=5)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the job gives that nothing disturbs."""
    return finish(stage(tmp_path_factory.mktemp("whole") / "job"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a job that was asked to stop when it had two checkpoints; for copies."""
    folder = stage(tmp_path_factory.mktemp("stopped") / "job")
    with started(folder) as agent:
        wait_for(lambda: len(checkpoints(folder)) == 2)
        folder.request_stop()
        assert agent.wait(60) == 1
    return folder


def copy(folder, path):
    return JobFolder(shutil.copytree(folder.path, path))


def assert_same_course(found, whole):
    np.testing.assert_allclose(found["loss"], whole["loss"], rtol=1e-5)
    distance = np.linalg.norm(found["delta"] - whole["delta"])
    assert distance < 1e-5 * np.linalg.norm(whole["delta"])


def test_a_job_that_is_done_keeps_no_checkpoints_and_was_never_resumed(whole):
    assert len(whole["loss"]) == EPOCHS
    assert whole["provenance"]["machine"]["restarts"] == 0
    assert whole["provenance"]["warnings"] == []


def test_a_job_that_was_killed_twice_ends_as_if_it_had_not_been(whole, tmp_path):
    folder = stage(tmp_path / "job")
    for _ in range(2):
        before = {path.name for path in checkpoints(folder)}
        with started(folder) as agent:
            wait_for(lambda before=before: {path.name for path in checkpoints(folder)} - before)
            wait_for(lambda: len(folder.read_progress()) > 3)
            kill(agent)
    found = finish(folder)
    assert_same_course(found, whole)
    resumed = found["provenance"]["machine"]["resumed"]
    assert found["provenance"]["machine"]["restarts"] == len(resumed) == 2
    assert 0 < resumed[0]["epoch"] < resumed[1]["epoch"] <= EPOCHS
    assert not folder.checkpoints.exists()


@pytest.mark.parametrize("ask", ["SIGTERM", "SIGUSR1", "stop-request", "SIGUSR1 to a rank"])
def test_a_job_that_is_asked_to_stop_says_so_and_goes_on_later(ask, whole, tmp_path):
    folder = stage(tmp_path / "job", checkpoint_every=1000)
    with started(folder) as agent:
        wait_for(lambda: len(folder.read_progress()) > 2)
        ranks = ranks_of(agent)
        if ask == "stop-request":
            folder.request_stop()
        elif ask == "SIGUSR1 to a rank":
            ranks[1].send_signal(signal.SIGUSR1)
        else:
            agent.send_signal(signal.Signals[ask])
        assert agent.wait(60) == 1
    stopped = folder.read_interrupted()
    assert stopped["reason"] == ask.split()[0]
    assert len(folder.read_progress()) == stopped["epoch"] > 2
    assert folder.read_error() is None
    assert not folder.result.exists()
    assert f"resumes from epoch {stopped['epoch']}" in folder.log.read_text()
    if ask in ("stop-request", "SIGUSR1 to a rank"):  # the launcher tells nothing of ranks when it is asked itself
        assert "exitcode  : 75" in folder.log.read_text()
    found = finish(folder)
    assert_same_course(found, whole)
    assert found["provenance"]["machine"]["resumed"] == [{"epoch": stopped["epoch"], "ranks": RANKS}]
    assert folder.read_interrupted() is None


@pytest.mark.parametrize(("ranks", "mesh"), [(1, "1x1"), (2, "1x2"), (4, "2x2")])
def test_a_job_goes_on_on_another_mesh(ranks, mesh, whole, stopped, tmp_path):
    folder = copy(stopped, tmp_path / "job")
    epoch = folder.read_interrupted()["epoch"]
    stage(folder.path, ranks=ranks, mesh=mesh)
    found = finish(folder, ranks)
    assert found["provenance"]["machine"]["resumed"] == [{"epoch": epoch, "ranks": ranks}]
    np.testing.assert_allclose(found["loss"], whole["loss"], rtol=1e-3)
    assert np.linalg.norm(found["delta"] - whole["delta"]) < 1e-3 * np.linalg.norm(whole["delta"])


def test_a_job_in_slabs_that_was_killed_ends_as_if_it_had_not_been(whole, tmp_path):
    folder = stage(tmp_path / "job", mesh="1x2")
    with started(folder) as agent:
        wait_for(lambda: checkpoints(folder) and len(folder.read_progress()) > 3)
        kill(agent)
    found = finish(folder)
    assert found["provenance"]["machine"]["restarts"] == 1
    np.testing.assert_allclose(found["loss"], whole["loss"], rtol=1e-3)
    assert np.linalg.norm(found["delta"] - whole["delta"]) < 1e-3 * np.linalg.norm(whole["delta"])


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_ends_the_job_within_seconds(victim, tmp_path):
    folder = stage(tmp_path / "job", epochs=2000)
    with started(folder) as agent:
        wait_for(lambda: len(folder.read_progress()) > 1)
        ranks = ranks_of(agent)
        ranks[victim].kill()
        began = time.monotonic()
        assert agent.wait(60) == 1
        assert time.monotonic() - began < 20  # 1.5 s on a quiet machine
    assert not [process for process in ranks if process.is_running()]
    log = folder.log.read_text()
    assert "Traceback" in log
    assert "Signal 9 (SIGKILL)" in log
    assert "a rank of the job has ended" in folder.read_error().got
    assert folder.read_interrupted() is None


def test_of_a_torn_checkpoint_the_one_before_is_taken_and_the_provenance_says_so(whole, tmp_path):
    folder = stage(tmp_path / "job")
    with started(folder) as agent:
        wait_for(lambda: len(checkpoints(folder)) == 2)
        folder.request_stop()
        agent.wait(60)
    newest, epoch = max(checkpoints(folder)), folder.read_interrupted()["epoch"]
    file = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-100])
    found = finish(folder)
    assert_same_course(found, whole)
    (warning,) = found["provenance"]["warnings"]
    assert f"checkpoint of epoch {epoch} is damaged" in warning


def test_checkpoints_of_another_plan_are_refused(tmp_path):
    folder = stage(tmp_path / "job")
    with started(folder) as agent:
        wait_for(lambda: checkpoints(folder))
        folder.request_stop()
        agent.wait(60)
    stage(folder.path, seed=1)
    with started(folder) as agent:
        assert agent.wait(100) == 1
    error = folder.read_error()
    assert isinstance(error, JobError)
    assert "another plan" in error.got
    assert "remove" in error.remedy


def test_a_cancelled_job_is_cancelled_and_leaves_a_checkpoint(tmp_path):
    folder, scheduler = stage(tmp_path / "job", epochs=5000, checkpoint_every=1000), LocalScheduler()
    job = scheduler.submit(folder, name="me", allocation=ALLOCATION)
    try:
        wait_for(lambda: len(folder.read_progress()) > 1)
    finally:
        scheduler.cancel(job)
    assert scheduler.status(job).state is JobState.CANCELLED
    assert folder.read_interrupted()["reason"] == "SIGTERM"
    assert checkpoints(folder)


def test_a_job_whose_launcher_was_killed_has_failed_and_goes_on(tmp_path):
    """Long enough that ranks which compute on would be seen."""
    folder, scheduler = stage(tmp_path / "job", epochs=5000), LocalScheduler()
    job = scheduler.submit(folder, name="me", allocation=ALLOCATION)
    wait_for(lambda: checkpoints(folder))
    agent, *ranks = [process for process in psutil.process_iter() if str(folder.path) in words_of(process)]
    assert len(ranks) == RANKS
    agent.kill()
    wait_for(lambda: scheduler.status(job).ended, 5)
    status = scheduler.status(job)
    assert (status.state, status.exit_detail) == (JobState.FAILED, "ended by signal 9")
    assert may_resume(job, status)
    assert not psutil.wait_procs(ranks, timeout=5)[1]


def words_of(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_scheduler_says_that_a_job_was_interrupted_and_what_to_do(tmp_path):
    folder, scheduler = stage(tmp_path / "job", epochs=5000), LocalScheduler()

    def ask(record):
        if record["epoch"] == 3:
            folder.request_stop()

    with pytest.raises(JobError, match=r"stop-request.*start it again in the same folder"):
        run_and_wait(scheduler, folder, name="me", allocation=ALLOCATION, on_progress=ask)
    for one in (scheduler, LocalScheduler()):
        assert one.status(Job(str(folder.path), folder)).state is JobState.INTERRUPTED


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"only one who may mount has a small disk: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_with_a_full_disk_the_run_goes_on_and_the_last_good_checkpoint_stays(small_disk, whole):
    folder, ballast = stage(small_disk / "job"), small_disk / "ballast"

    def full_and_said():
        # Again and again: old checkpoints that are removed would make room for a new one.
        with suppress(OSError), ballast.open("ab") as file:
            file.write(bytes(max(0, shutil.disk_usage(small_disk).free - 2**16)))
        return "could not be written" in folder.log.read_text()

    with started(folder) as agent:
        wait_for(lambda: len(checkpoints(folder)) == 2)
        wait_for(full_and_said)
        before = len(folder.read_progress())
        wait_for(lambda: len(folder.read_progress()) > before + 1)
        kill(agent)
    ballast.unlink()
    found = finish(folder)
    assert_same_course(found, whole)
    assert found["provenance"]["machine"]["restarts"] == 1
    warnings = found["provenance"]["warnings"]
    assert warnings
    for warning in warnings:
        assert "could not be written" in warning
        assert float(re.search(r"; (\S+) MiB of the disk were free", warning)[1]) < 0.1


def test_a_disk_that_turns_read_only_fails_the_job_which_goes_on_when_it_is_back(failing_disk, whole):
    folder = stage(failing_disk / "job")
    # Frames that were staged some time ago are on the disk.
    os.sync()
    attempt = OwnedJob(LocalScheduler(), folder, name="me", most_restarts=3, log=logging.getLogger(__name__))

    def lose_the_disk(record):
        if record["epoch"] == 3:
            fail(failing_disk)

    with pytest.raises(JobError, match=r"writable by the flow.*Read-only file system"):
        attempt.run(ALLOCATION, on_progress=lose_the_disk, on_status=lambda status: None)
    assert not [process for process in psutil.process_iter() if str(folder.path) in words_of(process)]
    subprocess.run(["umount", failing_disk], check=True)
    subprocess.run(["mount", "-o", "loop", failing_disk.with_name("image"), failing_disk], check=True)
    assert_same_course(finish(folder), whole)
