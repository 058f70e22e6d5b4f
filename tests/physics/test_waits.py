"""Within a step of a fit the host does not wait for the device, and uploads only frames."""

import json
import os
import subprocess
import sys
from pathlib import Path

import emulated_device
import pytest

pytestmark = [
    pytest.mark.skipif(emulated_device.why_not() is not None, reason=str(emulated_device.why_not())),
    pytest.mark.timeout(600),  # The first waits for the fits of all others.
]

FOLDER = Path(__file__).parent
CASES = [
    "holograms",
    "adam",
    "refined frames",
    "frames on disk",
    "tiled-multislice",
    "finite-difference",
    "patterns",
    "patterns of one angle",
]
FRAMES = "solvers/views/views.py:"
"""Functions that load a batch of frames."""


@pytest.fixture(scope="module")
def waits(tmp_path_factory):
    path = tmp_path_factory.mktemp("waits") / "waits.json"
    environment = os.environ | emulated_device.environment() | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(FOLDER.parent)])
    command = [sys.executable, str(FOLDER / "waits_per_step.py"), str(path), *CASES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.mark.parametrize("case", CASES)
def test_the_host_waits_for_nothing_in_a_step_but_frames(waits, case):
    assert waits[case]["steps"] > 0
    assert [each for each in waits[case]["waits"] if not each[1]["where"].startswith(FRAMES)] == []
