"""A process that imports the job early ends with its owner, unless it has become the job."""

import subprocess
import sys
import time

import psutil

from bluesky_multislice.jobs import EarlyRanks, JobFolder


def processes_of(folder):
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder.path) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_without_an_order_it_is_killed(tmp_path):
    folder = JobFolder(tmp_path / "job").create()
    with EarlyRanks(folder):
        assert processes_of(folder)
    assert not processes_of(folder)


def test_it_ends_after_its_owner_was_killed(tmp_path):
    folder = JobFolder(tmp_path / "job").create()
    owner = (
        "import os, pathlib, sys\n"
        "from bluesky_multislice.jobs import EarlyRanks, JobFolder\n"
        "early = EarlyRanks(JobFolder(pathlib.Path(sys.argv[1])))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", owner, str(folder.path)], check=False).returncode == -9
    started = processes_of(folder)
    assert started
    _, left = psutil.wait_procs(started, timeout=60)
    assert not left
    assert folder.log.read_text() == ""


def test_one_that_has_ended_takes_no_order(tmp_path):
    with EarlyRanks(JobFolder(tmp_path / "job").create()) as early:
        processes_of(JobFolder(tmp_path / "job"))[0].kill()
        while processes_of(JobFolder(tmp_path / "job")):
            time.sleep(0.01)
        assert early.start(1, {}) is None
