"""The whole demo from the command line: every service a real process, nobody calls the flow; its pages in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

BROWSER = shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="needs the Debian package chromium (make test installs it as root)"
)


def test_multislice_beats_the_projection_model_on_the_same_frames(demo):
    models = {outcome["model"]: outcome for outcome in demo.report["reconstructions"]}
    assert set(models) == {"multislice", "projection"}
    multislice, projection = models["multislice"], models["projection"]
    assert multislice["run_uid"] == projection["run_uid"]
    assert recipes_of(demo)["projection"] == recipes_of(demo)["multislice"] | {"propagation": "projection"}
    assert multislice["figures"]["depths_of_field"] > 3
    assert multislice["relative_error"] <= 0.8 * projection["relative_error"]
    assert multislice["correlation"] > projection["correlation"]
    assert multislice["held_back_r_factor"] <= 0.5 * projection["held_back_r_factor"]


def recipes_of(demo):
    jobs = [json.loads(path.read_text()) for path in (demo.out / "jobs").glob("*/*/job.json")]
    return {job["recipe"]["propagation"]: job["recipe"] for job in jobs}


def test_every_stage_is_timed_and_everything_is_printed(demo):
    report, printed = demo.report, demo.printed()
    for outcome in report["reconstructions"]:
        assert set(outcome["seconds"]) == {"start", "resolve", "plan", "stage", "reconstruct", "publish"}
        assert outcome["tiled_path"] in printed
        assert outcome["flow_run"]["name"].startswith(outcome["run_uid"][:8])
    assert report["tiled"] in printed
    assert report["prefect"] in printed
    picture = Path(report["pictures"]["holography"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in printed


def test_the_volumes_lie_where_tiled_reads_them(demo):
    volumes = sorted((demo.out / "jobs").glob("*/*/result/volume.h5"))
    assert len(volumes) == 2
    for path in volumes:
        with h5py.File(path) as file:
            assert file["delta"].shape == (64, 64, 64)
            assert np.isfinite(file["delta"][()]).all()
            assert (
                json.loads(file["provenance"][()])["origin"]["run_uid"] == demo.report["reconstructions"][0]["run_uid"]
            )
    assert list((demo.out / "detector").glob("*.h5"))
    assert (demo.out / "tiled" / "catalog.db").exists()


def test_the_listener_started_it(demo):
    log = (demo.out / "logs" / "listener.log").read_text()
    first = demo.report["reconstructions"][0]
    assert f"Run {first['run_uid']} is flow run {first['flow_run']['id']}" in log


def test_taken_ports_are_left_to_their_owners(demo):
    used = {int(demo.report[name].rpartition(":")[2]) for name in ("tiled", "prefect")}
    assert len(used) == 2
    assert not used & set(demo.taken_ports)


def look(address, folder):
    """Return the page's elements after its scripts have run, and its picture."""
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=20000",
        "--window-size=1400,1100",
    ]
    picture = folder / "page.png"
    done = subprocess.run(
        [str(BROWSER), *flags, f"--user-data-dir={folder}", f"--screenshot={picture}", "--dump-dom", address],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout, picture


@needs_browser
def test_the_flow_run_stands_in_the_prefect_page(demo, tmp_path):
    first = demo.report["reconstructions"][0]
    text, picture = look(f"{demo.report['prefect']}/runs/flow-run/{first['flow_run']['id']}", tmp_path)
    assert first["flow_run"]["name"] in text
    assert "Completed" in text
    assert picture.stat().st_size > 10_000


@needs_browser
def test_the_volume_stands_in_the_tiled_page(demo, tmp_path):
    first = demo.report["reconstructions"][0]
    login = re.search(r"api_key=([0-9a-f]+)", demo.printed())
    address = f"{demo.report['tiled']}/ui/browse/{first['tiled_path']}/delta/?api_key={login[1]}"
    text, picture = look(address, tmp_path)
    assert "delta" in text
    assert "64" in text
    assert picture.stat().st_size > 10_000
