"""The whole demo from the command line: every service a real process, nobody calls the flow."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
MULTISLICE = Path(sys.executable).with_name("multislice")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [MULTISLICE, "demo", "--technique", "holography", "--out", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out, json.loads((out / "report.json").read_text()), done.stdout


def test_multislice_beats_the_projection_model_on_the_same_frames(demo):
    _, report, _ = demo
    models = {outcome["model"]: outcome for outcome in report["reconstructions"]}
    assert set(models) == {"multislice", "projection"}
    multislice, projection = models["multislice"], models["projection"]
    assert multislice["run_uid"] == projection["run_uid"]
    assert multislice["figures"]["depths_of_field"] > 3
    assert multislice["relative_error"] < 0.8 * projection["relative_error"]
    assert multislice["correlation"] > projection["correlation"]
    assert multislice["held_back_r_factor"] < 0.5 * projection["held_back_r_factor"]


def test_every_stage_is_timed_and_everything_is_printed(demo):
    _, report, printed = demo
    flat = "".join(printed.split())
    for outcome in report["reconstructions"]:
        assert set(outcome["seconds"]) == {"start", "resolve", "plan", "stage", "reconstruct", "publish"}
        assert outcome["tiled_path"] in flat
        assert outcome["flow_run"]["name"].startswith(outcome["run_uid"][:8])
    assert report["tiled"] in printed
    assert report["prefect"] in printed
    picture = Path(report["pictures"]["holography"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in printed


def test_the_volumes_lie_where_tiled_reads_them_and_the_frames_are_stacks(demo):
    out, report, _ = demo
    volumes = sorted((out / "jobs").glob("*/*/result/volume.h5"))
    assert len(volumes) == 2
    for path in volumes:
        with h5py.File(path) as file:
            assert file["delta"].shape == (64, 64, 64)
            assert np.isfinite(file["delta"][()]).all()
            assert json.loads(file["provenance"][()])["origin"]["run_uid"] == report["reconstructions"][0]["run_uid"]
    assert list((out / "detector").glob("*.h5"))
    assert (out / "tiled" / "catalog.db").exists()


def test_the_listener_started_it(demo):
    out, report, _ = demo
    log = (out / "logs" / "listener.log").read_text()
    first = report["reconstructions"][0]
    assert f"Run {first['run_uid']} is flow run {first['flow_run']['id']}" in log


def test_no_process_is_left(demo):
    out, _, _ = demo
    left = []
    for process in psutil.process_iter():
        try:
            if str(out) in " ".join([*process.cmdline(), *process.environ().values()]):
                left.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    assert not left
