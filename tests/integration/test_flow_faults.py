"""What may happen to a flow while its job runs: afterwards there is one job, a true state, and the volume if it can be.

The job is held (SIGSTOP) while the fault is made, so that it neither ends before nor depends on the machine's speed.
"""

import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from flow_runs import QUICK, eventually, log_of, run, served, worker
from held_flow_runs import LONG, Held, reap
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from real_services import TILED_KEY
from relay import Relay

from bluesky_multislice.catalog import find_reconstructions
from bluesky_multislice.cli.commands import multislice
from bluesky_multislice.demo.processes import free_port
from bluesky_multislice.errors import JobError
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.recipe import ServiceSettings
from flows.deploy import deploy
from flows.publication import publish_by_hand

pytestmark = pytest.mark.timeout(600)
__all__ = ["reap"]


@pytest.fixture
def client(services, deployment):
    with get_client(sync_client=True) as client:
        yield client


def test_a_flow_that_is_killed_and_killed_again_with_its_worker_ends_with_one_volume(client, take, reap, tiled_client):
    with ExitStack() as first:
        process = first.enter_context(worker())
        held = Held(client, take())
        held.hold()
        (rank,) = held.ranks()
        held.kill_flow()
        held.is_reported_as_crashed()
        assert reap() == {held.id: "run again"}
        held.follows_again(2)
        assert rank in held.job()
        process.kill()
        held.kill_flow()
    assert reap() == {}, "it gave a sign of life just now"
    held.seems_gone_for_long()
    assert reap() == {held.id: "run again"}
    with worker():
        held.follows_again(3)
        assert rank in held.job()
        held.release()
        held.completes()
    (only,) = find_reconstructions(tiled_client, held.uid)
    assert only.job_folder == str(held.folder.path)
    assert tiled_client[only.path].metadata["provenance"]["flow_run"]["attempts"] == 3
    assert held.folder.read_record().state == "published"
    for path in held.folder.path.rglob("*"):
        assert path.is_dir() or TILED_KEY.encode() not in path.read_bytes()
    assert TILED_KEY not in log_of(held.id)


def test_jobs_of_flow_runs_that_are_deleted_or_cancelled_while_nobody_looks_are_ended(client, take, reap, tiled_client):
    with ExitStack() as first:
        process = first.enter_context(worker())
        deleted, cancelled = Held(client, take()), Held(client, take())
        for held in (deleted, cancelled):
            held.hold()
        process.kill()
        for held in (deleted, cancelled):
            held.kill_flow()
            held.seems_gone_for_long()
    client.delete_flow_run(deleted.id)
    client.set_flow_run_state(cancelled.id, Cancelling(), force=True)
    assert reap() == {deleted.id: "job ended", cancelled.id: "job ended"}
    assert cancelled.run.state.is_cancelled()
    for held in (deleted, cancelled):
        assert not held.job()
        assert held.folder.read_record().state == "cancelled"
        assert not find_reconstructions(tiled_client, held.uid)
    assert reap() == {}


def test_a_result_whose_flow_run_was_deleted_is_published(client, take, reap, tiled_client):
    with ExitStack() as first:
        process = first.enter_context(worker())
        held = Held(client, take())
        held.hold()
        process.kill()
        held.kill_flow()
    held.release()
    eventually(lambda: held.folder.result.exists() and not held.job(), LONG)
    held.seems_gone_for_long()
    client.delete_flow_run(held.id)
    word = reap()[held.id]
    (only,) = find_reconstructions(tiled_client, held.uid)
    assert word == f"its flow run was deleted; its result is published at {only.path}"
    assert only.status == "complete"


def test_a_restart_of_the_prefect_server_costs_nothing(services, take, tiled_client, tmp_path):
    port = free_port(0)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}), ExitStack() as stack:
        with served(port, tmp_path):
            deploy(jobs=1)
            stack.enter_context(worker())
            with get_client(sync_client=True) as client:
                held = Held(client, take())
                held.hold()
        held.release()
        eventually(lambda: held.folder.result.exists() and not held.job(), LONG)
        with served(port, tmp_path):
            with get_client(sync_client=True) as client:
                held.client = client
                held.completes()
            stack.close()
    (only,) = find_reconstructions(tiled_client, held.uid)
    assert only.status == "complete"


@pytest.fixture
def relay(services, tiled_server, monkeypatch):
    """A relay through which the flow reaches Tiled."""
    found = Relay(tiled_server.port)
    monkeypatch.setenv("MULTISLICE_TILED_URI", f"http://127.0.0.1:{found.port}/api/v1")
    monkeypatch.setattr("flows.patience._PAUSE_S", 1.0)
    yield found
    found.close()


def while_running(uid, steps):
    """Run the flow while another thread takes steps, each a condition on the job folder and what happens then."""
    root = Path(os.environ["MULTISLICE_JOBS_ROOT"]) / uid

    def follow():
        for condition, happens in steps:
            eventually(lambda condition=condition: any(map(condition, map(JobFolder, root.glob("*")))), LONG)
            happens()

    with ThreadPoolExecutor(1) as others:
        followed = others.submit(follow)
        state = run(uid)
        followed.result()
    (path,) = root.glob("*")
    return state, JobFolder(path)


def test_tiled_may_be_away_when_a_flow_starts_and_when_it_publishes(relay, take, tiled_client):
    def opens_later():
        time.sleep(3)
        relay.open()

    steps = [
        (lambda folder: folder.path.exists(), opens_later),
        (lambda folder: folder.job.exists(), relay.close),
        (lambda folder: folder.result.exists(), opens_later),
    ]
    state, folder = while_running(uid := take(), steps)
    assert state.is_completed(), state.message
    (only,) = find_reconstructions(tiled_client, uid)
    assert only.complete
    assert folder.read_record().state == "published"
    eventually(lambda: log_of(state.state_details.flow_run_id).count("The Tiled server does not answer") >= 2)


def test_a_flow_that_tiled_was_away_from_for_long_goes_on_when_it_is_back(client, relay, take, reap, monkeypatch):
    monkeypatch.setenv("MULTISLICE_PATIENCE_S", "1")
    relay.open()
    with worker():
        held = Held(client, take())
        held.hold()
        relay.close()
        held.release()
        held.is_reported_as_crashed()
        assert held.folder.result.exists()
        assert reap() == {}, "the flow could only wait"
        relay.open()
        assert reap() == {held.id: "run again"}
        held.completes()
    assert held.folder.read_record().state == "published"


def test_a_result_whose_flow_has_no_attempt_left_is_published(relay, take, reap, monkeypatch, tiled_client):
    monkeypatch.setenv("MULTISLICE_PATIENCE_S", "1")
    relay.open()
    # This flow run has no deployment that could start it again.
    state, folder = while_running(uid := take(), [(lambda folder: folder.job.exists(), relay.close)])
    assert state.is_crashed()
    relay.open()
    (only,) = reap().items()
    assert only[0] == state.state_details.flow_run_id
    assert "its result is published at" in only[1]
    assert [found.complete for found in find_reconstructions(tiled_client, uid)] == [True]
    assert folder.read_record().state == "published"


def test_a_result_that_tiled_was_away_for_is_published_by_hand(relay, take, reap, monkeypatch, tiled_client):
    monkeypatch.setenv("MULTISLICE_PATIENCE_S", "1")
    relay.open()
    state, folder = while_running(uid := take(), [(lambda folder: folder.job.exists(), relay.close)])
    assert state.is_crashed()
    assert "MULTISLICE_PATIENCE_S" in state.message
    assert folder.read_record().state == "submitted"
    relay.open()
    (folder.path / "followed").touch()
    with pytest.raises(JobError, match="only after its flow has ended"):
        publish_by_hand(ServiceSettings.from_environment(), folder)
    (folder.path / "followed").unlink()
    listed = CliRunner().invoke(multislice, ["jobs"], catch_exceptions=False).output
    assert f"{folder.path}" in listed
    assert "run the flow run again" in listed
    done = CliRunner().invoke(multislice, ["publish", str(folder.path)], catch_exceptions=False)
    (only,) = find_reconstructions(tiled_client, uid)
    assert only.path in done.output
    assert only.complete
    assert reap() == {state.state_details.flow_run_id: "marked as completed"}


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A disk of a megabyte for the job folders."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]).returncode:
        pytest.skip("needs the right to mount a disk")
    monkeypatch.setenv("MULTISLICE_JOBS_ROOT", str(place))
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_read_only_or_full_is_named_in_the_flows_state(services, take, small_disk, tiled_client):
    uid = take()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    state = run(uid)
    assert state.is_failed()
    assert "Read-only file system" in state.message
    assert "Remedy: " in state.message
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    (small_disk / "frames of others").write_bytes(bytes(shutil.disk_usage(small_disk).free - 16_384))
    state = run(uid)
    assert state.is_failed()
    assert "make room" in state.message
    assert not find_reconstructions(tiled_client, uid)


def test_a_job_that_ends_without_a_result_fails_with_its_log(services, take, monkeypatch, tmp_path, tiled_client):
    uid, site = take(), tmp_path / "site.toml"
    site.write_text('scheduler = "local"\npython = "/bin/true"\n')
    monkeypatch.setenv("MULTISLICE_SITE", str(site))
    state = run(uid)
    assert state.is_failed()
    assert "A job must end with a result." in state.message
    assert not find_reconstructions(tiled_client, uid)


def test_hostile_names_reach_neither_a_shell_nor_a_path(services, take, tmp_path, monkeypatch, tiled_client):
    hostile = "'; touch hit; \"$(touch hit)\n#SBATCH --x ../../" + "x" * 2000
    monkeypatch.chdir(tmp_path)
    uid = take(sample_name=hostile, sample={"name": hostile}, plan_name=hostile)
    assert run(uid).is_completed()
    root = Path(os.environ["MULTISLICE_JOBS_ROOT"])
    before = set(root.parent.iterdir())
    state = run(f"../{hostile}", QUICK)
    assert state.is_failed()
    assert "The run must be in the catalogue." in state.message
    assert set(root.parent.iterdir()) == before
    assert not list(tmp_path.rglob("hit"))
