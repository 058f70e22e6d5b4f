"""What a person sees: the flow run in the Prefect page, the volume in the Tiled page, in a headless browser."""

import re
import shutil
import subprocess

import pytest

BROWSER = shutil.which("chromium")
pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(900),
    pytest.mark.skipif(BROWSER is None, reason="needs the Debian package chromium (make test installs it as root)"),
]


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


def test_the_flow_run_stands_in_the_prefect_page(demo, tmp_path):
    first = demo.report["reconstructions"][0]
    text, picture = look(f"{demo.report['prefect']}/runs/flow-run/{first['flow_run']['id']}", tmp_path)
    assert first["flow_run"]["name"] in text
    assert "Completed" in text
    assert picture.stat().st_size > 10_000


def test_the_volume_stands_in_the_tiled_page(demo, tmp_path):
    first = demo.report["reconstructions"][0]
    login = re.search(r"api_key=([0-9a-f]+)", demo.printed())
    address = f"{demo.report['tiled']}/ui/browse/{first['tiled_path']}/delta/?api_key={login[1]}"
    text, picture = look(address, tmp_path)
    assert "delta" in text
    assert "64" in text
    assert picture.stat().st_size > 10_000
