"""A browser finds a volume on the Tiled server's own web page."""

import shutil
import subprocess

import numpy as np
import pytest
from tiled.client import from_uri
from tiled.server import SimpleTiledServer

BROWSER = shutil.which("chromium")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(BROWSER is None, reason="needs the Debian package chromium (make test installs it as root)"),
]


def page_text(address, profile):
    """Return the page's elements after its scripts have run."""
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=20000",
    ]
    done = subprocess.run(
        [str(BROWSER), *flags, "--dump-dom", address], capture_output=True, text=True, check=False, timeout=120
    )
    return done.stdout


def test_volume_is_on_the_web_page(tmp_path):
    with SimpleTiledServer(tmp_path / "tiled", api_key="secret") as server:
        client = from_uri(server.uri)
        client.create_container("reconstructions").write_array(np.zeros((3, 4, 5), np.float32), key="delta_of_a_grain")
        client.context.close()
        base = server.uri.split("/api")[0]
        text = page_text(f"{base}/ui/browse/reconstructions?api_key=secret", tmp_path / "browser")
    assert "delta_of_a_grain" in text
