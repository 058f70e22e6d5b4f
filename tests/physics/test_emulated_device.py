"""Whole reconstructions on the emulated device give what processors give."""

import json
import os
import subprocess
import sys
from pathlib import Path

import emulated_device
import numpy as np
import pytest
from small_fits import CASES

pytestmark = [
    pytest.mark.skipif(emulated_device.why_not() is not None, reason=str(emulated_device.why_not())),
    pytest.mark.timeout(600),  # The first waits for the fits of all others.
]
FOLDER = Path(__file__).parent
SCRIPT = FOLDER / "run_small_fits.py"
MESHES = ["2x1", "1x2"]

LONG = {
    "finite-difference-wide",
    "refined angles, cubic",
    "refined angles, fourier",
    "smoothing by frames held back",
    "two halves",
    "point spread",
    "poisson",
    "intensity",
    "no absorption",
    "coarse first",
    "thin first",
    "patterns, recomputed",
    "patterns, checkpoints",
    "patterns without a probe",
    "one angle, wide",
    "one angle, resumed",
}
"""Cases that `make test-all` adds: their parts are in others."""

ON_TWO_RANKS = ["refined frames", "tiled-multislice", "patterns", "variations"]


def cases(names, long=LONG):
    return [pytest.param(name, marks=pytest.mark.matrix) if name in long else name for name in names]


def run(path, device, names, *, ranks=1):
    """Carry out small fits and return what was saved, and what the device said."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if device == "cuda":
        environment |= emulated_device.environment(devices=ranks)
    command = [sys.executable, *(torchrun if ranks > 1 else []), str(SCRIPT), str(path), device, "1", *names]
    paths = [str(FOLDER.parent), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stderr
    return np.load(path), json.loads(path.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def wanted(request):
    """Return the cases that this session's tests of this file are about."""
    own = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    asked = {item.callspec.params.get("case") for item in own}
    return [name for name in CASES if name in asked]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("small-fits")


@pytest.fixture(scope="module")
def on_processor(folder, wanted):
    return run(folder / "processor.npz", "cpu", wanted)[0]


@pytest.fixture(scope="module")
def on_device(folder, wanted):
    return run(folder / "device.npz", "cuda", wanted)


@pytest.fixture(scope="module")
def on_two_devices(folder):
    return run(folder / "devices.npz", "cuda", ON_TWO_RANKS, ranks=2)


def difference(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def check(found, mesh, expected, case):
    """What was found of a case on a mesh is what one processor finds."""
    names = [key.rpartition("/")[2] for key in expected.files if key.startswith(f"{case}/1x1/1/")]
    assert {"volume", "losses"} <= set(names)
    for name in names:
        got, want = found[f"{case}/{mesh}/1/{name}"], expected[f"{case}/1x1/1/{name}"]
        if not want.any():
            assert not got.any()
            continue
        # Of refined quantities 1e-3 was measured, as between two ways of rounding on a processor.
        bound = {"volume": 2e-5, "probe": 2e-5, "losses": 1e-4}.get(name, 5e-3)
        assert difference(got, want) < bound, name


@pytest.mark.parametrize("case", cases(CASES))
def test_a_device_gives_what_a_processor_gives(on_device, on_processor, case):
    found, said = on_device
    assert "failed" not in said[f"{case}/1x1/1"], said[f"{case}/1x1/1"]["failed"]
    assert not said[f"{case}/1x1/1"]["error"], "the host wrote over what was still being copied"
    check(found, "1x1", on_processor, case)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("case", ON_TWO_RANKS)
def test_two_devices_give_what_a_processor_gives(on_two_devices, on_processor, case, mesh):
    found, said = on_two_devices
    assert not said[f"{case}/{mesh}/1"]["error"]
    assert said[f"{case}/{mesh}/1"]["collective"], "what the ranks exchange goes from device to device"
    check(found, mesh, on_processor, case)


def test_the_device_forbids_what_a_gpu_forbids():
    """Its own tests, in a process that has two of them from its beginning."""
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    environment = os.environ | emulated_device.environment(devices=2)
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [*command, str(FOLDER / "emulated_device_rules.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
